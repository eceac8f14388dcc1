//go:build linux

package fence

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
	"golang.org/x/sys/unix"
)

// halt makes a Guard stop at a door that it changes or removes: the door's part also
// deletes something that does not exist, which the kernel refuses.
func halt(f *Fence, doors []Door, at string) error {
	whole := f.doors[at]
	broken := *whole
	base := *whole.base
	base.Counters = append(slices.Clone(base.Counters), doorPrefix+at+".none")
	broken.base, broken.want = &base, &base
	f.doors[at] = &broken
	defer func() {
		if p := f.doors[at]; p != nil && p.base == &base {
			mended := *whole
			mended.door = p.door
			f.doors[at] = &mended
		}
	}()
	f.guarding.Lock()
	defer f.guarding.Unlock()
	doors, err := checkDoors(doors)
	if err == nil {
		_, err = f.guardInParts(doors, false)
	}
	return err
}

// After a change of doors that stopped in between, Check reports that, although the table
// is what was written until then, and another Guard completes the change or reverts it.
func TestAHaltedGuard(t *testing.T) {
	t.Parallel()
	f := openIn(t, nstest.New(t), false)
	doors := func(first int, single bool) (all []Door) {
		for i := range 30 {
			all = append(all, Door{Name: fmt.Sprintf("d%02d", first+i), SingleUse: single, Ports: ports(t, fmt.Sprintf("%d/tcp", 100+i))})
		}
		return all
	}
	old, next := doors(0, false), doors(5, true)
	must(t, f.Guard(old))
	for _, tc := range []struct {
		at  string // removed, the first to be changed, the last one
		end []Door
	}{{"d02", old}, {"d05", old}, {"d29", old}, {"d29", next}} {
		must(t, f.Guard(old))
		if err := halt(f, next, tc.at); !errors.Is(err, unix.ENOENT) {
			t.Fatalf("Guard halted at %s: %v, want ENOENT", tc.at, err)
		}
		if err := f.Check(); err == nil {
			t.Errorf("halted at %s: Check says that all is well", tc.at)
		}
		must(t, f.Guard(tc.end))
		must(t, f.Check())
		if d := differences(whole(layoutShared(tc.end, f.manner), sides(f.doors, wanted)), f.wholeOf(shown)); len(d) > 0 {
			t.Errorf("halted at %s, then guarded: %q", tc.at, d)
		}
	}
}
