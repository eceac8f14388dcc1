package main

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

// failure is what a command prints with --json when it has failed.
type failure struct {
	API   int    `json:"api"` // control.APIVersion
	Error string `json:"error"`
	Code  string `json:"code"` // one of control's
	Hint  string `json:"hint"` // what to type next, may be ""
}

// printed is standard output with --json. It keeps what a command prints until the
// command has ended, so that a failure is in the same object; of a stream, which is one
// object a line, it is the last line.
type printed struct {
	w     io.Writer
	text  bytes.Buffer // of a command that prints no stream
	lines bool         // it is a stream
	quiet bool         // nothing but failures is to be printed
}

// Write implements io.Writer.
func (p *printed) Write(b []byte) (int, error) {
	switch {
	case !p.lines:
		return p.text.Write(b)
	case p.quiet:
		return len(b), nil
	}
	return p.w.Write(b)
}

// end prints what there is to print of a command that has ended with err.
func (p *printed) end(err error) error {
	status, ok := errors.AsType[*statusError](err)
	told := ok && status.err == nil // by a command that has ended
	f := failure{API: control.APIVersion}
	if err != nil {
		f.Error, f.Code, f.Hint = err.Error(), codeOf(err), hintOf(err)
	}
	text := p.text.Bytes()
	switch {
	case (err == nil || told) && p.quiet:
		return nil
	case err == nil, told:
	case p.lines:
		return output.JSON(p.w, f, "")
	case len(text) == 0:
		return output.JSON(p.w, f, "  ")
	default:
		text = f.in(text)
	}
	_, err = p.w.Write(text)
	return err
}

// in returns an object as it was printed with the failure in it.
func (f failure) in(object []byte) []byte {
	inner, ok := bytes.CutSuffix(object, []byte("\n}\n"))
	if !ok {
		return object
	}
	var own bytes.Buffer
	if err := output.JSON(&own, f, "  "); err != nil {
		return object
	}
	_, keys, _ := bytes.Cut(own.Bytes(), []byte(",\n")) // but for its version, which the object has
	return bytes.Join([][]byte{inner, keys}, []byte(",\n"))
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
