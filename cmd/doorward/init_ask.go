package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/doorward/doorward/internal/config"
)

// interview asks for what the flags say otherwise. Each answer is checked at
// once, as a part of a whole configuration, and asked for again while it cannot
// be. The questions go to standard error: standard output may be the file.
func (o *initOptions) interview(e *env, m machine, outputGiven bool) error {
	a := &asker{in: bufio.NewReader(e.stdin), out: e.stderr}
	fmt.Fprint(a.out, "A first configuration. ENTER takes what stands in brackets.\n\n")
	if o.force && !outputGiven {
		a.file(o) // what was there before, the other answers can keep
	}
	a.ask("Name of the door", o.door, func(s string) error {
		o.door = s
		return o.try(m)
	})
	ports := strings.Join(o.ports, " ")
	if ports == "" && o.door == "ssh" {
		ports = "22/tcp"
	}
	a.ask("Ports that it guards, such as 22/tcp 60000-61000/udp", ports, func(s string) error {
		o.ports = split(s)
		if len(o.ports) == 0 {
			return errors.New("at least one port, such as 8443/tcp")
		}
		return o.try(m)
	})
	unit := o.unit
	if unit == "" {
		unit = "none"
		if o.guarded().SSH() {
			if found, _, ok := m.sshUnit(); ok {
				unit = found
			}
		}
	}
	a.ask("systemd unit to start and stop, or none if the service always runs", unit, func(s string) error {
		o.unit = s
		return o.try(m)
	})
	a.knock(o, m)
	if !o.force && !outputGiven {
		a.file(o)
	}
	fmt.Fprintln(a.out)
	return a.err
}

// file asks where to write.
func (a *asker) file(o *initOptions) {
	a.ask("File to write, - for standard output", o.output, func(s string) error {
		o.output = s
		o.readFormer()
		return nil
	})
}

// knock asks what can be chosen about the knock.
func (a *asker) knock(o *initOptions, m machine) {
	if o.keep && len(o.formerKnocks()) > 0 {
		a.ask("Knock of the file before: keep it, or write a new one", "keep", func(s string) error {
			if s != "keep" && s != "new" {
				return errors.New(`allowed are "keep" and "new"`)
			}
			o.keep = s == "keep"
			return o.try(m)
		})
		if o.keep {
			return
		}
	}
	for _, c := range o.kind.Choices() {
		if c.With != "" && len(o.chosen[c.With]) == 0 {
			continue
		}
		proposal := strings.Join(o.chosen[c.Name], " ")
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
			o.chosen[c.Name] = words
			for _, other := range o.kind.Choices() {
				if other.With == c.Name {
					delete(o.chosen, other.Name)
				}
			}
			return o.try(m)
		})
	}
}

// try says what would be wrong with the configuration so far, the rest of it
// being what is proposed.
func (o initOptions) try(m machine) error {
	if len(o.ports) == 0 {
		o.ports = []string{"22/tcp"}
	}
	if err := o.propose(m); err != nil {
		return err
	}
	_, err := config.Parse("", []byte(o.text()))
	if err != nil {
		return notWritten(err)
	}
	return nil
}

// split takes a list apart, at spaces and commas.
func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
}

// asker asks on out and reads from in, a line an answer. After an error it asks
// no more.
type asker struct {
	in  *bufio.Reader
	out io.Writer
	err error
}

// ask asks until take accepts the answer. An empty one is the proposal.
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
		fmt.Fprintf(a.out, "  %s\n", printable(err.Error()))
	}
}
