//go:build linux

package word

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// newShared is a site with two doors that share a port and a file of words.
func newShared(t *testing.T, book string) *site {
	s := newSite(t)
	s.words = filepath.Join(t.TempDir(), "words") // a directory that nothing else is in
	s.book(book)
	var err error
	s.config, err = s.lab.Write("doorward.toml", fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\n", s.lab.Path("state"), s.lab.Path("control.sock"))+
		s.door2("api", 8081, "other sesame")+s.door2("web", 8080, sesame))
	s.must(err)
	var api net.Listener
	s.must(s.server.Do(func() (err error) { api, err = net.Listen("tcp", ":8081"); return }))
	t.Cleanup(func() { api.Close() })
	s.start()
	return s
}

// door2 is a door of the configuration.
func (s *site) door2(name string, port int, word string) string {
	return fmt.Sprintf("[door.%[1]s]\nports = [\"%[2]d/tcp\"]\nopen_for = \"1h\"\n[door.%[1]s.presence]\nlogins = \"off\"\n"+
		"[[door.%[1]s.knock]]\nkind = \"word\"\nport = 59010\nword = %[3]q\nwords = %[4]q\n", name, port, word, s.words)
}

// book replaces the file of words as an editor does.
func (s *site) book(text string) {
	s.t.Helper()
	s.must(os.WriteFile(s.words+".new", []byte(text), 0o600))
	s.must(os.Rename(s.words+".new", s.words))
}

// grants are who has one at a door, by whom.
func (s *site) grants(door string) (all []string) {
	s.t.Helper()
	status, err := control.NewClient(s.lab.Path("control.sock")).Status(s.t.Context())
	s.must(err)
	for _, d := range status.Doors {
		for _, g := range d.Grants {
			if d.Name == door {
				all = append(all, g.Source+" "+strings.Join(g.For, ", "))
			}
		}
	}
	return all
}

// has waits until a door's grants are these.
func (s *site) has(door string, want ...string) {
	s.t.Helper()
	s.must(lab.Until(s.t.Context(), soon, fmt.Sprintf("grants %q at %s", want, door), func() error {
		if got := s.grants(door); !slices.Equal(got, want) {
			return fmt.Errorf("there are %q", got)
		}
		return nil
	}))
}

// trail are the records of one event.
func (s *site) trail(event string) (all []audit.Record) {
	s.t.Helper()
	s.must(control.NewClient(s.lab.Path("control.sock")).Log(s.t.Context(), control.LogQuery{}, func(r audit.Record) error {
		if r.Event == event {
			all = append(all, r)
		}
		return nil
	}))
	return all
}

// Doors that share a port are told apart by what a visitor asks for; a word that an order
// withdraws opens nothing any more, what it had opened is closed and who came in by it is
// out, and a restart forgets none of that.
func TestAWordIsWithdrawn(t *testing.T) {
	s := newShared(t, "alice eight of alice\nbob eight of bob\n")
	client := control.NewClient(s.lab.Path("control.sock"))
	v := s.voice(s.visitor, gate4)
	for n, door := range []string{"api", "web"} {
		v.say(SayTo(door, ToOpen, "eight of alice", uint64(n+1)))
		v.hears("^open until ")
	}
	w := s.voice(s.stranger, gate4)
	w.say(SayTo("web", ToOpen, "eight of bob", 1))
	w.hears("^open until ")
	v.say(SayTo("web", ToOpen, "other sesame", 9)) // of another door
	s.has("api", visitor4+" word alice")
	s.has("web", visitor4+" word alice", stranger4+" word bob")
	in := s.comesIn(s.visitor)

	_, err := client.Kind(t.Context(), "word", "withdraw", map[string]any{"name": "carol"})
	var refused *control.Error
	if !errors.As(err, &refused) || refused.Code != control.CodeRefused || refused.Hint != "look into the file" {
		t.Errorf("carol, who has none: %#v", err)
	}
	reply, err := client.Kind(t.Context(), "word", "withdraw", map[string]any{"name": "alice", "cut": true})
	s.must(err)
	if string(reply.Result) != `{"withdrawn":1}` || reply.Message != "word withdraw: done; grants ended: 2" || !reply.Changed {
		t.Errorf("withdrawn: %+v, result %s", reply, reply.Result)
	}
	s.has("api")
	s.has("web", stranger4+" word bob")
	s.refuses(s.visitor, gate4)
	s.must(in.SetReadDeadline(time.Now().Add(soon)))
	if _, err := in.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("alice, who was in: %v, want that the connection has ended", err)
	}
	if all := s.trail(audit.EventKeys); len(all) != 1 || all[0].Operator == nil || !strings.HasSuffix(all[0].Reason, "has withdrawn the word of alice") {
		t.Errorf("the trail has %+v, want who has withdrawn whose word", all)
	}

	s.must(s.gate.Kill())
	s.start()
	v.say(SayTo("web", ToOpen, "eight of alice", 20))
	s.must(lab.Until(t.Context(), soon, "an alarm", func() error {
		if len(s.trail(audit.EventAlarm)) == 0 {
			return errors.New("there is none")
		}
		return nil
	}))
	s.refuses(s.visitor, gate4)
	s.admits(s.stranger, gate4)
}

// comesIn connects to the web server.
func (s *site) comesIn(from *lab.Host) (c net.Conn) {
	s.t.Helper()
	s.must(from.Do(func() (err error) { c, err = net.DialTimeout("tcp", gate4+":8080", soon); return }))
	s.t.Cleanup(func() { c.Close() })
	return c
}

// A visitor closes what they have opened, and can have it at one address alone.
func TestAWordCloses(t *testing.T) {
	s := newShared(t, "alice eight of alice\n")
	v4, v6, w := s.voice(s.visitor, gate4), s.voice(s.visitor, gate6), s.voice(s.stranger, gate4)
	for n, v := range []voice{v4, v6} {
		v.say(SayTo("web", ToOpen, "eight of alice", uint64(n+1)))
		v.hears("^open until ")
	}
	w.say(SayTo("web", ToOpenHere, "eight of alice", 3))
	w.hears("^open until ")
	s.has("web", stranger4+" word alice", visitor6+" word alice") // of another address family
	w.say(SayTo("web", ToClose, "eight of alice", 4))
	w.hears("^closed$")
	s.has("web", visitor6+" word alice")
	s.refuses(s.stranger, gate4)
	s.refuses(s.visitor, gate4)
}

// A file that is replaced is in force when the daemon has looked, and one that others can
// read is not gone by, loudly: what was known stays.
func TestWordsInAFileChange(t *testing.T) {
	s := newShared(t, "alice eight of alice\nbob eight of bob\n")
	v := s.voice(s.visitor, gate4)
	v.say(SayTo("web", ToOpen, "eight of alice", 1))
	v.hears("^open until ")
	s.book("bob eight of bob\n")
	s.reload("is already in use")
	s.has("web")

	s.must(s.gate.Stop())
	s.book("carol eight of carol\n")
	s.start()
	v.say(SayTo("web", ToOpen, "eight of carol", 1))
	v.hears("^open until ")
	s.has("web", visitor4+" word carol") // on disk, too
	s.must(s.gate.Kill())
	s.book("bob eight of bob\n")
	s.start()
	s.has("web") // though nobody saw it change

	s.must(os.Chmod(s.words, 0o644))
	s.reload("may be read by everybody")
	status, err := control.NewClient(s.lab.Path("control.sock")).Status(t.Context())
	s.must(err)
	const want = "may be read by everybody, and is a secret: allowed are its owner and its group; to fix it: chmod o= "
	if !slices.ContainsFunc(status.Warnings, func(w string) bool { return strings.Contains(w, want) }) {
		t.Errorf("warnings %q, want one with %q", status.Warnings, want)
	}
	v.say(SayTo("web", ToOpen, "eight of bob", 1))
	v.hears("^open until ")
}
