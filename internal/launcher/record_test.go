//go:build linux

package launcher

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a daemon asks for when it starts may come from a store that an intruder has
// written. Only what the configuration file has said before may be run, even when the
// file cannot be used any more.
func TestNothingIsRunBecauseTheDaemonSaysSo(t *testing.T) {
	dir := t.TempDir()
	planted := Spec{Door: "ssh", Start: []string{"/bin/sleep", "1002"}}
	l, _ := launch(t, dir, sleeper)
	if _, err := l.Service(sleeper).Status(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also after the record was written once more
		l, err := Start(dir, []Spec{planted, sleeper}, "/none")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Service(sleeper).Status(within(t, 10*time.Second)); err != nil {
			t.Errorf("a spec that the file had before: %v", err)
		}
		s := l.Service(planted)
		if err := s.Start(within(t, 10*time.Second)); err == nil {
			t.Error("a spec that only the daemon asks for was run")
			if err := s.Stop(within(t, 10*time.Second)); err != nil {
				t.Error(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	spec := func(n int) Spec { return Spec{Door: fmt.Sprint(n), Start: []string{"/bin/true"}} }
	r := record{path: path}
	if err := r.open(); err != nil || r.specs != nil {
		t.Errorf("no record: %v, %v", r.specs, err)
	}
	for n := range maxRecorded + 5 {
		if err := r.add([]Spec{spec(n), spec(0)}); err != nil {
			t.Fatal(err)
		}
	}
	again := record{path: path}
	if err := again.open(); err != nil {
		t.Fatal(err)
	}
	if len(again.specs) != maxRecorded || again.specs[0].Door != fmt.Sprint(maxRecorded+4) || again.specs[1].Door != "0" {
		t.Errorf("%d specs, from %v on", len(again.specs), again.specs[:2])
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := record{path: path}
	if err := damaged.open(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged record: %v", err)
	}
	nowhere := record{path: "/nowhere/record"}
	if err := nowhere.add([]Spec{sleeper}); err == nil || len(nowhere.specs) != 1 {
		t.Errorf("a record that cannot be written: %v, %v", nowhere.specs, err)
	}
}
