//go:build linux

package e2e

import (
	"cmp"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
)

// articleKnock is the article's to the letter, with shorter times: what anybody
// touches adds up, the monitor looks at intervals, and everything is for all.
const articleKnock = `kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
within = "2s"
judge = "every 2s"
penalty = "5s"
scope = "door"
`

// silent waits until a listener does not listen, and checks that nothing answers.
func (s *site) silent(port string) {
	s.t.Helper()
	s.until("no listener at "+port, func() error {
		if listens, err := s.listensAt(port); err != nil || listens {
			return cmp.Or(err, errors.New("there is one"))
		}
		return nil
	})
	if c, err := s.dial(s.stranger, gate4, port, dark); err == nil {
		c.Close()
		s.t.Errorf("the listener at %s is up", port)
	}
}

// listens waits until a listener listens, without touching it.
func (s *site) listens(ports ...string) {
	s.t.Helper()
	for _, port := range ports {
		s.until("a listener at "+port, func() error {
			if listens, err := s.listensAt(port); err != nil || !listens {
				return cmp.Or(err, errNone)
			}
			return nil
		})
	}
}

// listensAt says whether something listens at a port of the server's, without touching it.
func (s *site) listensAt(port string) (bool, error) {
	out, err := s.server.Run(s.t.Context(), "ss", "-Hltn", "sport = :"+port)
	return out != "", err
}

func TestArticle(t *testing.T) {
	s := newSite(t, "sshd", "ssh", "telnet")
	door, ssh := s.sshDoor("idle = \"12s\"\nconnections = false\nlogins = [\""+s.authLog+"\"]", articleKnock)
	s.start(door)
	s.listens("59000", "59001", "59002")

	// S1: a touched listener dies. S5: at the next look the knock is wrong, and knocks
	// are ignored; then all is reset.
	s.touch(s.stranger, gate4, "59001")
	s.penalised("ssh", "any")
	for _, port := range []string{"59000", "59001", "59002"} {
		s.silent(port)
	}
	s.becomes("ssh", "no penalty", func(d *control.Door) bool { return len(d.Penalties) == 0 })
	s.listens("59000", "59001", "59002")

	// S2 to S4: two visitors' touches add up, sshd starts, the listeners end, and
	// anybody may come in.
	s.until("both touches within one look", func() error {
		s.listens("59000", "59002")
		s.touch(s.visitor, gate4, "59000")
		s.touch(s.stranger, gate4, "59002")
		return s.gate.WaitState(t.Context(), "ssh", "open", 3*time.Second)
	})
	s.silent("59001")
	s.admits(s.stranger, gate6, "22")
	in := s.login(ssh, s.visitor, gate4)

	// S10: the last login is too long ago; an open session does not count as one.
	s.must(s.gate.WaitState(t.Context(), "ssh", "dark", 2*soon))
	s.refuses(s.visitor, gate4, "22")
	s.listens("59000", "59001", "59002")
	s.lives(in)
}

// S9 and its ends: no log data anywhere is something fishy, until there is some
// or an operator has looked.
func TestNoLogDataAtAll(t *testing.T) {
	s := newSite(t, "sshd")
	log, err := s.lab.Write("secure", "")
	s.must(err)
	door, _ := s.sshDoor("idle = \"6s\"\nconnections = false\nlogins = [\""+log+"\", \""+s.lab.Path("secure.1")+"\"]", touchKnock)
	s.start(door)
	s.state("ssh", "failsafe")
	s.says(s.gate.Output(), `"level":"(WARN|ERROR)".*log`)
	s.says(s.operator("status"), `failsafe`)
	for _, port := range []string{"59000", "59002"} { // knocks are ignored: whether the ports answer does not matter
		if c, err := s.dial(s.visitor, gate4, port, dark); err == nil {
			c.Close()
		}
	}
	s.refuses(s.visitor, gate4, "22")
	if d := s.door("ssh"); d.State != "failsafe" || len(d.Grants) > 0 {
		t.Errorf("a knock at a failsafe door: it is %s, grants %v", d.State, d.Grants)
	}

	line := time.Now().Format(time.Stamp) + " server syslogd: started\n"
	s.must(os.WriteFile(log, []byte(line), 0o600))
	s.state("ssh", "dark")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "22")

	s.must(os.Truncate(log, 0))
	s.state("ssh", "failsafe")
	s.refuses(s.visitor, gate4, "22")
	s.operator("arm", "ssh")
	s.state("ssh", "dark")
	s.listens("59000", "59001", "59002")
}
