//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// nftElement is a set's element as `nft --json` prints one with a timeout.
type nftElement struct {
	Elem struct {
		Val     string `json:"val"`
		Timeout int    `json:"timeout"` // seconds
		Expires int    `json:"expires"`
	} `json:"elem"`
}

// elements reads from nft what stands in the fence's sets with a timeout.
func (s *site) elements() map[string]nftElement {
	s.t.Helper()
	out := s.run(s.server, "nft", "--json", "list", "table", "inet", "doorward")
	var ruleset struct {
		Nftables []struct {
			Set struct {
				Flags []string          `json:"flags"`
				Elem  []json.RawMessage `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	s.must(json.Unmarshal([]byte(out), &ruleset))
	all := map[string]nftElement{}
	for _, o := range ruleset.Nftables {
		for _, raw := range o.Set.Elem {
			var e nftElement
			if json.Unmarshal(raw, &e) == nil && e.Elem.Val != "" {
				all[e.Elem.Val] = e
			}
		}
	}
	return all
}

func TestNftSeesTheGrants(t *testing.T) {
	s := newSite(t)
	s.start(webDoor(`open_for = "40s"`, touchKnock))
	if got := s.elements(); len(got) > 0 {
		t.Errorf("before any knock: %v", got)
	}
	s.knock(s.visitor, gate4)
	s.knock(s.visitor, gate6)
	for _, source := range []string{visitor4, visitor6} {
		s.until("an element for "+source, func() error {
			e, ok := s.elements()[source]
			// What was left when it was sent, in whole seconds.
			if !ok || e.Elem.Timeout < 39 || e.Elem.Timeout > 40 || e.Elem.Expires > 40 {
				return fmt.Errorf("got %+v", s.elements())
			}
			return nil
		})
	}
	s.operator("close", "web", "--source", visitor4)
	if got := s.elements(); len(got) != 1 || got[visitor6].Elem.Val == "" {
		t.Errorf("after the one was revoked: got %v, want %s alone", got, visitor6)
	}
	s.operator("close", "web")
	if got := s.elements(); len(got) > 0 {
		t.Errorf("after the door was closed: %v", got)
	}
}

func TestForeignFlush(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor(`open_for = "1m"`, touchKnock))
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	in, err := s.talk(s.visitor, gate4, "8080")
	s.must(err)
	owned := strings.Contains(s.table(), "owner")
	for n := range 5 {
		s.run(s.server, "nft", "flush", "ruleset")
		if !owned {
			s.until("the fence restored", func() error {
				_, err := s.server.Run(t.Context(), "nft", "list", "table", "inet", "doorward")
				return err
			})
		}
		s.refuses(s.stranger, gate4, "8080")
		s.admits(s.visitor, gate4, "8080")
		line := fmt.Sprintf("flush %d", n)
		s.must(echo(in, line, line))
	}
	if owned {
		_, err := s.server.Run(t.Context(), "nft", "delete", "table", "inet", "doorward")
		if err == nil || !strings.Contains(err.Error(), "Operation not permitted") {
			t.Errorf("nft delete table: got %v, want it forbidden by the owner flag", err)
		}
	}
}

// Where no daemon owns the table, a flush removes it; the next daemon must put
// it back before it says that it is ready.
func TestFlushWhileTheDaemonIsDead(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	s.must(s.gate.Kill())
	s.refuses(s.stranger, gate4, "8080")
	s.run(s.server, "nft", "flush", "ruleset")
	s.start("")
	s.refuses(s.stranger, gate4, "8080")
	s.refuses(s.stranger, gate6, "8080")
}

// The order of another firewall's chains must not matter: one that accepts
// everything early opens nothing, one that drops everything is its own.
func TestBesideAnotherFirewall(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	_, err := s.lab.Write("other.nft", `table ip other {
	chain early { type filter hook prerouting priority raw; policy accept; tcp dport 8080 accept; }
	chain input { type filter hook input priority filter; policy accept; tcp dport 8080 accept; }
}
`)
	s.must(err)
	s.run(s.server, "nft", "-f", s.lab.Path("other.nft"))
	s.start(webDoor("", touchKnock))
	s.refuses(s.stranger, gate4, "8080")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	s.run(s.server, "nft", "list", "table", "ip", "other") // untouched
}

// A port published by a container runtime is forwarded before any input chain
// sees it; the fence stands before destination NAT.
func TestContainerPort(t *testing.T) {
	s := newSite(t)
	container := s.host("container")
	s.must(s.lab.Link(container, []string{"198.51.100.2/24"}, s.server, []string{"198.51.100.1/24"}))
	s.run(container, "ip", "route", "add", "default", "via", "198.51.100.1")
	s.run(s.server, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	_, err := s.lab.Write("nat.nft", `table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local tcp dport 8080 dnat to 198.51.100.2:80
	}
}
`)
	s.must(err)
	s.run(s.server, "nft", "-f", s.lab.Path("nat.nft"))
	s.serve(container, ":80")
	s.admits(s.stranger, gate4, "8080")
	s.start(webDoor("", touchKnock))
	s.refuses(s.stranger, gate4, "8080")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	s.refuses(s.stranger, gate4, "8080")
}

// The operator's own session, and others that stand when the fence first rises,
// live on though no conntrack has seen them begin; new ones need a knock.
func TestStandingSessionsLiveOn(t *testing.T) {
	s := newSite(t, "sshd", "ssh")
	ssh, err := s.lab.SSH(22)
	s.must(err)
	_, err = s.server.Start(ssh.Program, "-D", "-f", ssh.Config)
	s.must(err)
	in4, in6 := s.login(ssh, s.visitor, gate4), s.login(ssh, s.visitor, gate6)
	s.start("[door.ssh]\nports = [\"22/tcp\"]\n[door.ssh.presence]\nlogins = \"off\"\n[[door.ssh.knock]]\n" + touchKnock)
	s.refuses(s.visitor, gate4, "22")
	s.refuses(s.visitor, gate6, "22")
	s.lives(in4)
	s.lives(in6)
}

func TestCleanupRemovesTheFence(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	s.says(s.fails("--cleanup"), "hint: systemctl stop doorward")
	s.must(s.gate.Stop())
	s.refuses(s.stranger, gate4, "8080")
	s.run(s.server, bin+"/doorwardd", "--cleanup")
	s.admits(s.stranger, gate4, "8080")
	if out := s.run(s.server, "nft", "list", "ruleset"); strings.Contains(out, "doorward") {
		t.Errorf("after --cleanup nft shows\n%s", out)
	}
	s.run(s.server, bin+"/doorwardd", "--cleanup") // with nothing to do it succeeds
}

// Grants are the kernel's to end: with the daemon dead they run out all the
// same, and a daemon that comes back knows those that are left.
func TestGrantsOutliveTheDaemonByNothing(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor(`open_for = "4s"`, touchKnock))
	s.operator("open", "web", "--source", visitor6, "--for", "10m")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	ends := s.door("web").Grants
	s.must(s.gate.Kill())
	for _, g := range ends {
		if g.Source == visitor4 {
			time.Sleep(time.Until(g.Expires.Add(100 * time.Millisecond))) // the time itself is what is tested
		}
	}
	s.refuses(s.visitor, gate4, "8080")
	s.admits(s.visitor, gate6, "8080")
	s.start("")
	d := s.door("web")
	if len(d.Grants) != 1 || d.Grants[0].Source != visitor6 || d.State != "open" {
		t.Errorf("after the restart: door %s, grants %v; want open, for %s", d.State, d.Grants, visitor6)
	}
	if left := time.Until(d.Grants[0].Expires); left > 10*time.Minute || left < 8*time.Minute {
		t.Errorf("the grant's end moved: %s left", left)
	}
	s.admits(s.visitor, gate6, "8080")
	s.refuses(s.stranger, netip.MustParseAddr(gate6).String(), "8080")
}
