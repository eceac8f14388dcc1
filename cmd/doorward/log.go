package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/view"
	"github.com/doorward/doorward/internal/when"
)

var logHelp = `Print the audit trail: who knocked, what was decided, and why; what operators
ordered; who logged in; and what the daemon had to repair. The oldest record comes
first. Times are local, or with --utc in UTC.

The events: opened and dark (the door), granted, revoked and expired (a source's
grant), login (through the door, with what let it in), refused (a knock, with its
penalty if it has one), failsafe and armed, repaired (fence, listener or service
differed from what it should be), error, applied (a configuration), keys (who may
knock was changed), alarm (a right knock with a key that is locked or revoked),
started and stopped (the daemon).

DOOR may be one that no longer exists. --source finds everything about an address or
a prefix: its own records, those of prefixes that contain it, of anything within it,
and of everybody; with any, only those of everybody. --since and --until take
"2026-11-24 03:00", "2026-11-24", "03:00" (of today), today, yesterday, now,
"-2h" or "2h ago" (the units are w, d, h, m and s), and times as in RFC 3339. They
are local, or with --utc in UTC.

By default the newest 100 are printed, or with --after, --since or --until all that
match. --limit N prints the newest N, with --after the oldest N; --limit all prints
everything. To export the trail without gaps or duplicates, continue with --after and
the last id. If records were deleted to make room before they could be read, log says
so, and the exit status is 1.

Floods of refusals are summarised: the first ten of a network (an IPv4 /24, an IPv6
/48) are recorded one by one; after that, one record a minute says how many more there
were, from how many addresses, and what the last one was. Its source is the network.

With --follow new records are printed as they arrive, until Ctrl-C. If the daemon
ends, log waits for it; when it is back, nothing is lost or printed twice. If the
trail was started afresh meanwhile, log says so, and the exit status is 1.

--json prints one JSON object a line, with the id of each record, which increases by
one; times are RFC 3339, in UTC. A summary has the key count; every other record
stands for one event.

Records of orders have in JSON, besides "by", the process that gave the order, as
reported by the kernel: by_uid, by_pid, and by_login, the user who logged in, whoever
they have become since. That needs Linux 6.5, and is not known for services, which can
set it themselves. by_sudo_user is what sudo told the command, which proves nothing.
A login has .login.user, .port, .method and .grant.

Each record has a hash of its content and of the record before, so that a change, a
deletion or an insertion is detected. --verify checks everything that the daemon has,
or a FILE that was printed with --json and is complete; - is standard input. The
oldest records may be missing: they make room for newer ones. Whoever can write the
trail's files could compute all hashes again, so compare the last ones, which it
prints, with those that were sent to another machine.

` + exitStatus("0 when the daemon has answered, or with --verify when the records are intact")

const logExamples = `  doorward log
  doorward log ssh --source 192.0.2.7
  doorward log --since yesterday --event refused --event error
  doorward log --follow
  doorward log --json --limit all | jq -r 'select(.event == "refused").source' | sort | uniq -c
  doorward log --json --limit all > trail.json; doorward log --verify trail.json`

// logFlags are the flags of doorward log.
type logFlags struct {
	q            control.LogQuery
	limit, after string
	since, until string
	utc, json    bool
	none         bool // of what there was before a follow
	verify       bool
}

func newLog(e *env) *cobra.Command {
	o := &logFlags{}
	c := &cobra.Command{
		Use:     "log [DOOR | FILE]",
		Short:   "print the audit trail: who knocked, what was decided, why",
		Long:    logHelp,
		Example: logExamples,
		Args:    doorArg(false),
		ValidArgsFunction: func(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if o.verify {
				return nil, cobra.ShellCompDirectiveDefault // a file
			}
			return completeDoors(e)(c, args, begun)
		},
		RunE: asking(func(c *cobra.Command, args []string) error {
			if o.verify {
				return verifyLog(e, c, o, args)
			}
			o.q.Door = firstOf(args)
			if err := o.check(e, c); err != nil {
				return &usageError{withHint(err, "doorward log --help")}
			}
			return readLog(e, c, o)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.q.Source, "source", "", "only what concerns this `SOURCE`: an address, a prefix, or any")
	f.StringVar(&o.since, "since", "", "only records from this `TIME` on")
	f.StringVar(&o.until, "until", "", "only records from before this `TIME`")
	f.StringSliceVar(&o.q.Events, "event", nil, "only this `EVENT`; may be given several times")
	f.StringVar(&o.after, "after", "", "only records after the one with this `ID`, 0 for all")
	f.StringVarP(&o.limit, "limit", "n", "", "the newest `N` records, at most 10000, or all")
	f.BoolVarP(&o.q.Follow, "follow", "f", false, "go on with new records as they arrive")
	f.BoolVar(&o.utc, "utc", false, "print and read times in UTC")
	f.BoolVar(&o.json, "json", false, "print JSON, one object a line")
	f.BoolVar(&o.verify, "verify", false, "check that no record was changed, removed or inserted, here or in a FILE")
	if err := c.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(audit.Events(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is such a flag
	}
	operatorFlags(e, c)
	return c
}

// check completes the query, or says what is wrong on the command line.
func (o *logFlags) check(e *env, c *cobra.Command) error {
	changed := c.Flags().Changed
	if changed("source") && o.q.Source == "" {
		return errors.New("--source is empty: allowed are an address, a prefix, and any")
	}
	for _, event := range o.q.Events {
		if !slices.Contains(audit.Events(), event) {
			return fmt.Errorf("--event %q: allowed are %s", event, strings.Join(audit.Events(), ", "))
		}
	}
	if changed("event") && len(o.q.Events) == 0 {
		return fmt.Errorf("--event is empty: allowed are %s", strings.Join(audit.Events(), ", "))
	}
	if err := o.times(o.now(e), changed); err != nil {
		return err
	}
	return o.amount(changed)
}

// now is the time, in the zone of the command.
func (o *logFlags) now(e *env) time.Time {
	if o.utc {
		return e.clock().UTC()
	}
	return e.clock()
}

func (o *logFlags) times(now time.Time, changed func(string) bool) (err error) {
	const form = "2006-01-02 15:04:05 -0700"
	if changed("since") {
		if o.q.Since, err = when.Parse(o.since, now, false); err != nil {
			return fmt.Errorf("--since %w", err)
		}
		if o.q.Since.After(now) {
			return fmt.Errorf("--since %q is %s, which is in the future: a time without a date is of today", o.since, o.q.Since.Format(form))
		}
	}
	if changed("until") {
		if o.q.Until, err = when.Parse(o.until, now, true); err != nil {
			return fmt.Errorf("--until %w", err)
		}
		if !o.q.Since.Before(o.q.Until) {
			return fmt.Errorf("--until %q is %s, which is not after --since, %s", o.until, o.q.Until.Format(form), o.q.Since.Format(form))
		}
		if o.q.Follow {
			return errors.New("--until cannot be combined with --follow, which has no end")
		}
	}
	return nil
}

// amount says how many records are meant.
func (o *logFlags) amount(changed func(string) bool) (err error) {
	if o.q.Oldest = changed("after"); o.q.Oldest {
		if o.q.After, err = strconv.ParseUint(o.after, 10, 64); err != nil {
			return fmt.Errorf("--after %q: allowed is the id of a record, as --json prints it, and 0 for all", o.after)
		}
	}
	n, err := strconv.Atoi(o.limit)
	switch {
	case !changed("limit"):
		o.q.Oldest = o.q.Oldest || changed("since") || changed("until")
		if n = 0; !o.q.Oldest {
			n = 100
		}
	case o.limit == "all":
		o.q.Oldest = true
	case err == nil && n == 0 && o.q.Follow && !o.q.Oldest:
		o.none = true
	case err != nil || n < 1 || n > 10_000:
		return fmt.Errorf("--limit %q: allowed are 1 to 10000, and all; with --follow 0, too", o.limit)
	case o.q.Oldest && o.q.Follow:
		return errors.New("--limit cannot be combined with both --after and --follow: everything after it is printed")
	}
	o.q.Limit = n
	return nil
}

// readLog prints what was asked for.
func readLog(e *env, c *cobra.Command, o *logFlags) error {
	n := 0
	show, done := o.printer(e)
	r := control.LogReader{
		Query: o.q,
		Each:  func(r audit.Record) error { n++; return show(r) },
		Away: func(err error) {
			fmt.Fprintf(e.stderr, "doorward: %s; waiting for it to come back\n", output.Text(err.Error()))
		},
		Back: func() { fmt.Fprintln(e.stderr, "doorward: the daemon is back") },
	}
	var gone error // for the exit status alone: the warning says it
	r.Gone = func(after, until uint64) {
		fmt.Fprintf(e.stderr, "doorward: warning: records between %d and %d were deleted to make room for newer ones; all others are printed\n", after, until)
		if !o.q.Follow {
			gone = &statusError{code: 1}
		}
	}
	client := e.client(c)
	var err error
	if o.none {
		r.Query, err = behindAll(c.Context(), client, r.Query)
	}
	if err == nil {
		_, err = client.ReadLog(c.Context(), r)
	}
	if o.q.Follow && errors.Is(err, context.Canceled) { // how a follow is meant to end
		err = nil
	}
	if err == nil && n == 0 && !o.json && !o.q.Follow {
		fmt.Fprintln(e.stderr, "doorward: no records match")
	}
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	return gone
}

// behindAll is a query for what comes from now on.
func behindAll(ctx context.Context, client *control.Client, q control.LogQuery) (control.LogQuery, error) {
	last, err := client.ReadLog(ctx, control.LogReader{Query: control.LogQuery{Limit: 1}, Each: func(audit.Record) error { return nil }})
	q.After, q.Oldest, q.Limit = last, true, 0
	return q, err
}

// printer returns what prints a record, and what is to be called after the last.
func (o *logFlags) printer(e *env) (show func(audit.Record) error, done func() error) {
	if o.json {
		return func(r audit.Record) error { return printJSONLine(e.stdout, r) }, func() error { return nil }
	}
	t := view.NewTrail(e.stdout, e.styles(e.stdout), o.now(e).Location(), output.Width(e.stdout), !o.q.Follow && !o.q.Oldest)
	return t.Record, t.Flush
}

// verifyLog checks that the records of the trail, or of a file, follow one another.
func verifyLog(e *env, c *cobra.Command, o *logFlags, args []string) error {
	var err error
	c.Flags().Visit(func(f *pflag.Flag) {
		if c.LocalNonPersistentFlags().Lookup(f.Name) != nil && f.Name != "verify" && f.Name != "json" && f.Name != "quiet" && f.Name != "timeout" {
			err = fmt.Errorf("--%s cannot be combined with --verify, which needs every record", f.Name)
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
		return withHint(fmt.Errorf("no records in %s: each is a JSON object on a line of its own", nameOf(args[0])),
			"doorward log --json --limit all prints them")
	}
	show := printVerification
	if o.json {
		show = func(w io.Writer, v audit.Verification) error { return printJSON(w, v) }
	}
	if err := show(e.stdout, v); err != nil || v.Sound {
		return err
	}
	return fmt.Errorf("the audit trail was changed, or is incomplete: %s", output.Counted(int(v.FaultsTotal), "fault"))
}

// verifyDaemons checks the records that the daemon has. It returns the highest ID among
// them.
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

// nameOf is what messages call a FILE of the command line.
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
			err = fmt.Errorf("a line has more than %d bytes, so it is not a record", longestLine)
		}
		return fmt.Errorf("read the records in %s, after line %d: %w", name, n, err)
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
		if _, err := fmt.Fprintln(w, output.Text(f.Message)); err != nil {
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
		text = fmt.Sprintf("%s, from %d to %d", output.Counted(int(v.Records), "record"), v.First, v.Last)
		if v.Sound {
			text += ", are intact"
		}
	}
	if v.Unchained > 0 {
		text += fmt.Sprintf("; %s without a hash, of older versions, which cannot be verified", output.Counted(int(v.Unchained), "record"))
	}
	text += "\n"
	for _, end := range []struct {
		of string
		*audit.Link
	}{{"refusal", v.Refusals}, {"visit", v.Visits}, {"of the others", v.Decided}} {
		if end.Link != nil {
			text += fmt.Sprintf("the last %s: %d, %s\n", end.of, end.ID, output.Text(end.Hash))
		}
	}
	_, err := io.WriteString(w, text)
	return err
}
