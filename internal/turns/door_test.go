package turns

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	when = time.Date(2026, 11, 27, 14, 0, 0, 0, time.UTC)
	ways = []Way{{Gateway: netip.MustParseAddr("192.0.2.1"), Own: netip.MustParseAddr("192.168.0.2"), Source: netip.MustParseAddr("203.0.113.7")}}
)

func TestDoorKnown(t *testing.T) {
	dir, err := Directory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d, other := At(dir, "gate\nssh"), At(dir, "gate\nweb")
	if k := d.Known(); len(k.Ways) > 0 || k.Open(when) {
		t.Errorf("of a door that nobody has told of: %+v", k)
	}
	k := Known{At: when, Until: when.Add(time.Minute), Ways: ways, Failed: &Failure{Port: 22, Code: "timeout", Message: "x", Hint: "y"}}
	d.Tell(k)
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(k, d.Known(), same); diff != "" {
		t.Errorf("(-told +known):\n%s", diff)
	}
	if k := other.Known(); len(k.Ways) > 0 {
		t.Errorf("another door: %+v", k)
	}
	info, err := os.Stat(d.path + ".door")
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may read it: %v, %v", info.Mode(), err)
	}
	k.Alone = when.Add(time.Hour)
	d.Tell(k)
	d.Forget()
	if got := d.Known(); got.Open(when) || len(got.Ways) > 0 || !got.Alone.Equal(k.Alone) {
		t.Errorf("forgotten: %+v", got)
	}
	for _, text := range []string{"", "{", `{"at":7}`} {
		if err := os.WriteFile(d.path+".door", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := d.Known(); len(got.Ways) > 0 || !got.At.IsZero() {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// A door that others may write of is not believed in, and no door at all remembers nothing.
func TestDoorOfOthers(t *testing.T) {
	dir, err := Directory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := At(dir, "gate")
	d.Tell(Known{At: when, Until: when.Add(time.Minute), Ways: ways})
	if err := os.Chmod(d.path+".door", 0o622); err != nil {
		t.Fatal(err)
	}
	if k := d.Known(); len(k.Ways) > 0 {
		t.Errorf("what others may write is believed: %+v", k)
	}
	var none *Door
	none.Tell(Known{Ways: ways})
	none.Forget()
	none.Promise(when, when.Add(time.Hour))
	if turn, err := none.Take(t.Context()); turn != nil || err != nil || len(none.Known().Ways) > 0 || !none.Stay(t.Context()).Leave() || !none.Promised(when).IsZero() {
		t.Errorf("no door: %v, %v, %+v", turn, err, none.Known())
	}
}

func TestKnownOpen(t *testing.T) {
	open := Known{At: when, Until: when.Add(time.Minute), Ways: ways}
	alone, nowhere, future := open, open, open
	future.Alone = when.Add(2 * AloneFor)
	alone.Alone, nowhere.Ways = when.Add(30*time.Second), nil
	for name, tt := range map[string]struct {
		k     Known
		after time.Duration
		want  bool
	}{
		"at once":                               {open, 0, true},
		"nearly at its end":                     {open, 58 * time.Second, false},
		"before a moment":                       {open, 56 * time.Second, true},
		"over":                                  {open, time.Hour, false},
		"the clock was set":                     {open, -time.Second, false},
		"for one connection":                    {alone, 10 * time.Second, false},
		"no longer for one":                     {alone, 40 * time.Second, true},
		"for one, by a clock that was set back": {future, 10 * time.Second, true},
		"nowhere":                               {nowhere, 0, false},
	} {
		if got := tt.k.Open(when.Add(tt.after)); got != tt.want {
			t.Errorf("%s: open %v, want %v", name, got, tt.want)
		}
	}
	moved := open
	moved.Ways = []Way{{Source: netip.MustParseAddr("203.0.113.8")}}
	unknown := Known{Ways: []Way{{}}}
	if !open.SameSources(open) || open.SameSources(moved) || unknown.SameSources(unknown) || nowhere.SameSources(nowhere) {
		t.Error("the sources of two grants are compared wrongly")
	}
}

// Only the last of those that need a door is to close it, and while it does nobody comes to
// need it.
func TestStay(t *testing.T) {
	dir, err := Directory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := At(dir, "gate")
	first, second := d.Stay(t.Context()), d.Stay(t.Context())
	for range 2 { // it is asked again
		if first.Leave() {
			t.Error("the first to leave is the last")
		}
	}
	first.End()
	third := d.Stay(t.Context())
	if second.Leave() {
		t.Error("the second to leave is the last")
	}
	for range 2 {
		if !third.Leave() {
			t.Error("the last to leave is not the last")
		}
	}
	soon, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	if d.Stay(soon); soon.Err() == nil {
		t.Error("somebody can stay while the last closes the door")
	}
	third.End()
	fourth := d.Stay(t.Context())
	fourth.End() // without it, to leave first
	fourth.End()
	if fifth := d.Stay(t.Context()); !fifth.Leave() {
		t.Error("somebody is taken to stay who has ended")
	}
}

// What somebody was told, whom no call stands for, is remembered until it is over, or taken
// back.
func TestPromise(t *testing.T) {
	dir, err := Directory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := At(dir, "gate")
	if until := d.Promised(when); !until.IsZero() {
		t.Errorf("nothing was promised: %v", until)
	}
	long, short := when.Add(time.Hour), when.Add(time.Minute)
	d.Promise(when, long)
	d.Promise(when, short)
	for name, tt := range map[string]struct {
		at   time.Time
		want time.Time
	}{
		"at once":           {when, long},
		"nearly at its end": {long.Add(-time.Second), long},
		"over":              {long, time.Time{}},
		"the clock was set": {when.Add(-time.Second), time.Time{}},
	} {
		if got := d.Promised(tt.at); !got.Equal(tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	d.Tell(Known{At: when, Until: short, Ways: ways})
	if got := d.Promised(when); !got.Equal(long) {
		t.Errorf("after another knock: %v, want %v", got, long)
	}
	d.Forget()
	if got := d.Promised(when); !got.IsZero() {
		t.Errorf("after the door was closed: %v", got)
	}
}
