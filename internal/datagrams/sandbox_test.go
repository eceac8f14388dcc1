//go:build linux

package datagrams

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/sandbox"
)

// sandboxed is in the environment of a process that is to hear from inside the sandbox.
const sandboxed = "DOORWARD_TEST_SANDBOXED"

// All that the listener does it can do from inside the sandbox, at ports below 1024 too.
func TestInTheSandbox(t *testing.T) {
	ns := nstest.New(t)
	cmd := ns.Command(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), sandboxed+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "heard and answered") {
		t.Errorf("from inside the sandbox: %v\n%s", err, out)
	}
}

// hearInSandbox confines this process, makes a listener, and makes it read and answer
// datagrams of a socket that was made before.
func hearInSandbox() error {
	at := netip.MustParseAddr("127.0.0.1")
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.AsSlice()})
	if err != nil {
		return err
	}
	defer c.Close()
	policy := sandbox.Policy{Keep: []cap.Value{cap.NET_BIND_SERVICE}, Datagrams: true}
	if _, err := policy.Enter(); err != nil {
		return err
	}
	record := newRecord()
	l := New(slog.New(slog.NewTextHandler(os.Stdout, nil)), record.add)
	defer l.Close()
	if err := l.Set(overUDP(map[uint16]knock.Opener{62: &words{}, 59000: nil})); err != nil {
		return err
	}
	me := netip.AddrPortFrom(at, uint16(c.LocalAddr().(*net.UDPAddr).Port))
	// What comes over loopback is thrown away, but only after it was read like all else.
	for _, p := range []uint16{62, 59000} {
		if _, err := c.WriteToUDPAddrPort([]byte("knock"), netip.AddrPortFrom(at, p)); err != nil {
			return err
		}
	}
	for end := time.Now().Add(patience); l.Counts() != (Counts{Strange: 1, Foreign: 1}); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("counts: %+v, want a strange one and a foreign one", l.Counts())
		}
	}
	sock := l.sockets[62]
	into := newBatch() // as if it came from elsewhere
	into.names[0] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: me.Port()>>8 | me.Port()<<8, Addr: at.As16()}
	into.headers[0].Namelen = unix.SizeofSockaddrInet6
	into.reply(0, way{from: me, to: at}, copy(into.answer[:], "what"))
	_ = sock.raw.Control(into.send)
	if err := l.Answer(knock.Path{From: me, To: netip.AddrPortFrom(at, 62)}, []byte("come in")); err != nil {
		return err
	}
	b := make([]byte, 100)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for _, want := range []string{"what", "come in"} {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != want || from.Port() != 62 {
			return fmt.Errorf("answer %q from %v (%v), want %q", b[:n], from, err, want)
		}
	}
	fmt.Println("heard and answered, behind:", l.Behind())
	return nil
}
