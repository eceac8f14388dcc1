//go:build linux

package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/journal"
)

const hostile = "a\x1b[2J\u009b31mb\u2028c\u202ed\x7f\nPRIORITY=0"

// Text that strangers can shape is in the log, but cannot control the terminal on which
// the log is read.
func TestLogIsLegible(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	newLogger(w, new(slog.LevelVar)).Warn("a login: "+hostile, "by", hostile)
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	line, ended := strings.CutSuffix(string(text), "\n")
	if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !ended {
		t.Errorf("the log has %q", text)
	}
	var said struct{ Msg, By string }
	if err := json.Unmarshal([]byte(line), &said); err != nil || said.Msg != "a login: "+hostile || said.By != hostile {
		t.Errorf("%v, the log says %q, by %q", err, said.Msg, said.By)
	}
}

// journalOf returns a logger to a journal, and a function that returns the journal's
// next entry.
func journalOf(t *testing.T, level *slog.LevelVar) (log *slog.Logger, stream *bytes.Buffer, next func() []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	j, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := journal.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); j.Close() })
	stream = &bytes.Buffer{}
	return slog.New(&journalHandler{level: level, to: conn, stream: stream}), stream, func() []string {
		b := make([]byte, 1<<16)
		n, err := j.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(b[:n]), "\n"), "\n")
	}
}

// Under systemd each entry is a line for people, with its keys as fields.
func TestJournalEntries(t *testing.T) {
	level := new(slog.LevelVar)
	log, stream, next := journalOf(t, level)
	for _, tt := range []struct {
		say  func()
		want []string
	}{
		{func() { log.Info("the daemon ends") }, []string{
			"MESSAGE=the daemon ends", "PRIORITY=6", "SYSLOG_IDENTIFIER=doorwardd",
		}},
		{func() {
			log.Info("granted", "door", "ssh", "source", "192.0.2.7", "by", "touch", "reason", "why", "until", time.Unix(0, 0).UTC())
		}, []string{
			"MESSAGE=door ssh: granted 192.0.2.7 by touch: why (until=1970-01-01T00:00:00Z)", "PRIORITY=6", "SYSLOG_IDENTIFIER=doorwardd",
			"DOORWARD_DOOR=ssh", "DOORWARD_SOURCE=192.0.2.7", "DOORWARD_BY=touch", "DOORWARD_REASON=why",
			"DOORWARD_UNTIL=1970-01-01T00:00:00Z",
		}},
		{func() { log.Info("dark", "door", "ssh", "by", "operator root", "reason", "by operator root") }, []string{
			"MESSAGE=door ssh: dark by operator root", "PRIORITY=6", "SYSLOG_IDENTIFIER=doorwardd",
			"DOORWARD_DOOR=ssh", "DOORWARD_BY=operator root", "DOORWARD_REASON=by operator root",
		}},
		{func() {
			log.With("door", "web").Error("cannot do it; trying again", "err", errors.New("no, not now"), "order unknown", 3, "because", "it is so")
		}, []string{
			`MESSAGE=door web: cannot do it; trying again: no, not now (order unknown=3 because="it is so")`, "PRIORITY=3",
			"SYSLOG_IDENTIFIER=doorwardd", "DOORWARD_DOOR=web", "DOORWARD_ERR=no, not now", "DOORWARD_ORDER_UNKNOWN=3", "DOORWARD_BECAUSE=it is so",
		}},
		{func() {
			log.WithGroup("a").With("b", 1).Warn("x", slog.Group("c", "d", ""), slog.Group("", "e", time.Second), slog.Attr{})
		}, []string{
			`MESSAGE=x (a_b=1 a_c_d="" a_e=1s)`, "PRIORITY=4", "SYSLOG_IDENTIFIER=doorwardd",
			"DOORWARD_A_B=1", "DOORWARD_A_C_D=", "DOORWARD_A_E=1s",
		}},
	} {
		tt.say()
		if diff := cmp.Diff(tt.want, next()); diff != "" {
			t.Errorf("the journal's entry (-want +got):\n%s", diff)
		}
	}
	log.Warn("a login: "+hostile, "by", hostile)
	for _, line := range next() {
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || strings.HasPrefix(line, "PRIORITY=0") {
			t.Errorf("for a stranger's text, the journal has the line %q", line)
		}
	}
	log.Debug("not said")
	level.Set(slog.LevelDebug)
	log.Debug("said")
	if got := next(); got[0] != "MESSAGE=said" || got[1] != "PRIORITY=7" {
		t.Errorf("at level debug, the journal has %q", got)
	}
	if stream.Len() > 0 {
		t.Errorf("standard error has %q, although the journal has it already", stream)
	}
}

// An entry that the journal's socket does not accept goes to standard error, which leads
// to the journal as well.
func TestALogWithoutTheJournalsSocket(t *testing.T) {
	nobody, err := journal.Dial(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	for _, conn := range []*journal.Conn{nil, nobody} {
		var stream bytes.Buffer
		log := slog.New(&journalHandler{level: slog.LevelInfo, to: conn, stream: &stream})
		log.Warn("odd\nx", "door", "ssh", "n", 2)
		if got, want := stream.String(), "<4>door ssh: odd\ufffdx (n=2)\n"; got != want {
			t.Errorf("standard error has %q, want %q", got, want)
		}
	}
}
