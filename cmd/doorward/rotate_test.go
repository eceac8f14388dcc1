//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/setup"
)

// applier is a daemon of which only apply is implemented, which is all that a rotation
// needs.
type applier struct {
	control.Backend        // what it is never asked
	config          string // its configuration file
	err             error  // of apply
	seen            []byte // the file as apply found it
	order           any
	doors           []control.Door
	waits           bool // a configuration, to be confirmed
}

func (a *applier) Status() (control.Status, <-chan struct{}) {
	s := control.Status{Time: time.Now(), Config: a.config, Doors: a.doors}
	if a.waits {
		s.Pending = &control.Pending{ID: 1, Until: time.Now().Add(time.Minute)}
	}
	return s, make(chan struct{})
}

func (a *applier) Newer() <-chan struct{} { return make(chan struct{}) }

func (a *applier) Do(_ context.Context, _ control.Caller, order any) (control.Reply, error) {
	a.order = order
	a.seen, _ = os.ReadFile(a.config)
	until := time.Now().Add(time.Minute)
	return control.Reply{Message: "applied, to be kept", Until: &until}, a.err
}

func (a *applier) Diff(context.Context) (control.Diff, error) { return control.Diff{}, nil }

func (a *applier) Log(control.LogQuery) (control.LogPage, error) { return control.LogPage{}, nil }

// serve answers for a on a socket until the test ends.
func (a *applier) serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- control.NewServer(a, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return socket
}

// The new knock has ports that other firewalls do not know yet.
func TestRotateNamesFirewalls(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "doorward.toml")
	const text = "[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"touch\"\n" +
		"listen = [59000, 59001]\ntouch = [59000]\n"
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &stdout, stderr: io.Discard, getenv: func(key string) string {
		return map[string]string{"SUDO_UID": "1000"}[key]
	}}
	var asked *config.Config
	c := newRotateWith(e, setup.Machine{Firewalls: func(c *config.Config) []setup.Firewall {
		asked = c
		return []setup.Firewall{{Name: "ufw", Steps: []string{"ufw allow them"}}}
	}})
	c.SetArgs([]string{"-c", path, "--output", dir})
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(now.WayIn(), asked.WayIn()); diff != "" {
		t.Errorf("the firewalls were asked about other ports (-file +asked):\n%s", diff)
	}
	for _, want := range []string{"In this machine's firewall, ufw, let knocks and visitors through:\n  sudo ufw allow them\n",
		"if there is one, allow\nfrom everywhere:\n  TCP 22, " + strconv.Itoa(int(now.WayIn()[1].First)), "\nThe daemon goes on with the old knock until: "} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, stdout.String())
		}
	}
}

func TestRotateApply(t *testing.T) {
	const text = "[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"touch\"\n" +
		"listen = [59000, 59001, 59002]\ntouch = [59000, 59002]\n"
	tests := []struct {
		name    string
		daemon  func(dir string) *applier
		applied bool
		stdout  string
		stderr  string
	}{
		{
			name:    "applied",
			daemon:  func(dir string) *applier { return &applier{config: filepath.Join(dir, "doorward.toml")} },
			applied: true,
			stdout:  "\napplied, to be kept\nKnock with the new ports",
		},
		{
			name: "refused",
			daemon: func(dir string) *applier {
				return &applier{config: filepath.Join(dir, "doorward.toml"), err: &control.Error{
					Code: control.CodeRefused, Message: "port 21000/tcp is taken", Hint: "doorward doctor"}}
			},
			stderr: "doorward: error: the knock stays the old one: port 21000/tcp is taken\n" +
				"doorward: hint: doorward doctor\n",
		},
		{
			name: "no answer",
			daemon: func(dir string) *applier {
				return &applier{config: filepath.Join(dir, "doorward.toml"), err: errors.New("disk full")}
			},
			stderr: "doorward: error: the file has the old knock again; if the daemon has the new one all the same, " +
				"it goes back within 1m30s: ",
		},
		{
			name:   "another file",
			daemon: func(dir string) *applier { return &applier{config: "/elsewhere/doorward.toml"} },
			stderr: `doorward: error: --apply: the daemon's configuration is "/elsewhere/doorward.toml", not "`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "doorward.toml")
			if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
			daemon := tt.daemon(dir)
			var stdout, stderr bytes.Buffer
			e := &env{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, getenv: func(string) string { return "" }}
			code := run(t.Context(), e, []string{"rotate", "-c", path, "--output", dir, "--apply", "--confirm", "90s",
				"--control", daemon.serve(t)})
			if (code == 0) != tt.applied {
				t.Errorf("exit status %d", code)
			}
			if !strings.Contains(stdout.String(), tt.stdout) || !strings.HasPrefix(stderr.String(), tt.stderr) {
				t.Errorf("it said:\n%s%s\nwant ...%s%s", &stdout, &stderr, tt.stdout, tt.stderr)
			}
			now, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if changed := string(now) != text; changed != tt.applied {
				t.Errorf("the file changed: %v\n%s", changed, now)
			}
			left, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || !tt.applied && len(left) != 1 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if !tt.applied {
				return
			}
			if !bytes.Equal(daemon.seen, now) {
				t.Errorf("the daemon was asked when the file was:\n%s", daemon.seen)
			}
			want := control.ApplyRequest{Action: "apply", Confirm: "1m30s"}
			if daemon.order != want {
				t.Errorf("ordered %v, want %v", daemon.order, want)
			}
		})
	}
}
