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
func (d *Door) Tell(k Known) {
	if d == nil {
		return
	}
	text, err := json.Marshal(k)
	if err != nil {
		return
	}
	f, err := os.CreateTemp(d.dir, ".door.*") // mode 0600
	if err != nil {
		return
	}
	_, err = f.Write(text)
	if closed := f.Close(); err != nil || closed != nil || os.Rename(f.Name(), d.path+".door") != nil {
		os.Remove(f.Name())
	}
}

// Forget forgets that the door is open.
func (d *Door) Forget() {
	if k := d.Known(); len(k.Ways) > 0 {
		d.Tell(Known{Alone: k.Alone})
	}
}

// Stay says that a call needs the door to stay open until leave is called, which says
// whether no other call needs it any more: only the last one is to close it.
func (d *Door) Stay() (leave func() (last bool)) {
	if d == nil {
		return func() bool { return true }
	}
	lock := flock.New(d.path+".stay", flock.SetPermissions(0o600))
	if err := lock.RLock(); err != nil {
		return func() bool { return true }
	}
	return func() bool {
		lock.Unlock()
		last, err := lock.TryLock()
		lock.Unlock()
		return last || err != nil
	}
}
