//go:build linux

package daemon

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestInherited(t *testing.T) {
	for _, c := range []struct {
		name            string
		pid, fds, names string
		want            []string
	}{
		{"nothing", "", "", "", nil},
		{"two", "7", "2", "listener-59000:listener-59001", []string{"listener-59000", "listener-59001"}},
		{"another process's", "8", "1", "listener-59000", nil},
		{"names are missing", "7", "3", "a", []string{"a", "unknown", "unknown"}},
		{"more names than descriptors", "7", "1", "a:b", []string{"a"}},
		{"not a number", "7", "x", "a", nil},
		{"fewer than none", "7", "-1", "a", nil},
		{"more than there can be", "7", "99999999999", "a", nil},
	} {
		env := map[string]string{"LISTEN_PID": c.pid, "LISTEN_FDS": c.fds, "LISTEN_FDNAMES": c.names}
		if d := cmp.Diff(c.want, inherited(7, func(k string) string { return env[k] })); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// TestFDStore checks which messages and descriptors systemd receives.
func TestFDStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hear := func() (string, int) {
		t.Helper()
		text, oob := make([]byte, 256), make([]byte, 256)
		n, m, _, _, err := systemd.ReadMsgUnix(text, oob)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil || len(messages) == 0 {
			return string(text[:n]), -1
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("descriptors %v, %v; want one", fds, err)
		}
		return string(text[:n]), fds[0]
	}

	if err := (fdStore{}).Keep(59000, int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	text, fd := hear()
	if want := "FDSTORE=1\nFDPOLL=0\nFDNAME=listener-59000"; text != want || fd < 0 {
		t.Errorf("to keep a socket, systemd received %q with descriptor %d, want %q with one", text, fd, want)
	}
	unix.Close(fd)
	if err := (fdStore{}).Drop(59000); err != nil {
		t.Fatal(err)
	}
	text, fd = hear()
	if want := "FDSTOREREMOVE=1\nFDNAME=listener-59000"; text != want || fd >= 0 {
		t.Errorf("to forget it, systemd received %q with descriptor %d, want %q without one", text, fd, want)
	}
	systemd.Close()
	if err := (fdStore{}).Drop(59000); err == nil {
		t.Error("a message that nobody receives is not an error, want one")
	}
}
