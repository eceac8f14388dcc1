// Package doctor looks a machine over for whatever would keep doorward from
// guarding it, or its owner from getting in: kernel, privileges, other
// firewalls, clock, logs, ports, units, and the operator's own session. Each
// finding says what is so, and what to do about it.
//
// It only reads, with one exception that leaves no trace: it builds the
// configuration's nftables table in a network namespace made for that, which
// nobody is in and which is gone right after. It changes nothing, and it cannot
// see the network from outside.
package doctor

import (
	"errors"
	"strings"
)

// ErrNotLinux is what This returns on other systems.
var ErrNotLinux = errors.New("doctor looks at gateways, and those run Linux")

// Verdict says how serious a finding is.
type Verdict string

// The verdicts. A Note says what cannot be known from here, or what somebody may want
// to know.
const (
	OK      Verdict = "ok"
	Note    Verdict = "note"
	Warning Verdict = "warning" // it works, but not as well as it should
	Problem Verdict = "problem" // it does not work, or does not guard
)

// Finding is the answer to one question.
type Finding struct {
	Verdict Verdict `json:"verdict"` // "ok", "note", "warning" or "problem"
	Where   string  `json:"where"`   // "kernel", "door ssh", "59000/tcp", ...
	What    string  `json:"what"`    // what is so, with the value
	// Do is what to do, "" for nothing: steps, with a newline or "; " between
	// them. A command is a step of its own.
	Do string `json:"do"`
}

// Steps returns the steps of Do, in their order.
func (f Finding) Steps() (all []string) {
	for step := range strings.SplitSeq(strings.ReplaceAll(f.Do, "; ", "\n"), "\n") {
		if step = strings.TrimSpace(step); step != "" {
			all = append(all, step)
		}
	}
	return all
}
