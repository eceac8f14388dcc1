package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/legible"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/signer"
)

// This file has what the commands share that knock at a PROFILE.

// directory is where the user's profiles are.
func (e *env) directory() (profile.Directory, error) {
	if e.profiles != "" {
		return e.profiles, nil
	}
	return profile.Default()
}

// machine is what proofs need of this machine.
func (e *env) machine() signer.Machine {
	ask := e.ask
	if ask == nil {
		ask = signer.Terminal(e.getenv)
	}
	return signer.Machine{Getenv: e.getenv, Ask: ask}
}

// knocker is the client of the sealed knock.
func (e *env) knocker() *client.Client {
	if e.knocks != nil {
		return e.knocks
	}
	return new(client.Client)
}

// profileAndDoor says what is wrong with the arguments PROFILE [DOOR].
func profileAndDoor(args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("PROFILE is missing: the gateway, as doorward profiles lists it")
	case len(args) > 2:
		return fmt.Errorf("%q: one PROFILE and one DOOR only", args[2])
	}
	return nil
}

// passage is one visitor at one gateway.
type passage struct {
	e       *env
	in      profile.Directory
	profile profile.Profile
	signer  *signer.Signer
	request seal.Request
	family  client.Family
}

// loadPassage reads a profile, and what is to be asked of which of its doors.
func loadPassage(e *env, name, door string) (*passage, error) {
	in, err := e.directory()
	if err != nil {
		return nil, err
	}
	p, err := in.Load(name)
	if errors.Is(err, profile.ErrNone) {
		return nil, withHint(err, "%s", orProfiles(e, in))
	}
	if err != nil {
		return nil, err
	}
	if door == "" && len(p.Doors) > 0 {
		door = p.Doors[0]
	}
	if door != "" {
		if err := profile.CheckName(door); err != nil {
			return nil, &usageError{fmt.Errorf("DOOR: %w", err)}
		}
	}
	return &passage{e: e, in: in, profile: p, request: seal.Request{Action: seal.Open, Door: door}}, nil
}

// orProfiles says which profiles there are, or how to get one.
func orProfiles(e *env, in profile.Directory) string {
	if user := e.getenv("SUDO_USER"); user != "" {
		return fmt.Sprintf("without sudo: this looks among root's profiles, not among %s's", legible.Text(user))
	}
	names, err := in.Names()
	if err != nil || len(names) == 0 {
		return "doorward accept makes one of an invite, which the gateway's operator gives you"
	}
	return "there are: " + strings.Join(names, ", ")
}

// unlock finds the key of the profile, and asks for its passphrase if it has one.
func (p *passage) unlock(ctx context.Context) error {
	if p.profile.Key == (profile.Key{}) {
		return withHint(fmt.Errorf("profile %s has no key", p.profile.Name), "doorward knock %s --rescue asks for a rescue code; doorward accept of another invite gives it a key", p.profile.Name)
	}
	s, err := signer.Open(ctx, p.e.machine(), p.profile.Key)
	if err == nil && p.profile.OneWay {
		err = s.CanSingle()
	}
	if err == nil {
		err = s.Unlock(ctx)
	}
	if errors.Is(err, signer.ErrNotSingle) {
		return withHint(err, "have the profile name another key, or take one_way out of it (doorward profiles show %s)", p.profile.Name)
	}
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, signer.ErrNoAgent) {
		return withHint(err, "profile %s names it, for which there may be another key now: doorward profiles show %[1]s says where to write that", p.profile.Name)
	}
	if err != nil {
		return keyError(err)
	}
	p.signer = s
	return nil
}

// keyError adds to an error of a key what would help.
func keyError(err error) error {
	switch {
	case errors.Is(err, signer.ErrNoAgent):
		return withHint(err, "start it with: eval \"$(ssh-agent)\" && ssh-add; or have the profile name a file of your key (doorward profiles show)")
	case errors.Is(err, signer.ErrNotThere):
		return withHint(err, "ssh-add -l lists what it has, ssh-add FILE adds a key; ssh-add -X unlocks one that is locked, and seems to have none")
	}
	return err
}

// rescue asks for a rescue code, with which to knock instead of the key.
func (p *passage) rescue(ctx context.Context) error {
	const tries = 3
	var err error
	for range tries {
		var text []byte
		if text, err = p.e.machine().Ask(ctx, "Rescue code: ", true); err != nil {
			return fmt.Errorf("the rescue code is asked for, and is on no command line: %w", err)
		}
		var code [16]byte
		if code, err = seal.ParseCode(string(text)); err == nil {
			p.signer = signer.Rescue(code)
			return nil
		}
		fmt.Fprintf(p.e.stderr, "doorward: %v\n", err)
	}
	return err
}

// tell says what a knock waits for.
func (p *passage) tell(what client.Progress) {
	switch what {
	case client.Proving:
		if p.signer.Touch() {
			fmt.Fprintln(p.e.stderr, "doorward: touch your security key")
		}
	case client.Waking:
		fmt.Fprintln(p.e.stderr, "doorward: the service behind the door is being started")
	case client.Repeated:
		fmt.Fprintln(p.e.stderr, "doorward: an answer was lost: once more")
	}
}

// knock is what the client is to do.
func (p *passage) knock() client.Knock {
	return client.Knock{Profile: p.profile, Request: p.request, Prover: p.signer, Family: p.family, Tell: p.tell}
}

// visit knocks, and keeps what it has learnt of the gateway.
func (p *passage) visit(ctx context.Context) (client.Result, error) {
	r, err := p.e.knocker().Knock(ctx, p.knock())
	p.learn(r)
	return r, p.shown(err)
}

// shown adds to a gateway's refusal what it was shown.
func (p *passage) shown(err error) error {
	if refused, ok := errors.AsType[*client.RefusedError](err); ok {
		refused.Door = p.request.Door
		if _, isKey := p.signer.Fingerprint(); isKey {
			refused.Shown = p.signer.String()
		}
	}
	return err
}

// learn keeps in the profile what a knock has learnt of the gateway. Where it cannot be
// saved, the next one learns it again.
//
// The file is as it is now, but for that: it may have been edited since it was read, made anew
// or removed.
func (p *passage) learn(r client.Result) {
	before, learnt := p.profile.Gateway, false
	if r.Bundle != nil {
		p.profile.Gateway.Bundle, learnt = r.Bundle, true
	}
	if r.Next != nil {
		p.profile.Gateway, learnt = *r.Next, true
	}
	learnt = p.learnPorts(r) || learnt
	if !learnt || p.profile.Name == "" {
		return
	}
	now, err := p.in.Load(p.profile.Name)
	if errors.Is(err, profile.ErrNone) || err == nil && (now.Gateway.Fingerprint != before.Fingerprint || now.Gateway.Profile != before.Profile) {
		return
	}
	now.Gateway = p.profile.Gateway
	if ports, ok := p.profile.Ports[p.request.Door]; ok {
		now.Ports = withPorts(now.Ports, p.request.Door, ports)
	}
	if err == nil {
		err = p.in.Save(now, true)
	}
	if err != nil {
		fmt.Fprintf(p.e.stderr, "doorward: note: the gateway's keys are not remembered: %v\n", err)
	}
}

// learnPorts takes the door's ports from an answer, and says whether they are others than
// were known.
func (p *passage) learnPorts(r client.Result) bool {
	var told []string
	for _, port := range doorPorts(r) {
		told = append(told, portList([]seal.Port{port}))
	}
	if len(told) == 0 || slices.Equal(told, p.profile.Ports[p.request.Door]) {
		return false
	}
	p.profile.Ports = withPorts(p.profile.Ports, p.request.Door, told)
	return true
}

// withPorts is a profile's ports with those of a door.
func withPorts(of map[string][]string, door string, ports []string) map[string][]string {
	all := maps.Clone(of)
	if all == nil {
		all = map[string][]string{}
	}
	all[door] = ports
	return all
}

// single knocks with single packets.
func (p *passage) single(ctx context.Context) ([]client.Sent, error) {
	k := client.Single{Knock: p.knock(), Prover: p.signer, Source: p.request.Address,
		Counter: func() (uint64, error) { return p.in.Counter(p.profile.Name, p.e.clock()) }}
	k.Request.Address = netip.Addr{}
	sent, bundle, err := p.e.knocker().SendSingle(ctx, k)
	p.learn(client.Result{Bundle: bundle})
	return sent, err
}

// failed turns an error of the client's into one of the command's.
func failed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return interrupted(ctx, "before the gateway had answered")
	}
	code := control.CodeFailed
	if refused, ok := errors.AsType[*client.RefusedError](err); ok {
		if code = control.CodeRefused; refused.Reason == seal.NoDoor {
			code = control.CodeNoDoor
		}
	}
	switch {
	case isA[*client.SilentError](err), isA[*client.LostError](err), isA[*client.StartingError](err):
		code = control.CodeTimeout
	case code == control.CodeFailed:
		err = keyError(err)
	}
	hint := hintOf(err)
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		hint = h.Hint()
	}
	if hint != "" {
		return withHint(&control.Error{Code: code, Message: err.Error(), Hint: hint}, "%s", hint)
	}
	return &control.Error{Code: code, Message: err.Error()}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// lines are what a knock has come to, for people: one for all sources whose grants end at
// the same second.
func lines(r client.Result, now time.Time) (all []string) {
	at := map[string]int{}
	for _, a := range r.Answers {
		what := ""
		switch a.Status {
		case seal.Opened:
			what = "open until " + output.Clock(now.Add(a.Left).Round(time.Second), now) + " for "
		case seal.Closed:
			what = "closed for "
		default:
			continue
		}
		if i, ok := at[what]; ok {
			all[i] += " and " + a.Source.String()
			continue
		}
		at[what] = len(all)
		all = append(all, what+a.Source.String())
	}
	return all
}

// notEverywhere says which of several sources the gateway has refused.
func (p *passage) notEverywhere(r client.Result) {
	for _, a := range r.Answers {
		if a.Status == seal.Refused {
			fmt.Fprintf(p.e.stderr, "doorward: note: not for %s: %v\n", a.Source, a.Err(p.signer))
		}
	}
}
