package mutants

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every mutant of the table has its place in the source, says what it breaks,
// and results in valid Go.
func TestTheTableFollowsTheSource(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Errorf("got %d mutants, want at least 20", len(all))
	}
	names, promise := map[string]bool{}, regexp.MustCompile(`^P([1-9]|10)$`)
	for _, m := range all {
		if names[m.Name] || m.Old == m.New || !promise.MatchString(m.Breaks) {
			t.Errorf("mutant %q: named twice, the same as the source, or it breaks %q", m.Name, m.Breaks)
		}
		names[m.Name] = true
		if _, _, err := Asleep([]Mutant{m}, t.TempDir()); err != nil {
			t.Errorf("mutant %q: %v", m.Name, err)
		}
	}
}

// Each line of noticed.txt names a mutant and a test that exist.
func TestNoticedTestsExist(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range all {
		names[m.Name] = true
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for name, by := range Noticed() {
		pkg, test, _ := strings.Cut(by, " ")
		test, _, _ = strings.Cut(test, "/")
		out, err := exec.Command("grep", "-rqw", "func "+test, filepath.Join(root, pkg)).CombinedOutput()
		if !names[name] || err != nil {
			t.Errorf("noticed.txt: %s, noticed by %s: no such mutant, or no such test: %v %s", name, by, err, out)
		}
	}
}

func TestOldTextIsMissing(t *testing.T) {
	m := Mutant{Name: "stale", File: "internal/mutants/mutants.go", Old: "\tno such line\n"}
	want := `mutant "stale": its old text is in internal/mutants/mutants.go 0 times, want once`
	if _, err := m.Overlay(t.TempDir()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A mutant shares a build with others if it changes only functions that can be called
// with the names of their parameters; any other is built alone.
func TestSharedBuild(t *testing.T) {
	const text = `package p

const limit = 3

func (d *door) open(now int, by ...string) (bool, error) { return now > limit, nil }

func (d *door) shut() { d.is = "shut" }

func ignore(_ int) bool { return true }

func first[T any](all []T) T { return all[0] }

func both(a, b int) int { return a + shut }
`
	s, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, old, new string
		sleeps         bool
	}{
		{"open-late", "now > limit", "now >= limit", true},
		{"shut-is-dark", `d.is = "shut"`, `d.is = "dark"`, true},
		{"open-always", "now > limit", "true", true},
		{"limit-is-two", "limit = 3", "limit = 2", false},
		{"nothing-is-ignored", "return true", "return false", false},
		{"last", "all[0]", "all[len(all)-1]", false},
		{"takes-one", "both(a, b int) int { return a + shut }", "both(a int) int { return a }", false},
		{"of-two-bodies-one-is-generic", "all[0] }\n\nfunc both(a, b int) int { return a", "all[1] }\n\nfunc both(a, b int) int { return b", false},
	} {
		if sleeps, err := s.take(Mutant{Name: tt.name, Old: tt.old, New: tt.new}); err != nil || sleeps != tt.sleeps {
			t.Errorf("%s sleeps: got %v, %v, want %v", tt.name, sleeps, err, tt.sleeps)
		}
	}
	want := strings.NewReplacer(
		"{ return now > limit, nil }", `{
if mutantInForce == "open-late" { return d.open_open_late(now, by...) }

if mutantInForce == "open-always" { return d.open_open_always(now, by...) }
 return now > limit, nil }`,
		`{ d.is = "shut" }`, `{
if mutantInForce == "shut-is-dark" { d.shut_shut_is_dark(); return }
 d.is = "shut" }`).Replace(text) + `
func (d *door) open_open_late(now int, by ...string) (bool, error) { return now >= limit, nil }

func (d *door) shut_shut_is_dark() { d.is = "dark" }

func (d *door) open_open_always(now int, by ...string) (bool, error) { return true, nil }
`
	if diff := cmp.Diff(want, s.String()); diff != "" {
		t.Error(diff)
	}
}
