//go:build linux

package presence

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/tape"
)

// loginForm matches the line of a login: stamp, host, program and message.
var loginForm = regexp.MustCompile(
	`^\x00*(?:[A-Za-z]{3} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?|[0-9]{4}-[^ ]+) [^ \[]*[^ :\[] ` +
		`(?:(?:kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|ftp|local[0-7])` +
		`\.(?:emerg|alert|crit|err|warn|notice|info|debug) )?` +
		`sshd(?:-session)?(?:\.pam|\.krb5)?\[([1-9][0-9]{0,6})\]: (.*?)\r*$`)

// protocolForm matches the same in the form of RFC 5424.
var protocolForm = regexp.MustCompile(
	`^\x00*<(?:0|[1-9][0-9]{0,2})>1 [0-9]{4}-[^ ]+ [!-~]{1,255} sshd(?:-session)?(?:\.pam|\.krb5)? ([1-9][0-9]{0,6}) [!-~]{1,32} ` +
		`(?:-|(?:\[[^ \]]+(?: [^ "\]=]+="(?:[^"\\\]]|\\.)*")*\])+)  ?\x{feff}?(.*?)\r*$`)

var (
	messageForm  = regexp.MustCompile(`^(?:auth\.c:auth_log\(\):[^)]*\)(?:: )?)?Accepted ([a-zA-Z0-9][a-zA-Z0-9_./@-]*) for (.+)$`)
	repeatedForm = regexp.MustCompile(`^message repeated ([1-9][0-9]*) times: \[ (.*)\]$`)
	fromForm     = regexp.MustCompile(`^([^ ]+) port ([1-9][0-9]{0,4}) ssh2(?:: .*)?$`)
	childForm    = regexp.MustCompile(` \[(?:pre|post)auth\]$`)
)

// secondReading reads a login's user, method and source with these expressions.
func secondReading(line string) (l Login, ok bool) {
	m := loginForm.FindStringSubmatch(line)
	if m == nil {
		m = protocolForm.FindStringSubmatch(line)
	}
	if m == nil {
		return l, false
	}
	if pid, _ := strconv.Atoi(m[1]); pid > 1<<22 || len(m[2]) >= 500 {
		return l, false
	}
	return secondMessage(m[2])
}

func secondMessage(message string) (l Login, ok bool) {
	if r := repeatedForm.FindStringSubmatch(message); r != nil {
		if n, err := strconv.ParseUint(r[1], 10, 64); err == nil && n <= 1<<32 {
			message = r[2]
		}
	}
	m := messageForm.FindStringSubmatch(message)
	if m == nil || strings.IndexFunc(message, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 ||
		strings.HasPrefix(m[2], "invalid user ") || childForm.MatchString(message) {
		return l, false
	}
	for i := 1; i < len(m[2]); i++ {
		rest, is := strings.CutPrefix(m[2][i:], " from ")
		f := fromForm.FindStringSubmatch(rest)
		if !is || f == nil {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		p, _ := strconv.Atoi(f[2])
		if p > 65535 || err != nil && f[1] != "UNKNOWN" {
			continue
		}
		return Login{User: m[2][:i], Method: m[1], Source: a.Unmap(), Port: uint16(p)}, !a.Unmap().IsLoopback()
	}
	return l, false
}

// FuzzLog writes a log of finished and unfinished lines, in one piece, in pieces with a
// look after each, and with its first half rotated. It checks that the latest login is the
// one that reading every line finds, and that each login that was written after the first
// look is reported once.
func FuzzLog(f *testing.F) {
	for _, s := range []string{
		"\x00\x10\x00\x20\x01\x05", "\x00\x10\x02\x20\x00\x30\x05\x03\x07\x01\x04\x09\x00\x07", "\x03\xff\x03\xff\x00\x01\x03\xff\x00\x02",
		"\x06\x01\x00\x02\x06\x03\x00\x04\x00\x05\x05", "\x00\x03\x00\x02\x00\x01", "\x01\x00\x00\xff\x04\x00\x00\x01\x05\x00\xfe",
	} {
		f.Add([]byte(s))
	}
	quick := quickDir(f)
	f.Fuzz(func(t *testing.T, choices []byte) {
		c := tape.New(choices)
		dir, err := os.MkdirTemp(quick, "log")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "auth.log")
		grown := newFiles([]string{path})
		var best *Login
		var all []byte
		at := eight.Add(-2 * time.Hour)
		told, due := map[string]int{}, []string{}
		look := func(who string, fs *files) {
			t.Helper()
			got, ok, _, err := fs.last(context.Background(), eight)
			if fs == grown {
				read, _ := fs.newLogins()
				for _, l := range read {
					told[l.User]++
				}
			}
			if len(all) == 0 {
				if err == nil {
					t.Fatalf("%s: an empty log counts as data", who)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", who, err)
			}
			if ok != (best != nil) || ok && !got.Time.Equal(best.Time) {
				t.Fatalf("%s: got %+v (%v), want %+v in\n%.2000s", who, got, ok, best, all)
			}
		}
		for n := 0; c.More() && n < 60; n++ {
			line := drawLine(c, n, &at)
			all = append(all, line...)
			if finished := bytes.HasSuffix(line, []byte("\n")); !finished {
				if err := os.WriteFile(path, all, 0o600); err != nil {
					t.Fatal(err)
				}
				look("unfinished", grown)
				all = append(all, '\n')
			}
			if l, what := parseLine(strings.TrimSuffix(string(line), "\n"), eight); what == isLogin && len(line) < maxLogin &&
				(best == nil || l.Time.After(best.Time)) {
				best = &l
			}
			if l, what := parseLine(strings.TrimSuffix(string(line), "\n"), eight); what == isLogin && len(line) < maxLogin && len(grown.seen) > 0 {
				due = append(due, l.User)
			}
			if c.Byte()%4 == 0 {
				if err := os.WriteFile(path, all, 0o600); err != nil {
					t.Fatal(err)
				}
				look("grown", grown)
			}
		}
		if err := os.WriteFile(path, all, 0o600); err != nil {
			t.Fatal(err)
		}
		look("grown to the end", grown)
		for user, n := range told {
			if n != 1 {
				t.Errorf("the login of %q was reported %d times, want once", user, n)
			}
		}
		for _, user := range due {
			if told[user] == 0 {
				t.Errorf("the login of %q was not reported", user)
			}
		}
		look("read at once", newFiles([]string{path}))
	})
}

// quickDir returns a directory, in memory if possible, that is removed when the fuzz
// target ends.
func quickDir(f *testing.F) string {
	f.Helper()
	quick := "/dev/shm"
	if _, err := os.Stat(quick); err != nil {
		quick = ""
	}
	dir, err := os.MkdirTemp(quick, "doorward-log")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// drawLine makes a line of a log. Times increase, or decrease by less than disorder.
func drawLine(c *tape.Tape, n int, at *time.Time) []byte {
	kind := c.Below(8)
	*at = at.Add(time.Duration(c.Below(60)) * time.Second)
	stamp := at.Add(-time.Duration(c.Below(9)) * time.Minute).Format(time.RFC3339)
	login := fmt.Sprintf("%s gate sshd[%d]: Accepted password for user%d from 192.0.2.7 port 1 ssh2", stamp, n+1, n)
	switch kind {
	case 0, 1:
		return []byte(login + "\n")
	case 2:
		return []byte(login) // the rest of the line comes later
	case 3:
		return append(bytes.Repeat([]byte("Accepted "), tape.Of(c, []int{0, 1, 905, 915, 8000})), '\n')
	case 4:
		return []byte("\n")
	case 5:
		return []byte(stamp + " gate sudo[9]: " + login + "\n")
	case 6:
		return append(bytes.Repeat([]byte{0}, c.Below(300)), []byte(login+"\n")...)
	}
	return append(slices.Clone(c.Bytes(c.Below(40))), '\n')
}

// FuzzLines splits text into lines backward and forward, and compares the lines with those
// of splitting all of it at once. Text before zeros in a line does not matter.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nbc\n\nd"), uint16(0), byte('x'), false, uint16(2))
	f.Add([]byte("\n"), uint16(3), byte('x'), true, uint16(0))
	f.Add([]byte("x\ny"), uint16(maxLine-2), byte('x'), false, uint16(7))
	f.Add([]byte("\n\nabc"), uint16(maxLine-1), byte('x'), true, uint16(maxLine-1))
	f.Add([]byte("no end"), uint16(1), byte('x'), true, uint16(0))
	f.Add([]byte("a\nbc\nd"), uint16(maxLine-1), byte(0), true, uint16(0))
	f.Add([]byte("a\nbc\nd"), uint16(maxLine-1), byte(0), false, uint16(1))
	f.Add([]byte("\x00"), uint16(maxLine/2), byte('x'), false, uint16(0))
	f.Fuzz(func(t *testing.T, text []byte, fill uint16, with byte, front bool, begin uint16) {
		if long := bytes.Repeat([]byte{with}, 2*int(fill)); front {
			text = append(long, text...)
		} else {
			text = append(text, long...)
		}
		from := min(int(begin), len(text))
		want := bytes.Split(text[from:], []byte("\n"))
		i := len(want) - 1
		err := linesBackward(bytes.NewReader(text), int64(from), int64(len(text)), func(line []byte, long bool) bool {
			if i < 0 {
				t.Fatalf("more lines than %d", len(want))
			}
			// A line of maxLine bytes may be left out: where zeros stand before it, the last
			// of them counts, too.
			left := i == 0 && from > 0 && bytes.IndexByte(want[0], 0) < 0
			if w := afterZeros(want[i]); !long && !bytes.Equal(afterZeros(line), w) || long && len(w) < maxLine && !left || left && !long {
				t.Fatalf("line %d (long %v) is %.60q, want %.60q", i, long, line, w)
			}
			i--
			return true
		})
		if err != nil || i >= 0 {
			t.Fatalf("%v; lines before %d were not read", err, i)
		}
		want = bytes.Split(text, []byte("\n"))
		short := func(lines [][]byte) (kept [][]byte) {
			for _, l := range lines {
				if l = afterZeros(l); len(l) < maxLine {
					kept = append(kept, slices.Clone(l))
				}
			}
			return kept
		}
		var got [][]byte
		done, rest, err := linesForward(bytes.NewReader(text), false, func(line []byte) {
			got = append(got, slices.Clone(line))
		})
		finished := short(want[:len(want)-1])
		if got = short(got); err != nil || cmp.Diff(finished, got) != "" {
			t.Fatalf("forward: %v, %d lines, want %d", err, len(got), len(finished))
		}
		last := afterZeros(want[len(want)-1])
		if len(last) < maxLine && (done != int64(len(text)-len(rest)) || !bytes.Equal(afterZeros(rest), last)) {
			t.Fatalf("forward: %d of %d bytes were read and %.60q is left, want %.60q", done, len(text), rest, last)
		}
	})
}

// FuzzEntries checks that each line of journalctl's output is read separately, and that a
// line that is too long is skipped as a whole.
func FuzzEntries(f *testing.F) {
	var all []byte
	for _, line := range realEntries {
		all = append(append(all, line...), '\n')
	}
	f.Add(all, uint32(0))
	f.Add([]byte(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1"}`+"\n-- No entries --\n{}"), uint32(7))
	f.Add([]byte("\v"+`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1"}`), uint32(0)) // no white space to JSON
	for fill := range uint32(4) {
		f.Add([]byte(`{"__CURSOR":"b","__REALTIME_TIMESTAMP":"2"}`), maxEntry-45+fill)
	}
	f.Fuzz(func(t *testing.T, text []byte, fill uint32) {
		text = append(bytes.Repeat([]byte(" "), int(fill%(2*maxEntry))), text...)
		var want, got []string
		for line := range bytes.SplitSeq(text, []byte("\n")) {
			if e, ok := parseEntry(line); ok && len(line) < maxEntry {
				want = append(want, e.cursor)
			}
		}
		whole, err := eachEntry(bytes.NewReader(text), func(e entry) bool {
			got = append(got, e.cursor)
			return true
		})
		if !whole || err != nil || !slices.Equal(got, want) {
			t.Fatalf("entries %q, %v, %v; want %q", got, whole, err, want)
		}
	})
}
