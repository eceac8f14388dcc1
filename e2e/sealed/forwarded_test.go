package sealed

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	kind "github.com/doorward/doorward/internal/sealed"
)

// container has a host behind the gateway echo what comes to the first door's port, which is
// published as container engines do.
func (s *site) container() {
	s.t.Helper()
	c, err := s.lab.Host("container")
	s.must(err)
	s.must(s.lab.Link(s.server, []string{"198.51.100.1/24"}, c, []string{"198.51.100.2/24"}))
	_, err = c.Run(s.t.Context(), "ip", "route", "add", "default", "via", "198.51.100.1")
	s.must(err)
	for _, what := range []string{
		"sysctl -qw net.ipv4.ip_forward=1",
		"nft add table ip containers",
		"nft add chain ip containers published { type nat hook prerouting priority dstnat ; }",
		"nft add rule ip containers published fib daddr type local tcp dport 8080 dnat to 198.51.100.2:80",
	} {
		words := strings.Fields(what)
		_, err := s.server.Run(s.t.Context(), words[0], words[1:]...)
		s.must(err)
	}
	var l net.Listener
	s.must(c.Do(func() (err error) { l, err = net.Listen("tcp", ":80"); return }))
	s.t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer in.Close()
				io.Copy(in, in)
			}()
		}
	}()
}

// echoes says whether a connection carries something there and back.
func (s *site) echoes(c net.Conn, within time.Duration) bool {
	s.t.Helper()
	s.must(c.SetDeadline(time.Now().Add(within)))
	if _, err := io.WriteString(c, "x"); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("a connection ends with %v, want silence", err)
	}
	return err == nil
}

// Who is cut off loses also connections that the gateway only forwards; others keep theirs.
func TestLockCutsWhatIsForwarded(t *testing.T) {
	s := newSite(t, "")
	s.container()
	bob := newKey(t, "bob")
	s.keys(s.alice.line(""), bob.line(""))
	s.start()
	s.opens(s.visitor, gate4, s.alice)
	s.opens(s.stranger, gate4, bob)
	alices, bobs := s.comesIn(s.visitor, gate4, "8080"), s.comesIn(s.stranger, gate4, "8080")
	if !s.echoes(alices, soon) || !s.echoes(bobs, soon) {
		t.Fatal("the container does not answer")
	}
	s.until("whose connections these are", func() error { return s.known(2) })
	do[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "alice", Now: true})
	s.until("alice is cut off", func() error {
		if s.echoes(alices, dark) {
			return errors.New("her connection goes on")
		}
		return nil
	})
	if s.echoes(alices, dark) {
		t.Error("alice's connection goes on after it was cut")
	}
	if !s.echoes(bobs, soon) {
		t.Error("bob, who has not been locked, is cut off")
	}
}
