//go:build linux

package presence

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// newAutoFor returns what Auto returns on a machine whose journal and logs are those of j.
func newAutoFor(j *fakeJournal) *Log {
	a := newAuto()
	a.socket = j.path("socket")
	a.places[0].source = j.log().src
	for i, name := range []string{"auth.log", "secure", "messages"} {
		a.places[i+1].source = newFiles([]string{j.path(name)})
	}
	return &Log{src: a, now: func() time.Time { return j.now }}
}

func TestAuto(t *testing.T) {
	for _, test := range []struct {
		name  string
		setup func(j *fakeJournal)
		user  string
		at    string // the name of the source
		warn  string // a part of its only warning
	}{
		{"journald runs", func(j *fakeJournal) {
			j.write("socket", "")
			j.add("07:40", by("alice"))
			j.write("auth.log", in("07:50", "mallory"))
		}, "alice", "the journal", ""},
		{"journald runs, not for us", func(j *fakeJournal) {
			j.write("socket", "")
			j.write("fail", "No journal files were opened due to insufficient permissions.")
			j.write("auth.log", in("07:40", "alice"))
		}, "alice", "auth.log", "because the journal: "},
		{"journald keeps nothing", func(j *fakeJournal) {
			j.write("socket", "")
			j.write("secure", in("07:40", "alice"))
		}, "alice", "secure", ""},
		{"a journal of long ago in an image", func(j *fakeJournal) {
			j.add("05:00", by("mallory"))
			j.write("auth.log", in("07:40", "alice"))
		}, "alice", "auth.log", ""},
		{"Alpine", func(j *fakeJournal) {
			j.write("messages", strings.Replace(in("07:40", "alice"), " sshd", " auth.info sshd", 1))
		}, "alice", "messages", ""},
		{"just rotated", func(j *fakeJournal) {
			j.write("secure", "")
			j.write("secure-20261124", in("07:40", "alice"))
		}, "alice", "secure", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newFakeJournal(t)
			test.setup(j)
			l := newAutoFor(j)
			last(t, l, test.user, "07:40")
			last(t, l, test.user, "07:40")
			if w := l.Warnings(); (test.warn != "") != (len(w) == 1) || !strings.Contains(strings.Join(w, ""), test.warn) {
				t.Errorf("warnings %q, want one about %q", w, test.warn)
			}
			want := test.at
			if want != "the journal" {
				want = j.path(want)
			}
			if l.String() != want {
				t.Errorf("String = %q, want %q", l.String(), want)
			}
		})
	}
}

// A source that was not there at the start may appear later; the first one that is there
// counts.
func TestAutoLooksAgain(t *testing.T) {
	j := newFakeJournal(t)
	l := newAutoFor(j)
	_, _, err := l.Last(t.Context())
	if !errors.Is(err, ErrNoData) {
		t.Fatalf("nothing there: %v", err)
	}
	for _, want := range []string{
		"no log data: journald does not run (", j.path("auth.log") + ": no such file or directory; ",
		j.path("secure") + ": no such file", j.path("messages") + ": no such file", "presence.logins",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing there: %q lacks %q", err, want)
		}
	}
	if n := strings.Count(err.Error(), "no log data"); n != 1 {
		t.Errorf("%q says it %d times", err, n)
	}
	j.write("secure", in("07:40", "alice"))
	last(t, l, "alice", "07:40")
	j.write("auth.log", in("07:50", "bob"))
	last(t, l, "bob", "07:50")
	j.must(os.Remove(j.path("auth.log")))
	last(t, l, "bob", "07:50") // a login that was seen is not forgotten
	j.must(os.Remove(j.path("secure")))
	if _, _, err := l.Last(t.Context()); !errors.Is(err, ErrNoData) {
		t.Errorf("all gone: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := newAutoFor(j).Last(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoData) {
		t.Errorf("Last of an ended context: %v", err)
	}
}

// If a source breaks or disappears, another one with data is used, until the first one
// works again.
func TestAutoGoesOnElsewhere(t *testing.T) {
	broken := func(j *fakeJournal) { j.write("fail", "Failed to iterate through journal: Bad message\n") }
	for _, test := range []struct {
		name   string
		breaks func(*fakeJournal)
		mend   func(*fakeJournal)
		warn   string // "" for none
	}{
		{"a damaged block", broken, func(j *fakeJournal) { j.must(os.Remove(j.path("fail"))) },
			": exit status 1: Failed to iterate through journal: Bad message; `journalctl --verify` tells"},
		{"journald is gone", func(j *fakeJournal) { j.rename("socket", "gone") }, func(j *fakeJournal) { j.rename("gone", "socket") }, ""},
		{"the journal was vacuumed", func(j *fakeJournal) { j.rename("entries", "gone") }, func(j *fakeJournal) { j.rename("gone", "entries") }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newFakeJournal(t)
			j.write("socket", "")
			j.add("07:40", by("alice"))
			l := newAutoFor(j)
			last(t, l, "alice", "07:40")
			test.breaks(j)
			_, _, err := l.Last(t.Context())
			if !errors.Is(err, ErrNoData) || test.warn != "" && !strings.Contains(err.Error(), "Bad message; "+j.path("auth.log")) ||
				test.warn != "" && !strings.Contains(err.Error(), "; `journalctl --verify` tells") {
				t.Errorf("nothing else there: %v, want %q", err, test.warn)
			}
			j.write("auth.log", noise("07:45"))
			last(t, l, "alice", "07:40") // a login that was seen is not forgotten
			j.write("auth.log", in("07:50", "bob"))
			last(t, l, "bob", "07:50")
			w := strings.Join(l.Warnings(), "\n")
			want := "logins are read from " + j.path("auth.log") + ", because the journal: " + j.path("journalctl") + test.warn
			if test.warn != "" && !strings.HasPrefix(w, want) || test.warn == "" && w != "" {
				t.Errorf("warnings %q, want %q...", w, want)
			}
			if l.String() != j.path("auth.log") {
				t.Errorf("String = %q", l)
			}
			test.mend(j)
			j.now = j.now.Add(2 * askAtMost)
			j.add("08:01", by("carol"))
			last(t, l, "carol", "08:01")
			quiet(t, l)
			if l.String() != "the journal" {
				t.Errorf("String = %q", l)
			}
		})
	}
}

// If the journal can be read only in part, the text log counts as well.
func TestAutoWithAPartOfTheJournal(t *testing.T) {
	j := newFakeJournal(t)
	j.write("socket", "")
	j.add("07:00", "older, and damaged")
	j.add("07:30", by("alice"))
	j.write("break", "Failed to iterate through journal: Bad message\n")
	l := newAutoFor(j)
	last(t, l, "alice", "07:30")
	j.write("auth.log", in("07:50", "bob"))
	last(t, l, "bob", "07:50")
	if want := "the journal, " + j.path("auth.log"); l.String() != want {
		t.Errorf("String = %q, want %q", l, want)
	}
	if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "can be read in part only") {
		t.Errorf("warnings %q", w)
	}
}

// counted is a source that counts how often it is read.
type counted struct {
	source
	looks int
}

func (c *counted) last(ctx context.Context, now time.Time) (Login, bool, []string, error) {
	c.looks++
	return c.source.last(ctx, now)
}

// A broken source is tried again, but not at each look, as long as another source has
// data.
func TestABrokenSourceIsSpared(t *testing.T) {
	none := &counted{source: &stub{err: &noData{why: "the journal: broken", hint: "mend it"}, odd: []string{"the journal: broken"}}}
	log := &stub{}
	a := &auto{places: []*place{{source: none, costs: true}, {source: log}}}
	for n := range 720 { // an hour
		if _, _, _, err := a.last(t.Context(), eight.Add(time.Duration(n)*5*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if none.looks < 55 || none.looks > 65 {
		t.Errorf("a broken source was read %d times in an hour of 720 looks, want about once a minute", none.looks)
	}
	// Without data elsewhere, each look reads all sources.
	none.looks, log.err = 0, &noData{why: "gone", hint: "bring it back"}
	for n := range 100 {
		_, _, _, err := a.last(t.Context(), eight.Add(2*time.Hour+time.Duration(n)*10*time.Second))
		if !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "the journal: broken; gone; mend it; ") {
			t.Fatalf("no data: %v", err)
		}
	}
	if none.looks != 100 && none.looks != 101 {
		t.Errorf("the first source was read %d times, want 100, and at most once more when the other disappeared", none.looks)
	}
	// A clock that is set back does not make the source wait for long.
	log.err, none.looks = nil, 0
	for range 2 {
		if _, _, _, err := a.last(t.Context(), eight); err != nil {
			t.Fatal(err)
		}
	}
	if none.looks == 0 {
		t.Error("after the clock was set back, the broken source was not read again")
	}
}

// stub is a source with given results.
type stub struct {
	odd []string
	err error
}

func (s *stub) last(context.Context, time.Time) (Login, bool, []string, error) {
	return Login{}, false, s.odd, s.err
}

func (s *stub) newLogins() ([]Login, int) { return nil, 0 }

func (s *stub) String() string { return "stub" }
