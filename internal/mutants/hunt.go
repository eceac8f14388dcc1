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

// Env is the environment variable that is set when tests run to notice a mutant.
const Env = "DOORWARD_MUTANT"

// Hunt runs tests that should notice mutants. The tests of a package are built once,
// with all mutants inactive; for a mutant with which that is not possible they are built
// separately. A Hunt is safe for concurrent use.
type Hunt struct {
	dir, root, overlay string
	alone              map[string]bool

	mu       sync.Mutex
	binaries map[string]func() (string, error) // by mutant, if it is alone, and package
}

// NewHunt prepares a Hunt for these mutants in dir, which must exist and be empty.
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

// Tests runs tests of a package, whose path is relative to the module's root, with one
// mutant active, or none if m is the zero Mutant. The variables in env are added to this
// process's environment, and flags are passed to the tests. It returns what they
// printed, and an error if they fail or cannot be built.
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

// wake writes a mutant's name into a copy of a program in which all mutants are
// inactive. An environment variable, or the program's name, might not reach the programs
// that a test starts.
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
	// No child that is started meanwhile may have the file open for writing: ETXTBSY, go.dev/issue/22315.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return awake, os.WriteFile(awake, bytes.ReplaceAll(program, []byte(asleep), []byte(name)), 0o755)
}

// binary returns the path of a package's tests, which it builds unless they are built
// already.
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
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // as everything is built, except with -race
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tests of %s: %w\n%s", pkg, err, out)
	}
	return binary, nil
}
