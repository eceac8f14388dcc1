package mutants

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every mutant of the table has its place in the source, says what it breaks,
// and is Go.
func TestTheTableFollowsTheSource(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Errorf("there are %d mutants, want at least 20", len(all))
	}
	names, promise := map[string]bool{}, regexp.MustCompile(`^P([1-9]|10)$`)
	for _, m := range all {
		if names[m.Name] || m.Old == m.New || !promise.MatchString(m.Breaks) {
			t.Errorf("mutant %q: named twice, the same as the source, or it breaks %q", m.Name, m.Breaks)
		}
		names[m.Name] = true
		dir := t.TempDir()
		path, err := m.Overlay(dir)
		if err != nil {
			t.Error(err)
			continue
		}
		if out, err := exec.Command("gofmt", "-e", "-l", filepath.Join(dir, m.Name+".go")).CombinedOutput(); err != nil {
			t.Errorf("mutant %q is no Go: %s", m.Name, out)
		}
		overlay, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(overlay), filepath.FromSlash(m.File)) {
			t.Errorf("mutant %q: overlay %s, %v", m.Name, overlay, err)
		}
	}
}

func TestATextThatIsNoLongerThere(t *testing.T) {
	m := Mutant{Name: "stale", File: "internal/mutants/mutants.go", Old: "\tno such line\n"}
	want := `mutant "stale": its old text is 0 times in internal/mutants/mutants.go, want once`
	if _, err := m.Overlay(t.TempDir()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
