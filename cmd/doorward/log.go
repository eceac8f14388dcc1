package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

const logHelp = `Print the audit trail: who knocked, what was decided, and why; what operators
ordered; who logged in; and what the daemon had to put right. Oldest first, in
local time, or with --utc in UTC.

The events: opened and dark (the door), granted, revoked and expired (a source's
leave to connect), login (by way of the door, with what let it in), refused (a
knock, with its penalty if it has one), failsafe and armed, repaired (fence,
listener or service differed from what it should be), error, applied (a
configuration), started and stopped (the daemon).

DOOR may be one that is not there any more. --source finds what concerns an
address or a prefix: records of it, of prefixes that it is in, of what is in it,
and of everybody; with any, those of everybody alone. --since and --until take
"2026-11-24 03:00", "2026-11-24", "03:00" (of today), today, yesterday, now,
"-2h" or "2h ago" (the units are w, d, h, m and s), and times as in RFC 3339.
The zone is the local one, or with --utc UTC.

The newest 100 are printed, or with --after, --since or --until all that these
leave. --limit N prints the newest N, with --after the oldest N; --limit all
prints all there is, however long. Who keeps what it prints goes on with --after
and the last id, and has every record once. If some had to make room for newer
ones before they were read, that is said, and the exit status is 1.

Refusals that come in floods are summed up: the first ten of a network (an IPv4
/24, an IPv6 /48) are told one by one, then one record a minute says how many
more there were, from how many addresses, and what the last one was. Source is
the network then.

With --follow the trail goes on as things happen, until Ctrl-C. A daemon that
ends is waited for; when it is back, nothing is lost or printed twice. If the
trail was begun anew meanwhile, that is said, and the exit status is 1.

--json prints one JSON object a line, with the id of each record, which rises by
one; times are RFC 3339, in UTC. A sum has the key count; each other record is
of one.

Of an order JSON has, beside the words of "by", the process that gave it, as the
kernel told it: by_uid, by_pid, and by_login, the user who logged in, whoever
they have become since. That is not known before Linux 6.5, nor of services,
which can set it themselves.
by_sudo_user is what sudo told the command, which proves nothing. A login has
.login.user, .port, .method and .grant.

Each record has a hash of what it says and of the record before, so that it
shows if one was changed, taken out or put in. --verify looks at all that the
daemon has, or at a FILE that was printed with --json, and nothing left out; -
is standard input. The oldest may be gone: they make room. Who can write the
trail's files could make all hashes anew, so compare the last ones, which it
prints, with those that another machine was sent.

Exit status: 0 when the daemon has answered, or with --verify records follow one
another;` + operatorExits

const logExamples = `  doorward log
  doorward log ssh --source 192.0.2.7
  doorward log --since yesterday --event refused --event error
  doorward log --follow
  doorward log --json --limit all | jq -r 'select(.event == "refused").source' | sort | uniq -c
  doorward log --json --limit all > trail.json; doorward log --verify trail.json`

// logFlags is what stands on the command line of doorward log.
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
	f.StringVar(&o.since, "since", "", "only what is not before this `TIME`")
	f.StringVar(&o.until, "until", "", "only what is before this `TIME`")
	f.StringSliceVar(&o.q.Events, "event", nil, "only this `EVENT`; may stand several times")
	f.StringVar(&o.after, "after", "", "only what comes after the record with this `ID`, 0 for all")
	f.StringVarP(&o.limit, "limit", "n", "", "the newest `N` records, at most 10000, or all")
	f.BoolVarP(&o.q.Follow, "follow", "f", false, "go on with new records as they come")
	f.BoolVar(&o.utc, "utc", false, "print and read times in UTC")
	f.BoolVar(&o.json, "json", false, "print JSON, one object a line")
	f.BoolVar(&o.verify, "verify", false, "look at whether records follow one another, here or in a FILE")
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
		if o.q.Since, err = parseWhen(o.since, now, false); err != nil {
			return fmt.Errorf("--since %w", err)
		}
		if o.q.Since.After(now) {
			return fmt.Errorf("--since %q is %s, which is yet to come: a time without a date is of today", o.since, o.q.Since.Format(form))
		}
	}
	if changed("until") {
		if o.q.Until, err = parseWhen(o.until, now, true); err != nil {
			return fmt.Errorf("--until %w", err)
		}
		if !o.q.Since.Before(o.q.Until) {
			return fmt.Errorf("--until %q is %s, which is not behind --since, %s", o.until, o.q.Until.Format(form), o.q.Since.Format(form))
		}
		if o.q.Follow {
			return errors.New("--until and --follow do not go together: what is yet to come has no end")
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
		return errors.New("--limit, --after and --follow do not go together: all that comes after is printed")
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
			fmt.Fprintf(e.stderr, "doorward: %s; waiting until it is back\n", printable(err.Error()))
		},
		Back: func() { fmt.Fprintln(e.stderr, "doorward: the daemon is back") },
	}
	var gone error // which is no part of what is printed
	r.Gone = func(after, until uint64) {
		fmt.Fprintf(e.stderr, "doorward: warning: records between %d and %d are gone: newer ones have their place; all others are printed\n", after, until)
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
		fmt.Fprintln(e.stderr, "doorward: there are no such records")
	}
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	return gone
}

// behindAll is a query of what comes from now on.
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
	t := &trail{w: e.stdout, dress: e.dressFor(e.stdout), zone: o.now(e).Location(), columns: columns(e.stdout),
		hold: !o.q.Follow && !o.q.Oldest}
	if !t.hold { // what comes is not known: room for the usual
		t.sheet.fit("", "", strings.Repeat(" ", 8), "255.255.255.255", "")
	}
	return t.record, t.flush
}

// columns is how wide the terminal is, 0 if w is none.
func columns(w io.Writer) int {
	if f, ok := w.(interface{ Fd() uintptr }); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return 0
}

// trail prints records in columns. While it holds, records are kept so that
// the columns fit them all; otherwise columns grow as they must.
type trail struct {
	w       io.Writer
	dress   dress
	zone    *time.Location
	columns int // of the terminal, 0 for none
	hold    bool
	sheet   sheet
	held    [][]string
}

// record takes one record.
func (t *trail) record(r audit.Record) error {
	cells := t.cells(r)
	t.sheet.fit(cells...)
	if t.hold {
		t.held = append(t.held, cells)
		return nil
	}
	return t.print(cells)
}

// flush prints what was held.
func (t *trail) flush() error {
	for _, cells := range t.held {
		if err := t.print(cells); err != nil {
			return err
		}
	}
	t.held = nil
	return nil
}

// What is left of a terminal's line for words must be so wide for them to stand there;
// otherwise they stand below, with an indent.
const (
	leastWidth = 40
	below      = "    "
)

// print prints a record, on one line unless a terminal is too narrow for it.
func (t *trail) print(cells []string) error {
	text := t.sheet.line(cells...)
	if words := cells[len(cells)-1]; t.columns > 0 && lipgloss.Width(text) > t.columns && words != "" {
		head := t.sheet.line(slices.Concat(cells[:len(cells)-1], []string{"."})...)
		head = strings.TrimSuffix(head, ".")
		indent := strings.Repeat(" ", lipgloss.Width(head))
		if t.columns-len(indent) < leastWidth {
			head, indent = strings.TrimRight(head, " ")+"\n"+below, below
		}
		lines := strings.Split(lipgloss.Wrap(words, max(1, t.columns-len(indent)), " "), "\n")
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], " ")
		}
		text = head + strings.Join(lines, "\n"+indent)
	}
	_, err := fmt.Fprintln(t.w, text)
	return err
}

// cells are a record's columns: when, what, where, who, and the rest in words.
func (t *trail) cells(r audit.Record) []string {
	at := r.Time.In(t.zone)
	why := printable(r.Reason)
	if r.Reason == "by "+r.By {
		why = "" // said below
	}
	if r.Until != nil {
		until := "until " + until(r.Until.In(t.zone), at)
		if why == "" {
			why = until
		} else {
			why += " (" + until + ")"
		}
	}
	if r.By != "" {
		by := "by " + printable(r.By)
		if why == "" {
			why = by
		} else {
			why = by + ": " + why
		}
	}
	return []string{
		t.dress.faint.Render(at.Format(moment)),
		t.event(r.Event), orDash(r.Door), orDash(r.Source), why,
	}
}

// moment is how a time is written that stands alone.
const moment = "2006-01-02 15:04:05 -0700"

// until writes a time that stands beside another one: what it has in common with that
// is not repeated.
func until(u, at time.Time) string {
	switch {
	case u.Format("-0700") != at.Format("-0700"):
		return u.Format(moment)
	case u.Format(time.DateOnly) != at.Format(time.DateOnly):
		return u.Format(time.DateTime)
	}
	return u.Format(time.TimeOnly)
}

// event colours what an operator looks for, padded so that columns stand still
// while a trail is followed.
func (t *trail) event(event string) string {
	padded := fmt.Sprintf("%-8s", printable(event))
	switch event {
	case audit.EventOpened, audit.EventGranted, audit.EventLogin:
		return t.dress.good.Render(padded)
	case audit.EventRefused, audit.EventRepaired:
		return t.dress.warn.Render(padded)
	case audit.EventFailsafe, audit.EventError:
		return t.dress.bad.Render(padded)
	}
	return padded
}

// orDash stands in for what is not there.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}
