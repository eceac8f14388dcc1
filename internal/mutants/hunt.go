package mutants

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Env is the variable that tells tests that they are looking for a mutant.
const Env = "DOORWARD_MUTANT"

// A Hunt has tests look for mutants. The tests of a package are built once, with all
// mutants asleep in them; one that cannot sleep has them built for it alone. It may
// be used by several goroutines.
type Hunt struct {
	dir, root, overlay string
	alone              map[string]bool

	mu       sync.Mutex
	binaries map[string]func() (string, error) // by mutant, if it is alone, and package
}

// NewHunt prepares one for all of these mutants in dir, which is there, and is empty.
func NewHunt(all []Mutant, dir string) (*Hunt, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	overlay, alone, err := Asleep(all, dir)
	if err != nil {
		return nil, err
	}
	h := &Hunt{dir: dir, root: root, overlay: overlay, alone: map[string]bool{}, binaries: map[string]func() (string, error){}}
	for _, m := range alone {
		h.alone[m.Name] = true
	}
	return h, nil
}

// Tests runs tests of a package, named from the module's root, with one mutant in
// force, or none for the zero Mutant. The environment is added to this process's. It
// returns what they printed, and how they ended or why they could not be built.
func (h *Hunt) Tests(ctx context.Context, m Mutant, pkg string, env []string, flags ...string) ([]byte, error) {
	binary, err := h.binary(m, pkg)
	if err != nil {
		return nil, err
	}
	if m.Name != "" && !h.alone[m.Name] {
		if binary, err = wake(m, binary); err != nil {
			return nil, err
		}
		defer os.Remove(binary)
	}
	c := exec.CommandContext(ctx, binary, flags...)
	c.Dir = filepath.Join(h.root, filepath.FromSlash(pkg))
	c.Env = append(append(os.Environ(), env...), Env+"=yes")
	return c.CombinedOutput()
}

// wake writes a mutant's name into a copy of a program in which all are asleep. From
// the environment, or the program's name, one that a test starts might not learn it.
func wake(m Mutant, binary string) (awake string, err error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	if len(m.Name) > len(asleep) || !bytes.Contains(program, []byte(asleep)) {
		return "", fmt.Errorf("mutant %q: its name has no room in %s", m.Name, binary)
	}
	name := m.Name + strings.Repeat(" ", len(asleep)-len(m.Name))
	awake = filepath.Join(filepath.Dir(binary), m.Name)
	// No child that is begun meanwhile may have it open for writing: ETXTBSY, go.dev/issue/22315.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return awake, os.WriteFile(awake, bytes.ReplaceAll(program, []byte(asleep), []byte(name)), 0o755)
}

// binary builds a package's tests, unless they are.
func (h *Hunt) binary(m Mutant, pkg string) (string, error) {
	name := pkg
	if h.alone[m.Name] {
		name = filepath.Join(m.Name, pkg)
	}
	h.mu.Lock()
	build := h.binaries[name]
	if build == nil {
		build = sync.OnceValues(func() (string, error) { return h.build(m, pkg, filepath.Join(h.dir, name, "none")) })
		h.binaries[name] = build
	}
	h.mu.Unlock()
	return build()
}

func (h *Hunt) build(m Mutant, pkg, binary string) (string, error) {
	overlay := h.overlay
	if h.alone[m.Name] {
		var err error
		if overlay, err = m.Overlay(h.dir); err != nil {
			return "", err
		}
	}
	c := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, "./"+pkg)
	c.Dir = h.root
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // as everything else is built but what races
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tests of %s: %w\n%s", pkg, err, out)
	}
	return binary, nil
}
