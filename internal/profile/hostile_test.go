//go:build unix

package profile

import (
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/seal"
)

// An address with a zone (RFC 4007) is one line of plain text, too: it gets into files of
// ssh's and onto terminals.
func TestZones(t *testing.T) {
	for _, tt := range []struct {
		host string
		ok   bool
	}{
		{"fe80::1%eth0", true},
		{"fe80::1%wlp3s0.7", true},
		{"fe80::1%3", true},
		{"fe80::1%", false},
		{"fe80::1%a b", false},
		{"fe80::1%eth0\n    ProxyCommand touch /tmp/x", false},
		{"fe80::1%eth0\r    ProxyCommand touch /tmp/x", false},
		{"fe80::1%$(touch$IFS/tmp/x)", false},
		{"fe80::1%`id`", false},
		{"fe80::1%x;id", false},
		{"fe80::1%x,*", false},
		{"fe80::1%\x1b]0;x\a", false},
		{"fe80::1%%h", false},
		{"fe80::1%" + strings.Repeat("x", 16), false},
	} {
		if err := CheckHost(tt.host); (err == nil) != tt.ok {
			t.Errorf("CheckHost(%q): %v; want it allowed: %v", tt.host, err, tt.ok)
		}
		v := Invite{Port: 1, Name: "gate", Hosts: []string{tt.host}}
		if _, err := ParseInvite(v.String()); (err == nil) != tt.ok {
			t.Errorf("an invite to %q: %v; want it read: %v", tt.host, err, tt.ok)
		}
	}
}

// A profile says where a visitor's knocks go. It is not read where others could have put
// it, and what is no file is not waited for.
func TestProfilesOfOthers(t *testing.T) {
	p := Profile{Name: "gate", Hosts: []string{"192.0.2.1"}, Port: 1, Suite: seal.Hybrid}
	for name, tt := range map[string]struct {
		prepare func(d Directory) error
		want    string // the end of the error; DIR is the directory
	}{
		"a pipe":             {func(d Directory) error { os.Remove(d.Path("gate")); return syscall.Mkfifo(d.Path("gate"), 0o600) }, "is not a regular file"},
		"read by its group":  {func(d Directory) error { return os.Chmod(d.Path("gate"), 0o640) }, `"DIR/gate.toml" may be read by others, and is a secret: allowed is its owner alone; to fix it: chmod go-rwx DIR/gate.toml`},
		"written by others":  {func(d Directory) error { return os.Chmod(string(d), 0o777) }, `"DIR" may be written by everybody: allowed is its owner alone; to fix it: chmod go-w DIR`},
		"too long":           {func(d Directory) error { return os.Truncate(d.Path("gate"), 1<<20) }, `"DIR/gate.toml" is longer than 65536 bytes`},
		"of another user":    {func(d Directory) error { return os.Lchown(d.Path("gate"), 54321, -1) }, "belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/gate.toml"},
		"a link to a device": {func(d Directory) error { os.Remove(d.Path("gate")); return os.Symlink("/dev/zero", d.Path("gate")) }, "is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "of another user" && os.Geteuid() != 0 {
				t.Skip("needs root: it gives files to another user")
			}
			d := Directory(t.TempDir() + "/profiles")
			if err := d.Save(p, false); err != nil {
				t.Fatal(err)
			}
			if err := tt.prepare(d); err != nil {
				t.Fatal(err)
			}
			got := make(chan error, 1)
			go func() { _, err := d.Load("gate"); got <- err }()
			select {
			case err := <-got:
				if want := strings.ReplaceAll(tt.want, "DIR", string(d)); err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("%v, want ...%s", err, want)
				}
			case <-time.After(10 * time.Second):
				t.Error("it is waited for")
			}
		})
	}
}

// What a profile cannot say is not written: it could not be read again.
func TestAProfileIsReadAsItIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Profile{Name: "gate", Hosts: []string{"192.0.2.1"}, Port: 1, Carriers: []string{"udp"}, Suite: seal.Hybrid, Doors: []string{},
			Key: Key{File: string(rapid.SliceOf(rapid.Byte()).Draw(t, "file")), Certificate: rapid.String().Draw(t, "certificate")}}
		if p.check() != nil {
			return
		}
		got, err := parse(p.text())
		got.Name = p.Name
		p.Gateway.Bundle = []byte{}
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%+v, %v; want %+v", got, err, p)
		}
	})
}

// A number that no gateway would take, from a time when the clock was ahead, is not sent
// again and again without a word.
func TestACounterOfTheFuture(t *testing.T) {
	d := Directory(t.TempDir())
	now := time.Date(2026, 11, 27, 14, 0, 0, 0, time.UTC)
	if _, err := d.Counter("gate", now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	want := "count a single packet: the last one was of 2026-11-27T15:00:00Z, and a gateway takes none that is more than 5m0s ahead of its clock: once this machine's is right, delete " + string(d) + "/gate.counter"
	if _, err := d.Counter("gate", now); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	if n, err := d.Counter("gate", now.Add(56*time.Minute)); err != nil || n <= uint64(now.Add(time.Hour).UnixMicro()) {
		t.Errorf("%d, %v", n, err)
	}
	if err := os.WriteFile(string(d)+"/gate.counter", []byte("18446744073709551615\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Counter("gate", now); err == nil {
		t.Errorf("%d after the highest there is", n)
	}
}
