//go:build linux

package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/doorward/doorward/internal/journal"
	"github.com/doorward/doorward/internal/legible"
)

// NewLogger returns the daemon's logger, which writes to standard error: text on a
// terminal, else JSON. Where systemd has connected standard error to the journal, it
// sends entries of the journal instead: a line for people, the priority, and each key
// as a field DOORWARD_KEY.
//
// The socket for the entries is made here, since the daemon could not make it from
// inside its sandbox. It stays open until the process ends.
func NewLogger(level *slog.LevelVar) *slog.Logger {
	if is, err := systemd.StderrIsJournalStream(); is && err == nil {
		conn, _ := journal.Dial(journal.Socket) // without one, standard error reaches the journal, too
		return slog.New(&journalHandler{level: level, to: conn, stream: os.Stderr})
	}
	return newLogger(os.Stderr, level)
}

// ErrorPrefix returns what a line of standard error must begin with to be an error in
// the journal, sd-daemon(3), or "" if systemd has not connected the two.
func ErrorPrefix() string {
	if is, err := systemd.StderrIsJournalStream(); !is || err != nil {
		return ""
	}
	return fmt.Sprintf("<%d>", journal.Priority(slog.LevelError))
}

func newLogger(w *os.File, level *slog.LevelVar) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if term.IsTerminal(int(w.Fd())) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(legibleWriter{w}, opts))
}

// legibleWriter escapes characters that are not printable in lines of slog's JSON. On a
// terminal, slog's text handler quotes them.
type legibleWriter struct{ w io.Writer }

func (l legibleWriter) Write(line []byte) (int, error) {
	if _, err := l.w.Write(legible.JSON(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// journalHandler is a slog.Handler that sends entries to the journal. An entry that the
// journal's socket does not accept at once is written to standard error, which leads to
// the journal as well: a line without fields, after its priority (sd-daemon(3)).
type journalHandler struct {
	level  slog.Leveler
	to     *journal.Conn // nil if there is none
	stream io.Writer
	group  string // the prefix of names, "" or such as "a_b_"
	attrs  []logField
}

// logField is a key with its value.
type logField struct{ name, value string }

// Enabled implements slog.Handler.
func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		with.attrs = appendAttr(with.attrs, h.group, a)
	}
	return &with
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	with := *h
	if name != "" {
		with.group += name + "_"
	}
	return &with
}

// Handle implements slog.Handler. The journal stamps the entry itself.
func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	fields := slices.Clip(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fields = appendAttr(fields, h.group, a)
		return true
	})
	line := logLine(r.Message, fields)
	priority := journal.Priority(r.Level)
	var e journal.Entry
	e.Add("MESSAGE", line)
	e.Add("PRIORITY", strconv.Itoa(priority))
	e.Add("SYSLOG_IDENTIFIER", "doorwardd")
	for _, f := range fields {
		e.Add(journal.Prefix+f.name, f.value)
	}
	if h.to != nil && h.to.Send(&e) == nil {
		return nil
	}
	_, err := fmt.Fprintf(h.stream, "<%d>%s\n", priority, line)
	return err
}

// appendAttr appends the fields of a; the keys in a group follow the group's name.
func appendAttr(fields []logField, group string, a slog.Attr) []logField {
	v := a.Value.Resolve()
	switch {
	case v.Kind() == slog.KindGroup:
		if a.Key != "" {
			group += a.Key + "_"
		}
		for _, inner := range v.Group() {
			fields = appendAttr(fields, group, inner)
		}
		return fields
	case a.Equal(slog.Attr{}): // is ignored (slog.Handler)
		return fields
	case v.Kind() == slog.KindTime:
		return append(fields, logField{group + a.Key, v.Time().Format(time.RFC3339)})
	}
	return append(fields, logField{group + a.Key, v.String()})
}

// logLine returns a message and its keys as one line for people: "door ssh: granted
// 192.0.2.7 by touch: why (until=2026-11-24T08:50:01Z)".
func logLine(message string, fields []logField) string {
	var door, about, by, why string
	var rest []string
	for _, f := range fields {
		switch f.name {
		case "door":
			door = "door " + f.value + ": "
		case "source":
			about = " " + f.value + about
		case "by":
			by = "by " + f.value
			about += " " + by
		case "reason", "err", "error":
			why += ": " + f.value
		default:
			value := f.value
			if value == "" || strings.ContainsAny(value, " \t\"=(),") {
				value = strconv.Quote(value)
			}
			rest = append(rest, f.name+"="+value)
		}
	}
	if why == ": "+by {
		why = "" // for an operator's order, the reason only repeats who gave it
	}
	line := door + message + about + why
	if len(rest) > 0 {
		line += " (" + strings.Join(rest, " ") + ")"
	}
	return legible.Text(line)
}

// monotonicMicroseconds returns CLOCK_MONOTONIC in the unit of MONOTONIC_USEC=,
// sd_notify(3).
func monotonicMicroseconds() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano() / 1000
}
