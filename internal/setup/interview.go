package setup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/legible"
	"github.com/doorward/doorward/internal/tables"
)

// Interview asks on out, and reads from in, what the plan is to say, proposing what it
// says already or what the machine suggests. Each answer is checked at once, as a part of
// a whole configuration, and asked for again while it is wrong. No file is written.
func (p *Plan) Interview(m Machine, in io.Reader, out io.Writer) error {
	a := &asker{in: bufio.NewReader(in), out: out}
	fmt.Fprint(a.out, "A first configuration. Press Enter to take what is in brackets.\n\n")
	a.host(p, m)
	a.ask("Name of the door", p.Door, func(s string) error {
		p.Door = s
		return p.try(m)
	})
	ports := strings.Join(p.Ports, " ")
	if ports == "" {
		ports = strings.Join(p.ProposedPorts(m), " ")
	}
	a.ask("Ports that it guards, such as 22/tcp 60000-61000/udp", ports, func(s string) error {
		p.Ports = split(s)
		if len(p.Ports) == 0 {
			return errors.New("at least one port, such as 8443/tcp")
		}
		return p.try(m)
	})
	unit := p.Unit
	if unit == "" {
		unit = p.ProposedUnit(m)
	}
	a.ask("systemd unit to start and stop, or none if it always runs", unit, func(s string) error {
		p.Unit = s
		return p.try(m)
	})
	a.knock(p, m)
	fmt.Fprintln(a.out)
	return a.err
}

// host asks where visitors find the machine.
func (a *asker) host(p *Plan, m Machine) {
	const none = "none"
	proposal := p.Host
	if proposal == "" {
		proposal = p.ProposedHost(m)
	}
	if proposal == "" {
		proposal = none
	}
	a.ask("Name or address of this machine for visitors, or none", proposal, func(s string) error {
		if s == none {
			p.Host = ""
			return nil
		}
		p.Host = s
		return config.CheckHost(s)
	})
}

// knock asks what can be chosen about the knock.
func (a *asker) knock(p *Plan, m Machine) {
	if p.Keep && len(p.formerKnocks()) > 0 {
		a.ask("Knock of the previous file: keep it, or write a new one", "keep", func(s string) error {
			if s != "keep" && s != "new" {
				return errors.New(`allowed are "keep" and "new"`)
			}
			p.Keep = s == "keep"
			return p.try(m)
		})
		if p.Keep {
			return
		}
	}
	a.kind(p, m)
	for _, c := range p.Kind.Choices() {
		if c.With != "" && len(p.Chosen[c.With]) == 0 {
			continue
		}
		proposal := strings.Join(p.Chosen[c.Name], " ")
		if proposal == "" {
			proposal = c.Proposal
		}
		a.ask(c.Question, proposal, func(s string) error {
			words := split(s)
			switch {
			case s == c.Proposal && c.Proposal != "":
				words = nil
			case len(words) == 0 && c.Empty != "":
				return errors.New(c.Empty)
			}
			p.Chosen[c.Name] = words
			for _, other := range p.Kind.Choices() {
				if other.With == c.Name {
					delete(p.Chosen, other.Name)
				}
			}
			return p.try(m)
		})
	}
}

// kind asks which kind of knock it is to be.
func (a *asker) kind(p *Plan, m Machine) {
	all := Kinds()
	if len(all) < 2 {
		return
	}
	for _, k := range all {
		fmt.Fprintf(a.out, "  %-8s%s\n", k.Name(), k.Brief())
	}
	a.ask("Kind of knock", p.Kind.Name(), func(s string) error {
		kind, err := Named(s)
		if err != nil {
			return err
		}
		p.Kind = kind
		return p.try(m)
	})
}

// try returns what would be wrong with the configuration so far, with what is proposed
// for the rest of it.
func (p Plan) try(m Machine) error {
	if len(p.Ports) == 0 && len(p.ProposedPorts(m)) == 0 {
		p.Ports = []string{"22/tcp"} // stands for whatever is answered later
	}
	if err := p.Propose(m); err != nil {
		return err
	}
	if _, err := config.Parse("", []byte(p.Text())); err != nil {
		_, err = Mistaken(err)
		return err
	}
	return nil
}

// Mistaken returns the error of config.Parse about a plan's text, without the places in
// a text that the user has not written, and a hint on what to write instead, "" for none.
func Mistaken(err error) (hint string, mistakes error) {
	var lines []string
	for _, m := range tables.Mistakes(err) {
		_, words, _ := strings.Cut(m.Error(), fmt.Sprintf(":%d: ", m.Line))
		lines = append(lines, words)
		if m.Hint != "" {
			hint = m.Hint
		}
	}
	return hint, errors.New(strings.Join(lines, "; "))
}

// split splits a list at spaces, tabs and commas.
func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
}

// asker asks on out and reads from in, one line an answer. After an error it asks
// nothing more.
type asker struct {
	in  *bufio.Reader
	out io.Writer
	err error
}

// ask asks until take accepts the answer. An empty answer means the proposal.
func (a *asker) ask(question, proposal string, take func(string) error) {
	for a.err == nil {
		fmt.Fprintf(a.out, "%s [%s]: ", question, proposal)
		line, err := a.in.ReadString('\n')
		if err != nil && line == "" {
			fmt.Fprintln(a.out)
			a.err = fmt.Errorf("no answer to %q: %w; nothing is written", question, err)
			return
		}
		answer := strings.TrimSpace(line)
		if answer == "" {
			answer = proposal
		}
		err = take(answer)
		if err == nil {
			return
		}
		fmt.Fprintf(a.out, "  %s\n", legible.Text(err.Error()))
	}
}
