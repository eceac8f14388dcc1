//go:build linux

package presence

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// A visitor who was in and has left is remembered, for the ports that were used only; one
// who never completed a connection is not.
func TestWhoCameAndWent(t *testing.T) {
	server, visitor := gateway(t)
	l := server.Listen("tcp", "0.0.0.0:22")
	other := server.Listen("tcp", "0.0.0.0:2222")
	var from []netip.AddrPort
	for _, at := range []net.Listener{l, other} {
		c := visitor.Dial("tcp", fmt.Sprint("192.0.2.1:", at.Addr().(*net.TCPAddr).Port))
		in := accept(t, at)
		go fmt.Fprint(in, "hello")
		if _, err := c.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		from = append(from, c.LocalAddr().(*net.TCPAddr).AddrPort())
		c.Close()
		in.Close()
	}
	from = append(from, netip.MustParseAddrPort("192.0.2.2:1"))
	for ports, want := range map[string][]netip.AddrPort{"22/tcp": from[:1], "22/udp": nil, "1-100/tcp": from[:1], "2222/tcp": from[1:2]} {
		server.Do(func() error {
			w := NewWatcher()
			in, err := w.In(nstest.Ranges(t, ports))
			if len(in) > 0 || err != nil {
				t.Errorf("in by %s are still %v: %v", ports, in, err)
			}
			got, err := w.Came(nstest.Ranges(t, ports), from)
			if slices.Equal(got, want) && err == nil {
				return nil
			}
			t.Errorf("by %s came %v, want %v: %v", ports, got, want, err)
			return nil
		})
	}
}

// A login is reported once, whatever happens to its file.
func TestLoginsAreFreshOnce(t *testing.T) {
	d := newLogDir(t)
	at := func(minutes int, user string) string {
		return fmt.Sprintf("%s gate sshd[7]: Accepted publickey for %s from 192.0.2.7 port 40022 ssh2: ED25519 SHA256:abc\n",
			d.now.Add(time.Duration(minutes)*time.Minute).Format(time.RFC3339), user)
	}
	l := d.log("auth.log")
	want := func(want ...string) {
		t.Helper()
		if _, _, err := l.Last(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		fresh, lost := l.Fresh()
		if lost != 0 {
			t.Errorf("%d are lost of %d", lost, len(fresh))
		}
		for _, login := range fresh {
			got = append(got, fmt.Sprint(login.User, " ", login.Method, " ", netip.AddrPortFrom(login.Source, login.Port)))
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	one := func(user string) string { return user + " publickey 192.0.2.7:40022" }
	d.write("auth.log", at(-1, "alice")+at(-2, "bob"))
	want(one("bob"), one("alice"))
	want()
	d.now = d.now.Add(time.Minute)
	d.write("auth.log", at(-1, "carol"))
	d.rename("auth.log", "auth.log.1")
	d.write("auth.log", at(0, "dave"))
	want(one("carol"), one("dave"))
	want()
	var many strings.Builder
	for n := range maxRead + 1 {
		many.WriteString(at(0, fmt.Sprint("user", n)))
	}
	d.write("auth.log", many.String())
	if _, _, err := l.Last(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, lost := l.Fresh(); len(got) != maxRead || got[0].User != "user1" || lost != 1 {
		t.Errorf("%d logins from %q on, and %d lost; want the last %d", len(got), got[0].User, lost, maxRead)
	}
}
