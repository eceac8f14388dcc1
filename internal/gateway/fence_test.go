package gateway

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
)

// If the kernel refuses a change of one door, the others are not held up: sources that
// knock there are let in, and revoked grants end, as soon as the change is tried again.
func TestAFullDoorHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor+webDoor)
		has := func(name string) bool {
			_, ok := m.grants[grantKey{name, door.Source(visitor)}]
			return ok
		}
		r.touch(visitor6, 60001, 60003)
		m.do(func() { m.fullDoor = "web" })
		r.touch(visitor, 60001, 60003)
		r.touch(visitor, 59000, 59002)
		time.Sleep(fenceRetry)
		synctest.Wait()
		if has("web") || !has("ssh") {
			t.Errorf("while web is full the kernel lets %v in, want the visitor at ssh alone", m.grants)
		}
		r.order(control.CloseRequest{Door: "ssh"})
		time.Sleep(fenceRetry)
		synctest.Wait()
		if has("ssh") {
			t.Error("while web is full a closed ssh lets in")
		}
		r.order(control.CloseRequest{Door: "web", Source: visitor6.String()})
		time.Sleep(fenceRetry)
		synctest.Wait()
		if len(m.grants) > 0 {
			t.Errorf("while web is full a revoked grant lasts: %v", m.grants)
		}
		m.do(func() { m.fullDoor = "" })
		time.Sleep(fenceRetry)
		synctest.Wait()
		if !has("web") || r.fenceProblem != "" {
			t.Errorf("web, no longer full, lets %v in: %q", m.grants, r.fenceProblem)
		}
	})
}

// stingy is a kernel that refuses every change, and counts them.
type stingy struct {
	*kernel
	tries int
}

func (k *stingy) Change(fence.Changes) error {
	k.tries++
	return errors.New("cannot allocate memory")
}

// If a kernel refuses everything, changes are not tried separately for each of many
// doors.
func TestChangesApartAreBounded(t *testing.T) {
	k := &stingy{kernel: (*kernel)(newMachine())}
	g := &Gateway{world: World{Fence: k}, changes: newChanges()}
	var doors []string
	for i := range 1000 {
		name := "d" + string(rune(0x4e00+i))
		doors = append(doors, name)
		g.doors = append(g.doors, &guarded{})
		g.doors[i].conf.Name = name
		g.changes.add(name, door.Clear{})
	}
	g.byName = make(map[string]*guarded)
	for _, d := range g.doors {
		g.byName[d.name()] = d
	}
	if err := g.changeApart(); err == nil || k.tries > 2*maxApart {
		t.Errorf("%d tries, and %v; want %d at the most, and an error", k.tries, err, 2*maxApart)
	}
	if len(g.changes.emptied) != len(doors) {
		t.Errorf("%d of %d changes wait", len(g.changes.emptied), len(doors))
	}
}
