package store

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/door"
)

// A file of a version in which all penalties were equally long can be read: none of
// them says how many there were before.
func TestAFileOfBeforePenaltiesGrewIsRead(t *testing.T) {
	text := unpacked(t, "before-growth.db")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, boltName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	var log book
	s, err := Open(dir, AuditLimit{}, log.log())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Load()
	if err != nil || strings.Contains(log.String(), "level=ERROR") || s.SetAside() != "" {
		t.Fatalf("read the file: %v; %s", err, log.String())
	}
	until := time.Date(2026, 11, 26, 12, 5, 0, 0, time.UTC)
	const reason = "touched a port that is to be left alone"
	want := []Penalty{
		{Door: "ssh", Source: door.Any, Until: until, For: 5 * time.Minute, Reason: reason},
		{Door: "ssh", Source: netip.MustParsePrefix("192.0.2.7/32"), Until: until, For: 5 * time.Minute, Reason: reason},
		{Door: "ssh", Source: netip.MustParsePrefix("2001:db8::7/128"), Until: until, For: 5 * time.Minute, Reason: reason},
	}
	if d := diff(sorted(State{Penalties: want, Grants: none}), sorted(State{Penalties: got.Penalties, Grants: none})); d != "" {
		t.Errorf("penalties (-want +got):\n%s", d)
	}
	if len(got.Doors) != 1 || got.Doors[0].State != "open" || len(slices.Collect(got.Grants)) != 1 || got.Unreadable != 0 {
		t.Errorf("read were doors %v, grants %v, %d unreadable", got.Doors, got.Grants, got.Unreadable)
	}
}
