//go:build linux

package presence

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// zoneinfo returns the path of a time zone's file.
func zoneinfo(t *testing.T, name string) string {
	t.Helper()
	path := "/usr/share/zoneinfo/" + name
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no time zones on this machine: %v", err)
	}
	return path
}

// Stamps are read in the time zone that the machine has at each look, however it is set.
func TestZoneIsFollowed(t *testing.T) {
	t.Setenv("TZ", "") // restored afterwards
	os.Unsetenv("TZ")
	d := newLogDir(t)
	link := d.path("localtime")
	now := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC).Local()
	l := d.log("auth.log")
	l.zone.path = link
	l.now = func() time.Time { return now }
	kathmandu, berlin := zoneinfo(t, "Asia/Kathmandu"), zoneinfo(t, "Europe/Berlin")
	for n, step := range []struct {
		name string
		set  func()
		utc  string // the time of a line that is stamped 07:30
	}{
		{"none", func() {}, "07:30"},
		{"a link is set after the start", func() { d.must(os.Symlink(berlin, link)) }, "06:30"},
		{"another link", func() { d.must(os.Remove(link)); d.must(os.Symlink(kathmandu, link)) }, "01:45"},
		{"a file in its place", func() {
			data, err := os.ReadFile(berlin)
			d.must(err)
			d.must(os.WriteFile(d.path("new"), data, 0o644))
			d.rename("new", "localtime")
		}, "06:30"},
		{"the file is written anew", func() {
			data, err := os.ReadFile(kathmandu)
			d.must(err)
			d.must(os.WriteFile(link, data, 0o644))
		}, "01:45"},
		{"it is removed", func() { d.must(os.Remove(link)) }, "07:30"},
	} {
		step.set()
		d.must(os.WriteFile(d.path("auth.log"), []byte(in("07:30", fmt.Sprintf("u%d", n))), 0o600))
		d.must(os.Chtimes(d.path("auth.log"), now, now))
		l.src = newFiles([]string{d.path("auth.log")})
		last(t, l, fmt.Sprintf("u%d", n), step.utc)
		quiet(t, l)
	}
	// TZ is only for this process, and a clock with a zone of its own keeps that.
	d.must(os.Symlink(berlin, link))
	for _, test := range []struct {
		tz  string
		now time.Time
		utc string
	}{{"anything", now, now.Format("15:04")}, {"", now.UTC(), "08:00"}, {"", now, "09:00"}} {
		if os.Unsetenv("TZ"); test.tz != "" {
			t.Setenv("TZ", test.tz)
		}
		z := zone{path: link}
		if got, odd := z.in(test.now); got.Format("15:04") != test.utc || len(odd) > 0 {
			t.Errorf("TZ=%q: %s, %q, want %s", test.tz, got, odd, test.utc)
		}
	}
}

// If the time zone cannot be read, as that of a new file from inside the sandbox, the
// previous one stays in use, with a warning.
func TestZoneThatCannotBeRead(t *testing.T) {
	t.Setenv("TZ", "")
	os.Unsetenv("TZ")
	d := newLogDir(t)
	d.must(os.Symlink(zoneinfo(t, "Asia/Kathmandu"), d.path("localtime")))
	z := zone{path: d.path("localtime")}
	local := func() string {
		now, odd := z.in(eight.Local())
		return strings.Join(append([]string{now.Format("15:04")}, odd...), " ")
	}
	if got := local(); got != "13:45" {
		t.Errorf("the zone: %s, want 13:45", got)
	}
	d.must(os.Remove(d.path("localtime")))
	for _, test := range []struct {
		name string
		make func()
		want string
	}{
		{"no zone", func() { d.write("localtime", "no zone") }, d.path("localtime") + ": malformed time zone information"},
		{"a directory", func() { d.must(os.Mkdir(d.path("localtime"), 0o755)) }, d.path("localtime") + ": is a directory"},
	} {
		test.make()
		want := "13:45 the time zone cannot be read, so logins are read with the previous one: " + test.want +
			"; `systemctl restart doorward` reads it again"
		for range 2 {
			if got := local(); got != want {
				t.Errorf("%s: %s, want %s", test.name, got, want)
			}
		}
		d.must(os.Remove(d.path("localtime")))
	}
	if got := local(); got != "08:00" {
		t.Errorf("removed: %s, want 08:00", got)
	}
}

// A syslog daemon that still writes in the previous time zone is noticed by its lines.
func TestAWriterInAnotherZone(t *testing.T) {
	for _, test := range []struct {
		name string
		off  []time.Duration // of each line in turn
		each time.Duration   // between looks
		want string
	}{
		{"in step", []time.Duration{0}, 5 * time.Second, ""},
		{"an hour behind", []time.Duration{-time.Hour}, 5 * time.Second, "1h behind the clock"},
		{"five and a half ahead", []time.Duration{5*time.Hour + 30*time.Minute}, 5 * time.Second, "5h30m ahead of the clock"},
		{"looked at once in a minute", []time.Duration{-time.Hour}, time.Minute, "1h behind the clock"},
		{"held for a while", []time.Duration{-time.Hour - 20*time.Second, -time.Hour}, 5 * time.Second, "1h behind the clock"},
		{"another host in between", []time.Duration{-time.Hour, -time.Hour, -time.Hour, -time.Hour, 0}, 5 * time.Second, "1h behind the clock"},
		{"another host alone is behind", []time.Duration{0, 0, -time.Hour}, 5 * time.Second, ""},
		{"a clock that is off", []time.Duration{-7 * time.Minute}, 5 * time.Second, ""},
		{"looked at too seldom to tell", []time.Duration{-time.Hour}, 20 * time.Minute, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLogDir(t)
			d.write("auth.log", noise("07:59"))
			l := d.log("auth.log")
			last(t, l, "", "")
			for n := range 20 {
				d.now = d.now.Add(test.each)
				d.write("auth.log", noiseAt(d.now.Add(-test.each/2+test.off[n%len(test.off)])))
				last(t, l, "", "")
				if w := l.Warnings(); n < freshNeeded-1 && len(w) > 0 {
					t.Fatalf("warnings after %d lines: %q", n+1, w)
				}
			}
			w := l.Warnings()
			if test.want == "" && len(w) > 0 || test.want != "" && (len(w) != 1 || !strings.Contains(w[0], test.want) ||
				!strings.HasPrefix(w[0], d.path("auth.log")+": ") || !strings.Contains(w[0], "`systemctl restart rsyslog`")) {
				t.Errorf("warnings %q, want %q", w, test.want)
			}
			for range freshKept { // the syslog daemon was restarted
				d.now = d.now.Add(5 * time.Second)
				d.write("auth.log", noiseAt(d.now))
				last(t, l, "", "")
			}
			quiet(t, l)
		})
	}
	t.Run("many lines at once", func(t *testing.T) {
		d := newLogDir(t)
		d.write("auth.log", noise("07:59"))
		l := d.log("auth.log")
		last(t, l, "", "")
		d.now = d.now.Add(5 * time.Second)
		d.write("auth.log", strings.Repeat(noiseAt(d.now.Add(-time.Hour)), 1000))
		last(t, l, "", "")
		quiet(t, l)
		if n := len(l.src.(*files).fresh.kept); n != freshPerLook {
			t.Errorf("%d lines of 1000 were looked at, want %d", n, freshPerLook)
		}
	})
}

// A clock that was not set, or is behind its log, causes a warning.
func TestAClockThatWasNotSet(t *testing.T) {
	rfc3339 := func(hours int) string {
		return eight.Add(time.Duration(hours)*time.Hour).Format(time.RFC3339) + " gate CRON[8]: a line\n"
	}
	for _, test := range []struct {
		name  string
		write func(*logDir)
		now   time.Time
		want  []string
	}{
		{"1970", func(d *logDir) { d.write("auth.log", noise("07:00")) }, time.Unix(5, 0).UTC(),
			[]string{"the clock was not set: it says 1970-01-01, so the age of a login is unknown", "auth.log was last written at 2026-11-24T08:00:00Z, which is in the future: "}},
		{"a clock in March", func(d *logDir) { d.write("auth.log", noise("07:00")) }, eight.AddDate(0, -8, 0),
			[]string{"auth.log was last written at 2026-11-24T08:00:00Z, "}},
		{"and written since", func(d *logDir) {
			d.write("auth.log", rfc3339(-4)+rfc3339(-3)+rfc3339(-2)+rfc3339(-1))
			d.now = eight.AddDate(0, -8, 0)
			d.write("auth.log", d.now.Format(time.RFC3339)+" gate CRON[8]: a line\n")
		}, eight.AddDate(0, -8, 0), []string{"auth.log: has lines from after now: the clock is behind"}},
		{"and rotated", func(d *logDir) {
			d.write("auth.log.1", noise("06:00"))
			d.now = eight.AddDate(0, -8, 0)
			d.write("auth.log", noiseAt(d.now))
		}, eight.AddDate(0, -8, 0), []string{"auth.log.1 was last written at 2026-11-24T08:00:00Z, "}},
		{"a few seconds behind", func(d *logDir) { d.write("auth.log", noise("07:00")) }, eight.Add(-30 * time.Second), nil},
		{"another host is ahead", func(d *logDir) { d.write("auth.log", noise("07:00")+rfc3339(48)+noise("07:01")) }, eight, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLogDir(t)
			test.write(d)
			d.now = test.now
			l := d.log("auth.log")
			last(t, l, "", "")
			w := l.Warnings()
			if len(w) != len(test.want) {
				t.Fatalf("warnings %q, want %q", w, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(w[i], want) {
					t.Errorf("warning %q, want %q", w[i], want)
				}
			}
			d.now = d.now.Add(time.Second) // the warning stays the same
			last(t, l, "", "")
			if again := l.Warnings(); !slices.Equal(again, w) {
				t.Errorf("a second later: %q, before %q", again, w)
			}
		})
	}
}

func TestAJournalFromAfterNow(t *testing.T) {
	j := newFakeJournal(t)
	j.add("09:30", "a line")
	l := j.log()
	last(t, l, "", "")
	want := "the journal's newest entry is of 2026-11-24T09:30:00Z, which is in the future: "
	if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], want) {
		t.Errorf("warnings %q, want %q...", w, want)
	}
	j.now = at("09:31")
	last(t, l, "", "")
	quiet(t, l)
}

// On 29 March 2026 Berlin's clocks went from 2:00 to 3:00.
func TestAStampInASkippedHour(t *testing.T) {
	d := newLogDir(t)
	berlin := location(t, "Europe/Berlin")
	d.now = time.Date(2026, 3, 29, 3, 35, 0, 0, berlin)
	d.write("auth.log", "Mar 29 01:59:00 gate CRON[8]: a line\nMar 29 02:30:00 gate sshd[7]: "+accepted+"\n")
	l := d.log("auth.log")
	last(t, l, "", "")
	want := d.path("auth.log") + `: logins do not count, since their stamp is in an hour that the clocks here skipped: `
	if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], want) || !strings.Contains(w[0], `"Mar 29 02:30:00 gate`) {
		t.Errorf("warnings %q, want %q...", w, want)
	}
	for _, line := range []string{"Mar 28 02:30:00", "Mar 29 03:30:00", "Mar 30 02:30:00", "Dec 29 02:30:00", "2025-03-29T02:30:00+01:00"} {
		d := newLogDir(t)
		d.now = time.Date(2026, 3, 30, 3, 35, 0, 0, berlin)
		d.write("auth.log", line+" gate sshd[7]: "+accepted+"\n")
		l := d.log("auth.log")
		if _, ok, err := l.Last(t.Context()); err != nil || !ok {
			t.Errorf("%s: %v, %v", line, ok, err)
		}
		quiet(t, l)
	}
}
