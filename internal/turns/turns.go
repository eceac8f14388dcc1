// Package turns makes the calls of one user that knock on one gateway do so one at a
// time. Simultaneous calls (of ssh by ansible, git or editors) would get in the way of
// each other's knocks; and a call that has waited for its turn can first check whether
// the door is open already.
//
// Calls meet in files of the user's own, which do not contain the knock: their names are
// made from the gateway's, and one beside the lock says which port opened when, at which
// addresses. Because of it a call only tries the port before it knocks.
package turns

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/visit"
)

const (
	// sharedFor is how long a knock that has opened the door also serves other
	// calls. It is short: they must get in before the grant ends.
	sharedFor = 3 * time.Second
	// poll is how often Take tries a lock that another call holds.
	poll = 20 * time.Millisecond
)

// Turn is one call's turn. A nil Turn locks nothing and remembers nothing. The caller
// releases it.
type Turn struct {
	lock *flock.Flock
	last string // path of the file that says what opened last
}

// Take waits until no other call knocks on the gateway host. dir is for its files, as
// returned by Directory. If Take cannot wait, or ctx ends first, it returns nil and why:
// interleaved knocks are a nuisance, but no reason not to knock.
func Take(ctx context.Context, dir, host string) (*Turn, error) {
	path := filepath.Join(dir, fileOf(host))
	t := &Turn{flock.New(path+".lock", flock.SetPermissions(0o600)), path + ".last"}
	if _, err := t.lock.TryLockContext(ctx, poll); err != nil {
		return nil, fmt.Errorf("%s: %w", path+".lock", err)
	}
	return t, nil
}

// fileOf is the name of the files of a gateway.
func fileOf(host string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(host)))
	return hex.EncodeToString(sum[:8])
}

// Directory returns the directory for the files, below base, and makes it if need be.
// It must be the user's own: in a shared one, others could keep them from knocking.
func Directory(base string) (string, error) {
	dir := filepath.Join(base, "doorward")
	for _, d := range []string{base, dir} {
		if err := files.MakeDirectory(d, 0o700, 0); err != nil {
			return "", err
		}
	}
	return files.Directory(dir)
}

// Release lets the next call have its turn.
func (t *Turn) Release() {
	if t != nil {
		t.lock.Unlock()
	}
}

// Opened is what the last call wrote if it opened the door just now.
type Opened struct {
	At []visit.Attempt // the addresses, none if there was no such call
	// Alone says that the knock opened the door to one connection only, so that every
	// call must knock for itself.
	Alone bool
}

// alone and shared are how the file says whether Opened.Alone is set.
const alone, shared = "alone", "shared"

// Write writes down that a port has opened at the knocked addresses, for one
// connection only or for all.
func (t *Turn) Write(now time.Time, port uint16, one bool, knocked []visit.Attempt) {
	if t == nil {
		return
	}
	words := []string{strconv.FormatInt(now.UnixNano(), 10), strconv.Itoa(int(port)), shared}
	if one {
		words[2] = alone
	}
	for _, at := range knocked {
		words = append(words, at.Address.String())
	}
	// If this fails the others knock for themselves.
	_ = os.WriteFile(t.last, []byte(strings.Join(words, " ")+"\n"), 0o600)
}

// Read returns at which of the addresses the port has just opened, according to what was
// written. A time in the future does not count: the clock was set.
func (t *Turn) Read(now time.Time, port uint16, families [][]netip.Addr) (last Opened) {
	if t == nil {
		return last
	}
	text, err := files.Read(t.last, 4096)
	words := strings.Fields(string(text))
	if err != nil || len(words) < 4 || words[1] != strconv.Itoa(int(port)) {
		return last
	}
	stamp, err := strconv.ParseInt(words[0], 10, 64)
	if age := now.Sub(time.Unix(0, stamp)); err != nil || age < 0 || age > sharedFor {
		return last
	}
	last.Alone = words[2] != shared
	for _, a := range slices.Concat(families...) {
		if slices.Contains(words[3:], a.String()) {
			last.At = append(last.At, visit.Attempt{Address: a})
		}
	}
	return last
}
