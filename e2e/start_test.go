//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
)

// Whatever a start meets, the fence stands: either the daemon works without what it
// lacks, or it exits and says why.
func TestAStartThatLacksSomething(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *site)
		under []string // the program that starts the daemon, with arguments
		says  string
		ends  bool // or is ready and can do nothing
	}{
		"a pipe for the store": {
			spoil: func(s *site) { s.must(unix.Mkfifo(s.lab.Path("state/doorward.state.0"), 0o600)) },
			says:  `the state file is damaged: it was set aside`,
		},
		"directories for the locks": {
			spoil: func(s *site) {
				s.must(os.Mkdir(s.lab.Path("state/doorward.lock"), 0o700))
				s.must(os.Mkdir(s.socket()+".lock", 0o700))
			},
			says: `cannot keep state`,
		},
		"pipes for the locks": {
			spoil: func(s *site) {
				s.must(unix.Mkfifo(s.lab.Path("state/doorward.lock"), 0o600))
				s.must(unix.Mkfifo(s.socket()+".lock", 0o600))
			},
			says: `ready: the doors are guarded`,
		},
		"a directory for the control socket": {
			spoil: func(s *site) { s.must(os.Mkdir(s.socket(), 0o700)) },
			says:  `operators get no answer: fix this`,
		},
		"a pipe for the control socket": {
			spoil: func(s *site) { s.must(unix.Mkfifo(s.socket(), 0o600)) },
			says:  `operators get no answer: fix this`,
		},
		"no signal may be pending": {
			under: []string{"prlimit", "--sigpending=0"},
			says:  `set up the daemon's sandbox: only 0 signals may be pending: raise the limit to 128 or more`,
			ends:  true,
		},
		"few descriptors": {
			under: []string{"prlimit", "--nofile=16"},
			says:  `too many open files`,
			ends:  true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "prlimit")
			s.serve(s.server, ":8080")
			s.must(os.Mkdir(s.lab.Path("state"), 0o700))
			if c.spoil != nil {
				c.spoil(s)
			}
			s.configure(webDoor("", touchKnock))
			start := append(c.under, bin+"/doorwardd", "-c", s.config)
			p, err := s.server.Start(start[0], start[1:]...)
			s.must(err)
			s.until("the daemon is ready, or ends", func() error {
				select {
				case <-p.Ended():
					return nil
				default:
				}
				if out := p.Output(); !strings.Contains(out, "ready: the doors are guarded") {
					return fmt.Errorf("it said: %s", out)
				}
				return nil
			})
			s.refuses(s.stranger, gate4, "8080")
			s.says(p.Output(), c.says)
			if !c.ends { // a daemon that has ended hears no knock
				s.knock(s.visitor, gate4)
				s.admits(s.visitor, gate4, "8080")
				s.says(s.fails("-c", s.config), `another doorwardd`)
			}
		})
	}
}

// Strangers who hold what they get, at the listeners and where metrics are asked
// for, leave operators and visitors what they need.
func TestStrangersTakeFewDescriptors(t *testing.T) {
	const limit = 64
	s := newSite(t, "prlimit")
	s.serve(s.server, ":8080")
	var err error
	s.config, err = s.lab.Write("doorward.toml", fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\nmetrics = \"127.0.0.1:9472\"\n%s",
		s.lab.Path("state"), s.socket(), webDoor("", touchKnock)))
	s.must(err)
	s.gate, err = s.server.Doorward(t.Context(), s.limited(limit), s.config, s.socket())
	s.must(err)
	s.until("metrics are served", func() error {
		c, err := s.dial(s.server, "127.0.0.1", "9472", soon)
		if err == nil {
			c.Close()
		}
		return err
	})
	before := s.descriptors()
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for n := range limit {
		for _, at := range []struct {
			from          *lab.Host
			address, port string
		}{{s.server, "127.0.0.1", "9472"}, {s.stranger, gate4, "59001"}} {
			if c, err := s.dial(at.from, at.address, at.port, soon); err == nil {
				held = append(held, c)
			}
		}
		if more := s.descriptors() - before; more > limit/4+limit/16 {
			t.Fatalf("strangers have %d descriptors of %d", more, limit)
		}
		if n%16 == 0 {
			_, err := s.gate.Status(t.Context())
			s.must(err)
		}
	}
	s.says(s.operator("status"), `only 64 files may be open`)
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	if out := s.gate.Output(); strings.Contains(out, "too many open files") {
		t.Error("the daemon ran out of descriptors")
	}
}

// limited is a directory with the two programs, in which the daemon may have so
// many files open.
func (s *site) limited(files int) string {
	s.t.Helper()
	dir := s.lab.Path("limited")
	s.must(os.Mkdir(dir, 0o755))
	s.must(os.Symlink(bin+"/doorward", dir+"/doorward"))
	s.must(os.WriteFile(dir+"/doorwardd", fmt.Appendf(nil, "#!/bin/sh\nexec prlimit --nofile=%d %s/doorwardd \"$@\"\n", files, bin), 0o755))
	return dir
}

// descriptors counts those that the daemon has open.
func (s *site) descriptors() int {
	s.t.Helper()
	open, err := os.ReadDir("/proc/" + strconv.Itoa(s.gate.PID) + "/fd")
	s.must(err)
	return len(open)
}
