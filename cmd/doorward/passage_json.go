package main

import (
	"time"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/visit"
)

// passageJSON is what knock PROFILE --json prints, and hold --json for each of its knocks.
type passageJSON struct {
	Profile string       `json:"profile"`
	Door    string       `json:"door"`    // "" for the gateway's first
	Action  string       `json:"action"`  // open, close or extend
	OK      bool         `json:"ok"`      // what exit status 0 says
	Answers []answerJSON `json:"answers"` // of each family, IPv4 and IPv6, that has answered
	Wait    []waitJSON   `json:"wait"`    // empty without --wait
}

// answerJSON is what the gateway said over one family.
type answerJSON struct {
	Gateway string     `json:"gateway"` // its address
	Port    string     `json:"port"`    // where it was asked, such as 41641/udp
	Status  string     `json:"status"`  // open, starting, closed, refused, or sent: a single packet
	Source  string     `json:"source"`  // whom it has opened to, or where it has seen the visitor
	Until   *time.Time `json:"until"`   // of the grant, or of the refusal; null when that is not known
	Reason  string     `json:"reason"`  // of a refusal in one word, or ""
	Message string     `json:"message"` // of a refusal for people, or ""
	Ports   []string   `json:"ports"`   // the door's, such as 22/tcp
	TookMS  float64    `json:"took_ms"` // since the knock was begun
}

// words are those of --json.
var (
	actionWords = map[seal.Action]string{seal.Open: "open", seal.Close: "close", seal.Extend: "extend"}
	statusWords = map[seal.Status]string{seal.Opened: "open", seal.Starting: "starting", seal.Closed: "closed", seal.Refused: "refused"}
)

// object is what a knock has come to, as JSON.
func (p *passage) object(r client.Result) passageJSON {
	j := passageJSON{Profile: p.profile.Name, Door: p.request.Door, Action: actionWords[p.request.Action], Answers: []answerJSON{}, Wait: []waitJSON{}, OK: r.Done()}
	for _, a := range r.Answers {
		carrier := seal.Port{UDP: !a.Stream, First: a.Gateway.Port(), Last: a.Gateway.Port()}
		aj := answerJSON{Gateway: a.Gateway.Addr().String(), Port: portList([]seal.Port{carrier}), Status: statusWords[a.Status], Source: a.Source.String(),
			Ports: []string{}, TookMS: ms(a.Took)}
		if a.Left > 0 {
			until := p.e.clock().Add(a.Left).Round(time.Second)
			aj.Until = &until
		}
		if refused, ok := a.Err(p.signer).(*client.RefusedError); ok {
			aj.Reason, aj.Message = refused.Word(), refused.Error()
		}
		for _, port := range a.Ports {
			aj.Ports = append(aj.Ports, portList([]seal.Port{port}))
		}
		j.Answers = append(j.Answers, aj)
	}
	return j
}

// printSealed prints what a knock at a profile has come to.
func printSealed(p *passage, o *knockOptions, r client.Result, opened []visit.Opened) error {
	j := p.object(r)
	j.wait(o, opened)
	return printJSON(p.e.stdout, j)
}

// printSent prints what single packets have come to.
func printSent(p *passage, o *knockOptions, sent []client.Sent, opened []visit.Opened) error {
	j := p.object(client.Result{})
	j.OK = len(sent) > 0
	for _, s := range sent {
		source := ""
		if s.Source.IsValid() {
			source = s.Source.String()
		}
		at := seal.Port{UDP: true, First: s.Gateway.Port(), Last: s.Gateway.Port()}
		j.Answers = append(j.Answers, answerJSON{Gateway: s.Gateway.Addr().String(), Port: portList([]seal.Port{at}), Status: "sent", Source: source, Ports: []string{}})
	}
	j.wait(o, opened)
	return printJSON(p.e.stdout, j)
}

// wait adds what --wait has come to.
func (j *passageJSON) wait(o *knockOptions, opened []visit.Opened) {
	if o.waitPort == 0 {
		return
	}
	j.Wait = waits(o, opened)
	open := false
	for _, w := range j.Wait {
		open = open || w.Open
	}
	j.OK = j.OK && open
}
