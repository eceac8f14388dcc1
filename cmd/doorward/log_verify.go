package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// verifyLog looks at whether the records of the trail, or of a file, follow one another.
func verifyLog(e *env, c *cobra.Command, o *logFlags, args []string) error {
	var err error
	c.Flags().Visit(func(f *pflag.Flag) {
		if c.LocalNonPersistentFlags().Lookup(f.Name) != nil && f.Name != "verify" && f.Name != "json" && f.Name != "quiet" && f.Name != "timeout" {
			err = fmt.Errorf("--%s and --verify do not go together: records follow one another only where none are left out", f.Name)
		}
	})
	if err != nil {
		return &usageError{withHint(err, "doorward log --help")}
	}
	var w audit.Verifier
	given := uint64(0)
	switch {
	case len(args) == 0:
		given, err = verifyDaemons(e, c, &w)
	case args[0] == "-":
		err = verifyLines(e.stdin, nameOf(args[0]), &w)
	default:
		err = verifyFile(args[0], &w)
	}
	if err != nil {
		return err
	}
	v := w.End(given)
	if len(args) > 0 && v.Records == 0 { // what is something else says nothing of the trail
		return withHint(fmt.Errorf("there are no records in %s: each is a JSON object on a line of its own", nameOf(args[0])),
			"doorward log --json --limit all prints them")
	}
	show := printVerification
	if o.json {
		show = func(w io.Writer, v audit.Verification) error { return printJSON(w, v) }
	}
	if err := show(e.stdout, v); err != nil || v.Sound {
		return err
	}
	return fmt.Errorf("the audit trail was changed, or is not whole: %s", counted(int(v.FaultsTotal), "fault"))
}

// verifyDaemons looks at what the daemon has. It returns the highest ID that it gave.
func verifyDaemons(e *env, c *cobra.Command, w *audit.Verifier) (given uint64, err error) {
	return e.client(c).ReadLog(c.Context(), control.LogReader{
		Query: control.LogQuery{Oldest: true},
		Each: func(r audit.Record) error {
			text, err := json.Marshal(r)
			w.Add(text)
			return err
		},
		Gone: func(_, until uint64) { w.Skip(until) },
	})
}

// nameOf is what a file is called that stands on the command line.
func nameOf(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

func verifyFile(path string, w *audit.Verifier) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the records to verify: %w", err)
	}
	defer f.Close()
	return verifyLines(f, path, w)
}

// longestLine is more than a record can have.
const longestLine = 4 << 20

func verifyLines(r io.Reader, name string, w *audit.Verifier) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longestLine)
	n := 0
	for lines.Scan() {
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 && !isFailure(line) {
			n++
			w.Add(line)
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("a line has more than %d bytes, and is no record", longestLine)
		}
		return fmt.Errorf("read the records in %s, behind line %d: %w", name, n, err)
	}
	return nil
}

// isFailure says whether a line is that with which a log that fails ends.
func isFailure(line []byte) bool {
	var l struct {
		ID    *uint64
		Error string
	}
	return json.Unmarshal(line, &l) == nil && l.ID == nil && l.Error != ""
}

// printVerification says what came of it, for people.
func printVerification(w io.Writer, v audit.Verification) error {
	for _, f := range v.Faults {
		if _, err := fmt.Fprintln(w, printable(f.Message)); err != nil {
			return err
		}
	}
	if more := v.FaultsTotal - uint64(len(v.Faults)); more > 0 {
		if _, err := fmt.Fprintf(w, "and %d more\n", more); err != nil {
			return err
		}
	}
	text := "no records"
	if v.Records > 0 {
		text = fmt.Sprintf("%s, from %d to %d", counted(int(v.Records), "record"), v.First, v.Last)
		if v.Sound {
			text += ", follow one another"
		}
	}
	if v.Unchained > 0 {
		text += fmt.Sprintf("; %s of versions before there were hashes, which could be anything", counted(int(v.Unchained), "record"))
	}
	text += "\n"
	for _, end := range []struct {
		of string
		*audit.Link
	}{{"refusal", v.Refusals}, {"of the others", v.Decided}} {
		if end.Link != nil {
			text += fmt.Sprintf("the last %s: %d, %s\n", end.of, end.ID, printable(end.Hash))
		}
	}
	_, err := io.WriteString(w, text)
	return err
}
