//go:build linux

package daemon

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"unicode"
)

// What strangers had a hand in does not act upon the terminal that a log is read
// in, nor keep journalctl from showing the line, and is said all the same.
func TestLogIsLegible(t *testing.T) {
	const hostile = "a\x1b[2J\u009b31mb\u2028c\u202ed\x7f"
	for _, stream := range []string{"", "8:12345"} {
		t.Setenv("JOURNAL_STREAM", stream)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		NewLogger(w, new(slog.LevelVar)).Warn("a login: "+hostile, "by", hostile)
		w.Close()
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line, ended := strings.CutSuffix(string(text), "\n")
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !ended {
			t.Errorf("JOURNAL_STREAM=%q: the log has %q", stream, text)
		}
		if stream != "" {
			if line, ended = strings.CutPrefix(line, "<4>"); !ended {
				t.Errorf("JOURNAL_STREAM=%q: %q has no priority of a warning", stream, line)
			}
		}
		var said struct{ Msg, By string }
		if err := json.Unmarshal([]byte(line), &said); err != nil || said.Msg != "a login: "+hostile || said.By != hostile {
			t.Errorf("JOURNAL_STREAM=%q: %v, the log says %q, by %q", stream, err, said.Msg, said.By)
		}
	}
}
