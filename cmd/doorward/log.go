package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

const logHelp = `Print the audit trail: who knocked, what was decided, and why; what operators
ordered; who logged in; and what the daemon had to put right. Oldest first, in
local time.

The events: opened and dark (the door), granted, revoked and expired (a source's
leave to connect), login (by way of the door, with what let it in), refused (a
knock, with its penalty if it has one), failsafe and armed, repaired (fence,
listener or service differed from what it should be), error, applied (a
configuration), started and stopped (the daemon).

Refusals that come in floods are summed up: the first ten of a network (an IPv4
/24, an IPv6 /48) are told one by one, then one record a minute says how many
more there were, from how many addresses, and what the last one was. Source is
the network then.

With --follow the trail goes on as things happen, until Ctrl-C.

--json prints one JSON object a line, with the id of each record, which rises by
one; times are RFC 3339. A sum has the key count; each other record is of one.

Of an order JSON has, beside the words of "by", the process that gave it, as the
kernel told it: by_uid, by_pid, and by_login, the user who logged in, whoever
they have become since. That is not known before Linux 6.5, nor of services,
which can set it themselves.
by_sudo_user is what sudo told the command, which proves nothing. A login has
.login.user, .port, .method and .grant.

Exit status: 0 when the daemon has answered;` + operatorExits

const logExamples = `  doorward log
  doorward log ssh --source 192.0.2.7
  doorward log --follow
  doorward log --json --limit 10000 | jq -r 'select(.event == "refused").source' | sort | uniq -c`

func newLog(e *env) *cobra.Command {
	var q control.LogQuery
	var asJSON bool
	c := &cobra.Command{
		Use:               "log [DOOR]",
		Short:             "print the audit trail: who knocked, what was decided, why",
		Long:              logHelp,
		Example:           logExamples,
		Args:              doorArg(false),
		ValidArgsFunction: completeDoors(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			q.Door = firstOf(args)
			show := func(r audit.Record) error { return printJSONLine(e.stdout, r) }
			done := func() error { return nil }
			if !asJSON {
				t := &trail{w: e.stdout, dress: e.dressFor(e.stdout), zone: e.clock().Location(), hold: !q.Follow}
				if q.Follow { // what comes is not known: room for the usual
					t.sheet.fit("", "", strings.Repeat(" ", 8), "255.255.255.255", "")
				}
				show, done = t.record, t.flush
			}
			err := e.client(c).Log(c.Context(), q, show)
			if q.Follow && errors.Is(err, context.Canceled) { // how a follow is meant to end
				err = nil
			}
			return errors.Join(err, done())
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&q.Source, "source", "", "only what concerns this `SOURCE`: an address, a prefix, or any")
	f.IntVarP(&q.Limit, "limit", "n", 100, "the newest `N` records, at most 10000")
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on with new records as they come")
	f.BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	operatorFlags(e, c)
	return c
}

// trail prints records in columns. While it holds, records are kept so that
// the columns fit them all; otherwise columns grow as they must.
type trail struct {
	w     io.Writer
	dress dress
	zone  *time.Location
	hold  bool
	sheet sheet
	held  [][]string
}

// record takes one record.
func (t *trail) record(r audit.Record) error {
	cells := t.cells(r)
	t.sheet.fit(cells...)
	if t.hold {
		t.held = append(t.held, cells)
		return nil
	}
	_, err := fmt.Fprintln(t.w, t.sheet.line(cells...))
	return err
}

// flush prints what was held.
func (t *trail) flush() error {
	for _, cells := range t.held {
		if _, err := fmt.Fprintln(t.w, t.sheet.line(cells...)); err != nil {
			return err
		}
	}
	t.held = nil
	return nil
}

// cells are a record's columns: when, what, where, who, and the rest in words.
func (t *trail) cells(r audit.Record) []string {
	why := printable(r.Reason)
	if r.Until != nil {
		until := "until " + clockTime(r.Until.In(t.zone), r.Time.In(t.zone))
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
		t.dress.faint.Render(r.Time.In(t.zone).Format(time.DateTime)),
		t.event(r.Event), orDash(r.Door), orDash(r.Source), why,
	}
}

// event colours what an operator looks for, padded so that columns stand still
// while a trail is followed.
func (t *trail) event(event string) string {
	padded := fmt.Sprintf("%-8s", printable(event))
	switch event {
	case audit.EventOpened, audit.EventGranted:
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
