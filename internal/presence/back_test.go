//go:build linux

package presence

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// stray returns a line of another host, whose clock is wrong.
func stray(when time.Time) string {
	return when.Format(time.Stamp) + " elsewhere CRON[8]: a line with a clock of its own\n"
}

// A line whose stamp is wrong hides nothing: the search for the last login continues
// past it.
func TestOutliersHideNothing(t *testing.T) {
	april := time.Date(2026, 4, 2, 7, 0, 0, 0, time.UTC)
	ahead := eight.Add(2 * 24 * time.Hour) // without a year, this reads as two days less than a year ago
	morning := noise("05:00") + in("07:30", "alice") + noise("07:40")
	for _, test := range []struct{ name, log string }{
		{"the newest line", morning + stray(april)},
		{"the newest lines", morning + strings.Repeat(stray(april), 20)},
		{"a day that is still to come", morning + stray(ahead)},
		{"both", morning + stray(april) + stray(ahead) + stray(april)},
		{"an hour that is still to come", morning + stray(eight.Add(time.Hour))},
		{"between lines of now", morning + stray(april) + noise("07:45") + stray(ahead) + noise("07:50")},
		{"another year", morning + "2019-01-01T00:00:00Z elsewhere CRON[8]: a line\n"},
		{"a year to come", morning + "2029-01-01T00:00:00Z elsewhere CRON[8]: a line\n"},
		{"before a login that is out of order", noise("05:00") + in("07:30", "alice") + stray(april) + in("07:25", "bob")},
		{"a burst before one", noise("05:00") + in("07:30", "alice") + strings.Repeat(stray(april), 20) + in("07:25", "bob")},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLogDir(t)
			d.write("auth.log", test.log)
			l := d.log("auth.log")
			last(t, l, "alice", "07:30")
			quiet(t, l)
			d.write("auth.log", in("07:55", "carol"))
			last(t, l, "carol", "07:55")
		})
	}
}

// Where stamps make no sense any more, the search ends, with a warning.
func TestASearchThatGivesUpSaysSo(t *testing.T) {
	april := time.Date(2026, 4, 2, 7, 0, 0, 0, time.UTC)
	t.Run("a clock that was wrong for long", func(t *testing.T) {
		d := newLogDir(t)
		d.write("auth.log", in("07:30", "alice")+strings.Repeat(stray(april), 2*maxStray))
		l := d.log("auth.log")
		last(t, l, "", "")
		want := d.path("auth.log") + `: is not searched for logins before the line "Nov 24 07:30:00 gate sshd[7]: `
		if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], want) {
			t.Errorf("warnings %q, want %q...", w, want)
		}
		d.now = at("08:10")
		d.write("auth.log", in("08:05", "bob"))
		last(t, l, "bob", "08:05")
		quiet(t, l) // the lines before do not matter any more
	})
	t.Run("strays of nearly a year ago and others", func(t *testing.T) {
		d := newLogDir(t)
		d.write("auth.log", in("07:30", "alice")+stray(time.Date(2025, 12, 16, 7, 0, 0, 0, time.UTC))+
			stray(time.Date(2026, 8, 23, 7, 0, 0, 0, time.UTC))+noise("07:50")[:7])
		l := d.log("auth.log")
		last(t, l, "", "")
		if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "is not searched for logins before the line") {
			t.Errorf("warnings %q, want one", w)
		}
	})
	t.Run("a log that is too long", func(t *testing.T) {
		d := newLogDir(t)
		d.write("auth.log", in("07:30", "alice")+strings.Repeat(noise("07:40"), 4000))
		f := newFiles([]string{d.path("auth.log")})
		f.most = 4 * maxLine
		_, ok, warnings, err := f.last(t.Context(), d.now)
		want := fmt.Sprintf("%s: only the last %d bytes of it were searched", d.path("auth.log"), f.most)
		if err != nil || ok || len(warnings) != 1 || !strings.HasPrefix(warnings[0], want) {
			t.Errorf("%v, %v, warnings %q, want %q...", ok, err, warnings, want)
		}
	})
	t.Run("a year without logins is no reason", func(t *testing.T) {
		d := newLogDir(t)
		var log strings.Builder
		for n := 500; n > 0; n -= 5 {
			log.WriteString(noiseAt(eight.AddDate(0, 0, -n)))
		}
		d.write("auth.log", log.String())
		l := d.log("auth.log")
		last(t, l, "", "")
		quiet(t, l)
	})
}

// A plain file from long ago that was copied today does not count as today's.
func TestACopyOfAnOldFileIsOld(t *testing.T) {
	d := newLogDir(t)
	var log strings.Builder
	for n := 400; n > 200; n -= 5 {
		log.WriteString(noiseAt(eight.AddDate(0, 0, -n)))
		if n == 370 {
			log.WriteString(inAt(at("07:30").AddDate(-1, 0, 0), "alice")) // without a year, this reads as half an hour ago
		}
	}
	d.write("auth.log", log.String())
	last(t, d.log("auth.log"), "", "")
}

// After a power cut, blocks that were never written read as zeros. Logins after them
// count, however many zeros there are.
func TestZerosInsideALine(t *testing.T) {
	login := strings.TrimSuffix(in("07:50", "bob"), "\n")
	for _, n := range []int{1, 9000, maxLine, 5 * maxLine} {
		zeros := strings.Repeat("\x00", n)
		for _, test := range []struct{ name, line, user, at string }{
			{"before a line", zeros + login, "bob", "07:50"},
			{"in the middle of the line before", "Nov 24 07:49:00 gate CRON[8]: pam_un" + zeros + login, "bob", "07:50"},
			{"twice", "Nov 24 07:49:00 ga" + zeros + "te CRON[8]" + zeros + login, "bob", "07:50"},
			{"after a line that is too long", strings.Repeat("x", 3*maxLine) + zeros + login, "bob", "07:50"},
			{"at the end", login + zeros, "alice", "07:40"},
			{"in the middle of the login", login[:40] + zeros + login[40:], "alice", "07:40"},
		} {
			t.Run(fmt.Sprintf("%d %s", n, test.name), func(t *testing.T) {
				d := newLogDir(t)
				d.write("auth.log", in("07:40", "alice"))
				l := d.log("auth.log")
				last(t, l, "alice", "07:40")
				cut := max(0, strings.LastIndexByte(test.line, 0))
				d.write("auth.log", test.line[:cut])
				last(t, l, "alice", "07:40")
				d.write("auth.log", test.line[cut:]+"\n"+noise("07:55"))
				last(t, l, test.user, test.at)
				last(t, d.log("auth.log"), test.user, test.at)
			})
		}
	}
}

// After a copytruncate, a syslog daemon that does not open its file for appending
// continues at the old offset, so that the file has a hole. The hole is not searched.
func TestAHoleIsNotSearched(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", noise("07:00"))
	d.must(os.Truncate(d.path("auth.log"), 1<<40))
	d.write("auth.log", noise("07:30"))
	fs := newFiles([]string{d.path("auth.log")})
	fs.most = 64 * maxLine
	before := bytesRead(t)
	_, ok, warnings, err := fs.last(t.Context(), d.now)
	if err != nil || ok || len(warnings) != 1 || !strings.Contains(warnings[0], "were searched") {
		t.Errorf("%v, %v, warnings %q, want one that says how much was searched", ok, err, warnings)
	}
	if n := bytesRead(t) - before; n > 2*fs.most {
		t.Errorf("%d bytes were read, want about %d", n, fs.most)
	}
	d.write("auth.log", in("07:50", "alice"))
	if login, ok, _, err := fs.last(t.Context(), d.now); err != nil || login.User != "alice" {
		t.Errorf("after it: %+v, %v, %v, want alice", login, ok, err)
	}
}
