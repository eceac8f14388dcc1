//go:build linux

package presence

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// newAutoFor is what Auto gives, on a machine whose journal and logs are j's.
func newAutoFor(j *fakeJournal) *Log {
	a := newAuto()
	a.socket = j.path("socket")
	a.journal = j.log().src
	for i, name := range []string{"auth.log", "secure", "messages"} {
		a.logs[i] = newFiles([]string{j.path(name)})
	}
	return &Log{src: a, now: func() time.Time { return j.now }}
}

func TestAuto(t *testing.T) {
	for _, test := range []struct {
		name  string
		setup func(j *fakeJournal)
		user  string
		at    string // what it is called
		warn  string // what its one warning is about
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

// What was not there at the start may come, and what was found is kept.
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
	last(t, l, "alice", "07:40")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := newAutoFor(j).Last(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoData) {
		t.Errorf("Last of an ended context: %v", err)
	}
}
