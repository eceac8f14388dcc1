package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	// sharedFor is how long a knock that has opened the door does for other
	// calls too. It is short: what follows must get in before the grant ends.
	sharedFor = 3 * time.Second
	// askFor is how long the door is asked whether it is still open to us. It is
	// not where the first connection spends the grant.
	askFor = time.Second
	// turnPoll is how often a lock is tried that another call holds.
	turnPoll = 20 * time.Millisecond
)

// turn is the lock of one user's calls that knock on one gateway. Calls at the
// same time (ssh by ansible, git, editors) would knock in each other's middle; so
// one knocks at a time, and whoever has waited meanwhile asks the door first. A
// nil turn locks nothing.
//
// The files are the user's own, and have no knock in them: their name is made from
// the gateway's, and beside the lock stands which port opened when, at which
// addresses. That is believed as far as that the port is asked.
type turn struct {
	lock *flock.Flock
	last string // path of the file that says what opened last
}

// inTurn knocks when no other call of this user knocks on the gateway, unless
// the door turns out to be open by another one's knock.
func (o *knockOptions) inTurn(
	ctx context.Context, e *env, v *visit.Visitor, families [][]netip.Addr, say func(string, ...any),
) (*knocked, error) {
	t, err := o.takeTurn(ctx, e)
	if err != nil && o.verbose && ctx.Err() == nil {
		fmt.Fprintf(e.stderr, "doorward: note: other calls may knock at the same time: %v\n", err)
	}
	defer t.release()
	k := &knocked{}
	last := t.read(e.clock(), o.waitPort, families)
	if k.complete = last.open; len(k.complete) > 0 && !last.alone {
		if o.await(ctx, v, k, min(askFor, o.timeout)); k.open() {
			say("knocked on %s a moment ago, by another call", o.host)
			return k, nil
		}
		last.alone = true
	}
	k.attempts, k.complete = o.knockAll(ctx, v, families, say)
	if ctx.Err() != nil {
		err := interrupted(ctx, "before the knock was complete")
		if begun(k.attempts) {
			err = withHint(err, "%s", unfinished)
		}
		return nil, err
	}
	if o.waitPort != 0 && len(k.complete) > 0 {
		if o.await(ctx, v, k, o.timeout); k.open() {
			t.write(e.clock(), o.waitPort, last.alone, k.complete)
		}
	}
	return k, nil
}

// await waits for the door for some time.
func (o *knockOptions) await(ctx context.Context, v *visit.Visitor, k *knocked, long time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	k.opened = v.Wait(ctx, k.complete, o.waitPort, o.stdio)
}

// takeTurn waits until no other call knocks on the gateway. Where it cannot wait,
// or not any longer, it returns nil and why: interleaved knocks are a nuisance, and
// no reason not to knock.
func (o *knockOptions) takeTurn(ctx context.Context, e *env) (*turn, error) {
	dir, err := turnDirectory(e)
	if err != nil {
		return nil, err
	}
	name := sha256.Sum256([]byte(strings.ToLower(o.host)))
	path := filepath.Join(dir, hex.EncodeToString(name[:8]))
	t := &turn{flock.New(path+".lock", flock.SetPermissions(0o600)), path + ".last"}
	ctx, cancel := context.WithTimeout(ctx, o.longest())
	defer cancel()
	if _, err := t.lock.TryLockContext(ctx, turnPoll); err != nil {
		return nil, fmt.Errorf("%s: %w", path+".lock", err)
	}
	return t, nil
}

// longest is how long one call may take for its knock and its waiting.
func (o *knockOptions) longest() time.Duration {
	const families = 2
	return families*time.Duration(len(o.touchPorts))*(o.each+o.delay) + o.timeout
}

// turnDirectory returns the directory for locks, which is the user's own: others
// could keep them from knocking in a shared one.
func turnDirectory(e *env) (string, error) {
	base := e.getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(base) {
		if e.cache == nil {
			return "", errors.New("there is no directory for it")
		}
		var err error
		if base, err = e.cache(); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(base, "doorward")
	for _, d := range []string{base, dir} {
		if err := files.MakeDirectory(d, 0o700, 0); err != nil {
			return "", err
		}
	}
	return files.Directory(dir)
}

// release lets the next call have its turn.
func (t *turn) release() {
	if t != nil {
		t.lock.Unlock()
	}
}

// opened is what the last call left that opened the door just now.
type opened struct {
	open []visit.Attempt // at these addresses, none when there was no such call
	// alone says that the knock opened to one connection only, so that every call
	// must knock for itself.
	alone bool
}

// alone and shared are the words for it.
const alone, shared = "alone", "shared"

// write writes down that a port has opened at the knocked addresses.
func (t *turn) write(now time.Time, port uint16, one bool, knocked []visit.Attempt) {
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
	// Without it the others knock themselves.
	_ = os.WriteFile(t.last, []byte(strings.Join(words, " ")+"\n"), 0o600)
}

// read returns what was written about those of addrs at which the port has just
// opened. A stamp from the future is none: the clock was set.
func (t *turn) read(now time.Time, port uint16, families [][]netip.Addr) (last opened) {
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
	last.alone = words[2] != shared
	for _, a := range slices.Concat(families...) {
		if slices.Contains(words[3:], a.String()) {
			last.open = append(last.open, visit.Attempt{Address: a})
		}
	}
	return last
}
