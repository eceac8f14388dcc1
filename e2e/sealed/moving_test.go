//go:build linux

package sealed

import (
	"maps"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/doorward/doorward/e2e/lab"
	kind "github.com/doorward/doorward/internal/sealed"
)

// A gateway moves to another machine with its files and its state: visitors knock with the
// profiles and the codes that they have, who was locked stays out, and the trail goes on. No
// grant comes along.
func TestTheGatewayMoves(t *testing.T) {
	s := newSite(t, "")
	s.start()
	l := newLaptop(s)
	l.want(0, "open until ", "accept", l.invite(false))
	codes, err := order[kind.Rescue](s, kind.OrderRescue, kind.RescueArgs{Count: 2})
	s.must(err)
	asks := func(code string) *laptop {
		path, err := s.lab.Write("askpass", "#!/bin/sh\necho "+code+"\n")
		s.must(err)
		s.must(os.Chmod(path, 0o755))
		return &laptop{s, append([]string{l.vars[0], "SSH_ASKPASS=" + path, "SSH_ASKPASS_REQUIRE=force"}, l.vars[1:]...)}
	}
	asks(codes.Codes[0]).want(0, "open until ", "knock", "gate", "panel", "--rescue")
	_, err = order[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "alice"})
	s.must(err)
	l.want(0, "open until ", "knock", "gate")
	granted := s.trail("granted", "")
	s.must(s.gate.Stop())

	s.movesTo(s.stranger)
	s.refuses(s.visitor, gate4, "8080")
	l.want(0, "open until ", "knock", "gate")
	s.admits(s.visitor, gate4, "8080")
	s.admits(s.visitor, gate6, "8080")
	asks(codes.Codes[0]).want(6, "does not accept this rescue code", "knock", "gate", "panel", "--rescue")
	asks(codes.Codes[1]).want(0, "open until ", "knock", "gate", "panel", "--rescue")
	keys, err := order[kind.Keys](s, kind.OrderKeys, kind.KeysArgs{})
	s.must(err)
	locked := map[string]bool{}
	for _, k := range keys.Keys {
		locked[k.Name] = k.Locked != ""
	}
	if want := map[string]bool{"alice": true, "bob": false}; !maps.Equal(locked, want) || len(keys.Rescues) != 0 {
		t.Errorf("keys, and whether they are locked: %v, want %v; %d codes are left, want none", locked, want, len(keys.Rescues))
	}
	if n := s.trail("granted", ""); n <= granted {
		t.Errorf("%d records of grants, want more than the %d from before", n, granted)
	}
}

// movesTo has the gateway start on another host, with a copy of its files, and that host have
// its addresses and services.
func (s *site) movesTo(to *lab.Host) {
	s.t.Helper()
	run := func(h *lab.Host, name string, args ...string) string {
		s.t.Helper()
		out, err := h.Run(s.t.Context(), name, args...)
		s.must(err)
		return out
	}
	cable := func(h *lab.Host) string {
		name, _, _ := strings.Cut(run(h, "ip", "-o", "-brief", "link", "show", "type", "veth"), "@")
		return name
	}
	_, err := to.Isolate()
	s.must(err)
	run(s.server, "ip", "link", "set", cable(s.server), "down")
	run(to, "ip", "addr", "flush", "dev", cable(to))
	run(to, "ip", "addr", "add", gate4+"/24", "dev", cable(to))
	run(to, "ip", "addr", "add", gate6+"/48", "dev", cable(to), "nodad")
	run(s.visitor, "ip", "neigh", "flush", "all")
	boot, err := s.lab.Write("boot_id", "5a5f4c61-6a4e-4b0a-9c58-1a2b3c4d5e6f\n")
	s.must(err)
	run(to, "mount", "--bind", boot, "/proc/sys/kernel/random/boot_id") // the kernel is the same, alas
	for _, port := range []string{":8080", ":8443"} {
		var service net.Listener
		s.must(to.Do(func() (err error) { service, err = net.Listen("tcp", port); return }))
		s.t.Cleanup(func() { service.Close() })
	}

	there := s.lab.Path("moved")
	s.must(os.Mkdir(there, 0o755))
	run(to, "cp", "-a", s.config, s.lab.Path("sealed.key"), s.lab.Path("authorized_keys"), s.lab.Path("state"), there)
	text, err := os.ReadFile(s.config)
	s.must(err)
	moved := string(text)
	for _, name := range []string{"state", "sealed.key", "authorized_keys"} {
		moved = strings.ReplaceAll(moved, s.lab.Path(name), there+"/"+name)
	}
	s.must(os.WriteFile(there+"/doorward.toml", []byte(moved), 0o600))
	s.Server, s.server, s.config = to, to, there+"/doorward.toml"
	s.start()
}
