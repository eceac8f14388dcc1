//go:build linux

package presence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// The article's list, rotated at 8:00: the login of 7:50 is in secure.1.
func TestRotationByRenaming(t *testing.T) {
	for _, names := range [][]string{{"secure", "secure.1", "secure.2", "secure.3", "secure.4"}, {"secure"}} {
		t.Run(strconv.Itoa(len(names)), func(t *testing.T) {
			d := newLogDir(t)
			d.write("secure", noise("05:00")+in("07:40", "alice"))
			l := d.log(names...)
			last(t, l, "alice", "07:40")
			d.write("secure", in("07:50", "bob"))
			d.rename("secure", "secure.1")
			last(t, l, "bob", "07:50")
			d.write("secure", noise("07:55"))
			last(t, l, "bob", "07:50")
			last(t, d.log(names...), "bob", "07:50")
			// The syslog daemon has not been told to reopen its file yet.
			d.write("secure.1", in("07:56", "carol"))
			last(t, l, "carol", "07:56")
			d.rename("secure.1", "secure.2")
			d.rename("secure", "secure.1")
			d.write("secure", in("07:58", "dave"))
			last(t, l, "dave", "07:58")
			quiet(t, l)
		})
	}
}

func TestRotationByCopying(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", strings.Repeat(noise("05:00"), 20)+in("07:40", "alice"))
	l := d.log("auth.log")
	last(t, l, "alice", "07:40")
	d.write("auth.log", in("07:50", "bob"))
	d.copytruncate("auth.log", "auth.log.1")
	last(t, l, "bob", "07:50")
	d.write("auth.log", noise("07:52"))
	last(t, l, "bob", "07:50")
	// Before the next look, the file grows beyond the offset up to which it was read.
	d.copytruncate("auth.log", "auth.log.1")
	d.write("auth.log", in("07:55", "carol")+strings.Repeat(noise("07:56"), 40))
	last(t, l, "carol", "07:55")
	quiet(t, l)
}

func TestCompressedRotations(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", noise("05:00")+in("07:50", "alice"))
	d.compress("auth.log")
	d.rename("auth.log.gz", "auth.log.2.gz")
	d.write("auth.log.1", noise("07:52"))
	d.write("auth.log", "")
	last(t, d.log("auth.log"), "alice", "07:50")
	// The list was made before the files were compressed.
	l := d.log("auth.log", "auth.log.1", "auth.log.2", "auth.log.3")
	last(t, l, "alice", "07:50")
	last(t, l, "alice", "07:50")
	quiet(t, l)
	d.must(os.Remove(d.path("auth.log.1")))
	last(t, l, "alice", "07:50")
	if got, _, _ := l.Last(t.Context()); got.Where != d.path("auth.log.2.gz") {
		t.Errorf("found in %q, want the compressed file", got.Where)
	}
}

// Files that are older than needed are not read.
func TestOlderFilesAreLeftAlone(t *testing.T) {
	d := newLogDir(t)
	d.now = at("07:29")
	d.write("auth.log.2.gz", "this is no gzip")
	d.now = at("07:40")
	d.write("auth.log.1", in("07:40", "alice"))
	d.now = eight
	d.write("auth.log", noise("07:50"))
	l := d.log("auth.log")
	for range 2 {
		last(t, l, "alice", "07:40")
		quiet(t, l)
	}
}

// Logins that were copied to another file before anybody looked count, whatever other
// hosts' clocks say in the lines between.
func TestCopiedAwayUnread(t *testing.T) {
	d := newLogDir(t)
	late := strings.Repeat(strings.Replace(noise("05:00"), "gate", "far", 1), 100)
	d.write("auth.log", in("07:00", "alice"))
	l := d.log("auth.log")
	last(t, l, "alice", "07:00")
	d.write("auth.log", in("07:50", "bob")+late)
	d.copytruncate("auth.log", "auth.log.1")
	d.write("auth.log", late+noise("07:55"))
	last(t, l, "bob", "07:50")
}

// Two logs, neither of which is a rotation of the other, both count.
func TestTwoLogs(t *testing.T) {
	d := newLogDir(t)
	d.write("one", noise("05:00")+in("07:00", "alice")+noise("07:59"))
	d.write("two", noise("05:00")+in("07:50", "bob"))
	last(t, d.log("one", "two"), "bob", "07:50")
}

func TestDatedRotations(t *testing.T) {
	d := newLogDir(t)
	d.write("secure", noise("07:55"))
	d.write("secure-20261122", in("07:50", "alice"))
	d.write("secure-20261115", in("06:00", "bob"))
	d.compress("secure-20261115")
	d.write("secure-latest", in("07:59", "mallory"))
	d.write("secure.1.swp", in("07:59", "mallory"))
	last(t, d.log("secure"), "alice", "07:50")
	d.must(os.Remove(d.path("secure-20261122")))
	last(t, d.log("secure"), "bob", "06:00")
}

func TestRotations(t *testing.T) {
	d := newLogDir(t)
	for _, n := range []string{"a.log", "a.log.10", "a.log.2.gz", "a.log.1", "a.log.1.gz", "a.log.3.gz", "a.log.x",
		"a.log-20261122", "a.log-20261115.gz", "a.log.bak", "a.log.0", "xa.log.1", "a.log.1.xz"} {
		d.write(n, "x\n")
	}
	var got []string
	for _, p := range places([]string{d.path("a.log")}) {
		got = append(got, filepath.Base(p))
	}
	if want := "a.log a.log.0 a.log.1 a.log.2.gz a.log.3.gz"; strings.Join(got, " ") != want {
		t.Errorf("places = %q, want %q", got, want)
	}
}

// The newest rotation may end in ".0", as with busybox syslogd, sysklogd and savelog.
func TestRotationZero(t *testing.T) {
	for _, suffix := range []string{"", ".gz"} {
		t.Run("messages.0"+suffix, func(t *testing.T) {
			d := newLogDir(t)
			d.write("messages.0", noise("05:00")+in("07:50", "alice"))
			if suffix != "" {
				d.compress("messages.0")
			}
			d.write("messages.1", in("04:00", "bob"))
			d.write("messages", noise("07:55"))
			last(t, d.log("messages"), "alice", "07:50")
		})
	}
}

// The dates of rotations may have other forms than logrotate's default.
func TestDates(t *testing.T) {
	for _, test := range []struct {
		names string // newest first
		over  string // names that are ignored
	}{
		{"l-20261122 l-20261115 l-20261108", ""},
		{"l-2026112207 l-2026112206.gz l-2026112123", ""},
		{"l-20261122-1795334400 l-20261122-1795330800 l-20261121-1795248000", ""},
		{"l-1795334400 l-1795330800", ""},
		{"l.2026-11-22 l.2026-11-15.gz", ""},
		{"l-2026-11-22_07 l-2026-11-22_06", ""},
		{"l_20261122T070509 l_20261122T070508", ""},
		{"l-2026.11.22-07:05 l-2026.11.22-07:04", ""},
		{"l.20261122.gz l.20261115.zst l.20261108.bz2 l.20261101", ""},
		{"l.0 l.1 l-20261122", ""},
		{"", "l-22112026"},         // day or year first?
		{"", "l-20261322"},         // no such month
		{"", "l-20260230"},         // no such day
		{"", "l.1.xz"},             // cannot be read
		{"", "l.1.lz4"},            //
		{"", "l.old"},              // its age is not known
		{"", "l-2026112"},          //
		{"", "l-20261122-x"},       //
		{"l.1.gz", "l.1.gz.part2"}, //
	} {
		t.Run(test.names+test.over, func(t *testing.T) {
			d := newLogDir(t)
			names := strings.Fields(test.names)
			for i := range names { // create them in another order than they are read
				d.write(names[(i*7+1)%len(names)], "x\n")
			}
			for _, n := range append(strings.Fields(test.over), "l") {
				d.write(n, noise("07:00"))
			}
			for _, n := range []string{"l.swp", "l~", "lx.1", "list.1", "l.bak", "l-latest", ".l.1"} {
				d.write(n, "x\n") // not rotations of l
			}
			var got []string
			for _, p := range places([]string{d.path("l")})[1:] {
				got = append(got, filepath.Base(p))
			}
			if diff := cmp.Diff(names, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("places (-want +got):\n%s", diff)
			}
			var over []string
			for _, n := range strings.Fields(test.over) {
				over = append(over, d.path(n))
			}
			l := d.log("l")
			if diff := cmp.Diff(over, l.PassedOver(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("ignored (-want +got):\n%s", diff)
			}
		})
	}
}

// The last line of a rotated file, to which nothing is written any more, counts even without
// a newline.
func TestLastLineOfARotatedFile(t *testing.T) {
	unfinished := strings.TrimSuffix(in("07:50", "alice"), "\n")
	for _, names := range [][]string{{"auth.log"}, {"auth.log", "auth.log.1"}} {
		t.Run(strconv.Itoa(len(names)), func(t *testing.T) {
			d := newLogDir(t)
			d.write("auth.log", "") // just begun
			d.now = at("07:50")
			d.write("auth.log.1", in("07:40", "bob")+unfinished)
			l := d.log(names...)
			last(t, l, "bob", "07:40") // the line may still be being written: half of a name is no name
			d.now = eight
			last(t, l, "alice", "07:50")
			last(t, l, "alice", "07:50")
			last(t, d.log(names...), "alice", "07:50")
			d.write("auth.log.1", "\n")
			last(t, l, "alice", "07:50")
			d.write("auth.log", in("07:55", "carol")+strings.TrimSuffix(in("07:58", "dave"), "\n"))
			d.now = at("09:00")
			last(t, l, "carol", "07:55")
			quiet(t, l)
		})
	}
	t.Run("said once", func(t *testing.T) {
		d := newLogDir(t)
		d.write("auth.log", noise("07:55"))
		d.now = at("07:50")
		d.write("auth.log.1", "yesterday gate sshd[7]: "+accepted)
		d.now = eight
		l := d.log("auth.log")
		for range 3 {
			last(t, l, "", "")
			if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], ": logins do not count") {
				t.Errorf("warnings %q", w)
			}
		}
	})
}

// A compressed file that is still being written is read up to its end, and again when it is
// complete.
func TestHalfCompressed(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log.1", in("07:50", "alice"))
	d.compress("auth.log.1")
	whole, err := os.ReadFile(d.path("auth.log.1.gz"))
	d.must(err)
	d.must(os.WriteFile(d.path("auth.log.1.gz"), whole[:15], 0o600))
	d.must(os.Chtimes(d.path("auth.log.1.gz"), d.now, d.now))
	d.write("auth.log", noise("07:55"))
	l := d.log("auth.log")
	last(t, l, "", "")
	if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "auth.log.1.gz: unexpected EOF") {
		t.Errorf("warnings %q", w)
	}
	d.must(os.WriteFile(d.path("auth.log.1.gz"), whole, 0o600))
	d.must(os.Chtimes(d.path("auth.log.1.gz"), d.now, d.now))
	last(t, l, "alice", "07:50")
	quiet(t, l)
}

// The stamps in a rotated file are not later than its modification time.
func TestAnOldFileIsOld(t *testing.T) {
	d := newLogDir(t)
	d.now = at("07:31").AddDate(-1, 0, 0)
	d.write("auth.log.1", inAt(at("07:30").AddDate(-1, 0, 0), "alice"))
	d.now = eight
	d.write("auth.log", noise("07:50"))
	got, ok, err := d.log("auth.log").Last(t.Context())
	if err != nil || !ok || !got.Time.Equal(at("07:30").AddDate(-1, 0, 0)) {
		t.Errorf("Last = %+v, %v, %v, want the login of a year ago", got, ok, err)
	}
}

// Whatever is appended, rotated, copied or compressed between two looks, a reader that looks
// now and then finds the same last login as one that reads everything.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := newLogDir(t)
		d.dir, _ = os.MkdirTemp(d.dir, "")
		d.now = at("00:00")
		names := []string{"l", "l.1", "l.2", "l.3", "l.4", "l.5", "l.6"}
		l := d.log(names...)
		user, when := "", time.Time{}
		lines := 0
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			d.now = d.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(rt, "minutes")) * time.Minute)
			switch rapid.SampledFrom([]string{"login", "login", "noise", "noise", "look", "look", "rename", "copy", "compress"}).Draw(rt, "step") {
			case "login":
				user, when = fmt.Sprintf("u%d", lines), d.now
				d.write("l", inAt(d.now, user))
				lines++
			case "noise":
				d.write("l", strings.Repeat(noiseAt(d.now), rapid.IntRange(1, 20).Draw(rt, "lines")))
				lines++
			case "rename", "copy":
				if _, err := os.Stat(d.path("l.6")); err == nil {
					continue
				} else if _, err := os.Stat(d.path("l.6.gz")); err == nil {
					continue
				}
				st, err := os.Stat(d.path("l"))
				if err != nil || st.Size() == 0 {
					continue
				}
				for i := 5; i >= 1; i-- {
					for _, z := range []string{"", ".gz"} {
						from, to := fmt.Sprintf("l.%d%s", i, z), fmt.Sprintf("l.%d%s", i+1, z)
						if _, err := os.Stat(d.path(from)); err == nil {
							d.rename(from, to)
						}
					}
				}
				if rapid.Bool().Draw(rt, "renames") {
					d.rename("l", "l.1")
				} else {
					d.copytruncate("l", "l.1")
				}
			case "compress":
				if _, err := os.Stat(d.path("l.2")); err == nil {
					d.compress("l.2")
				}
			case "look":
				d.agree(rt, l, lines, user, when)
			}
		}
		d.agree(rt, l, lines, user, when)
		d.agree(rt, d.log(names...), lines, user, when)
	})
}

func (d *logDir) agree(t *rapid.T, l *Log, lines int, user string, when time.Time) {
	got, ok, err := l.Last(context.Background())
	if lines == 0 {
		if !errors.Is(err, ErrNoData) {
			t.Fatalf("nothing written: %v", err)
		}
		return
	}
	if err != nil || ok != (user != "") || got.User != user || ok && !got.Time.Equal(when.Truncate(time.Second)) {
		t.Fatalf("Last = %s at %s, %v, %v, want %q at %s", got.User, got.Time, ok, err, user, when)
	}
}
