package turns

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/doorward/doorward/internal/files"
)

// Door is where calls of one user meet that want through the same door, and whose knocks
// are answered: they know how long it is open. A nil Door locks and remembers nothing.
type Door struct {
	dir, name string
	path      string // of its files, without what follows the last dot
}

// At returns the meeting place of a door. dir is for its files, as returned by Directory;
// name tells doors apart.
func At(dir, name string) *Door { return &Door{dir, name, filepath.Join(dir, fileOf(name))} }

// Take waits until no other call knocks at the door, as the function Take does.
func (d *Door) Take(ctx context.Context) (*Turn, error) {
	if d == nil {
		return nil, nil
	}
	return Take(ctx, d.dir, d.name)
}

// Known is what the last call knew of a door.
type Known struct {
	At    time.Time `json:"at"`    // when it was found out
	Until time.Time `json:"until"` // when the grant ends; zero: the door is not known to be open
	Ways  []Way     `json:"ways"`  // for which it was given
	// Alone is until when each call is to knock for itself: a grant seems to be good for
	// one connection only.
	Alone time.Time `json:"alone"`
	// Spent says that the grant before was gone too early, which may be because it was for
	// one connection.
	Spent  bool     `json:"spent"`
	Failed *Failure `json:"failed"` // nil: the call was not in vain
}

// Way is a way to the gateway, and the source that the grant is for.
type Way struct {
	Gateway netip.Addr `json:"gateway"`
	Own     netip.Addr `json:"own"`    // this machine's address on it
	Source  netip.Addr `json:"source"` // that the gateway has seen
}

// Failure is why a call was in vain.
type Failure struct {
	Port    uint16 `json:"port"` // that did not open; 0: the knock itself was in vain
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// aMoment is how long a grant must last for a connection to be made by it.
const aMoment = 3 * time.Second

// Open says whether the door is open for longer than a moment, and not to one connection
// only. What is from the future does not count: the clock was set.
func (k Known) Open(now time.Time) bool {
	return len(k.Ways) > 0 && !now.Before(k.At) && k.Until.Sub(now) > aMoment && !k.Single(now)
}

// AloneFor is how long it is remembered that a grant is good for one connection.
const AloneFor = time.Hour

// Single says whether each call is to knock for itself. What ends later than it can is from
// the future.
func (k Known) Single(now time.Time) bool {
	return now.Before(k.Alone) && k.Alone.Sub(now) <= AloneFor
}

// SameSources says whether two grants are for the same sources.
func (k Known) SameSources(other Known) bool {
	has := func(w Way) bool {
		return slices.ContainsFunc(other.Ways, func(o Way) bool { return o.Source == w.Source && w.Source.IsValid() })
	}
	return len(k.Ways) > 0 && !slices.ContainsFunc(k.Ways, func(w Way) bool { return !has(w) })
}

const mostKnown = 16 << 10

// Known reads what the last call knew, nothing if that cannot be read.
func (d *Door) Known() (k Known) {
	if d == nil {
		return k
	}
	text, err := files.Read(d.path+".door", mostKnown)
	if err != nil || json.Unmarshal(text, &k) != nil {
		return Known{}
	}
	return k
}

// Tell writes down what is known. If that fails the others find it out themselves.
func (d *Door) Tell(k Known) { d.write(".door", k) }

// write writes a file of the door, if it can.
func (d *Door) write(suffix string, what any) {
	if d == nil {
		return
	}
	text, err := json.Marshal(what)
	if err != nil {
		return
	}
	f, err := os.CreateTemp(d.dir, suffix+".*") // mode 0600
	if err != nil {
		return
	}
	_, err = f.Write(text)
	if closed := f.Close(); err != nil || closed != nil || os.Rename(f.Name(), d.path+suffix) != nil {
		os.Remove(f.Name())
	}
}

// Forget forgets that the door is open, and what was promised.
func (d *Door) Forget() {
	if d == nil {
		return
	}
	os.Remove(d.path + promiseSuffix)
	if k := d.Known(); len(k.Ways) > 0 {
		d.Tell(Known{Alone: k.Alone})
	}
}

const promiseSuffix = ".until"

// promise is what somebody was told who has knocked.
type promise struct {
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
}

// Promise says that somebody was told that the door is open until a time, and that no call
// stands for their need: nobody else is to close it before. It is called within a Stay.
func (d *Door) Promise(now, until time.Time) {
	if until.After(d.Promised(now)) {
		d.write(promiseSuffix, promise{now, until})
	}
}

// Promised returns until when the door was promised to be open, zero if it is not now. What
// is from the future does not count: the clock was set.
func (d *Door) Promised(now time.Time) time.Time {
	if d == nil {
		return time.Time{}
	}
	var p promise
	text, err := files.Read(d.path+promiseSuffix, mostKnown)
	if err != nil || json.Unmarshal(text, &p) != nil || now.Before(p.At) || !now.Before(p.Until) {
		return time.Time{}
	}
	return p.Until
}

// Stay is one call's need that a door stays open. A nil Stay keeps nobody from closing it,
// and is the last. It is used by one goroutine.
type Stay struct {
	lock *flock.Flock
	left bool // Leave was called
	last bool // and this is what it has said
}

// Stay says that a call needs the door to stay open until it leaves. While the last of
// others closes the door, it waits, until ctx ends. If it cannot say so, it returns nil.
func (d *Door) Stay(ctx context.Context) *Stay {
	if d == nil {
		return nil
	}
	s := &Stay{lock: flock.New(d.path+".stay", flock.SetPermissions(0o600))}
	if _, err := s.lock.TryRLockContext(ctx, poll); err != nil {
		return nil
	}
	return s
}

// Leave says whether no other call needs the door any more: only the last one is to close
// it. While that does, until its End, nobody else comes to need it.
func (s *Stay) Leave() (last bool) {
	if s == nil {
		return true
	}
	if !s.left {
		s.lock.Unlock() // two calls that hold it could not both get the other kind
		last, err := s.lock.TryLock()
		s.left, s.last = true, last || err != nil
	}
	return s.last
}

// End ends the need, with whatever was done after Leave.
func (s *Stay) End() {
	if s != nil {
		s.lock.Unlock()
	}
}
