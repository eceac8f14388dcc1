package main

import (
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/control"
)

// failure is what a command prints with --json when it has failed.
type failure struct {
	API   int    `json:"api"` // control.APIVersion
	Error string `json:"error"`
	Code  string `json:"code"` // one of control's
	Hint  string `json:"hint"` // what to type next, may be ""
}

// document is an error that has more to say in JSON than a failure has.
type document interface {
	error
	document(failure) any
}

// printed is standard output with --json. It knows what was printed, so that a failure
// is said once: by what a command prints of itself, or by an object that stands alone
// or is the last line of a stream.
type printed struct {
	w     io.Writer
	some  bool
	lines bool // it is a stream, one object a line
}

// Write implements io.Writer.
func (p *printed) Write(b []byte) (int, error) {
	p.some = p.some || len(b) > 0
	return p.w.Write(b)
}

// fail prints what has failed, unless that was said.
func (p *printed) fail(err error) error {
	_, told := errors.AsType[*statusError](err)
	if err == nil || told || p.some && !p.lines {
		return nil
	}
	f := failure{API: control.APIVersion, Error: err.Error(), Code: codeOf(err), Hint: hintOf(err)}
	var v any = f
	if d, ok := errors.AsType[document](err); ok {
		v = d.document(f)
	}
	if p.lines {
		return printJSONLine(p, v)
	}
	return printJSON(p, v)
}

// wantsJSON says whether --json is on a command line, which need not be one that can
// be understood.
func wantsJSON(args []string) (yes bool) {
	for _, arg := range args {
		value, said := strings.CutPrefix(arg, "--json")
		switch {
		case arg == "--":
			return yes
		case said && value == "":
			yes = true
		case said && strings.HasPrefix(value, "="):
			yes, _ = strconv.ParseBool(value[1:])
		}
	}
	return yes
}
