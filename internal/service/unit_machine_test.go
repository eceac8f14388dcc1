//go:build linux

package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// told is a log that calls then when it has a text.
type told struct {
	text string
	then func()
}

func (l told) Write(p []byte) (int, error) {
	if strings.Contains(string(p), l.text) {
		l.then()
	}
	return os.Stderr.Write(p)
}

// helpUnit carries out an order as the user that runs it: ORDER UNIT.
func helpUnit(args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	u := NewUnit(args[1], textLogger(os.Stderr))
	var err error
	switch args[0] {
	case "start":
		err = u.Start(ctx)
	case "start-or-wait": // until it would wait for a start limit
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		u.log = textLogger(told{"its start waits", cancel})
		err = u.Start(ctx)
	case "stop":
		err = u.Stop(ctx)
	case "allowed":
		err = u.Allowed(ctx)
	case "denied": // as root, about the user doorward
		who, lookup := user.Lookup("doorward")
		if lookup != nil {
			fmt.Println(lookup)
			return
		}
		uid, _ := strconv.Atoi(who.Uid)
		var orders []Order
		orders, err = Denied(ctx, uid, u.Names().Orders())
		for _, o := range orders {
			fmt.Println(o)
		}
	case "watch":
		ctx, cancel := context.WithCancel(ctx)
		go func() { // ends when the test closes the input, or with the process
			io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		err = u.Watch(ctx, func(s Status) { fmt.Println(s.State) })
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("done")
}

// testUnitSession keeps an SSH session open while its server is stopped.
func testUnitSession(t *testing.T, m *systemdtest.Machine, visitor *nstest.NS) {
	key := t.TempDir() + "/id"
	visitor.Run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	m.Write("/root/.ssh/authorized_keys", string(public), 0o600)
	for _, unit := range []string{"ssh.service", "ssh.socket"} {
		t.Run(unit, func(t *testing.T) {
			u := NewUnit(unit, discard)
			if err := u.Start(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			say, _ := nstest.Session(t, visitor.Command(t.Context(), "ssh", "-T", "-i", key, "-F", "none", "-o", "StrictHostKeyChecking=no",
				"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectionAttempts=20", "root@192.0.2.1", "cat"), "")
			for _, text := range []string{"before", "after"} {
				say(text)
				if err := u.Stop(within(t, 20*time.Second)); err != nil {
					t.Fatal(err)
				}
				if listeners := m.Run("ss", "-Hltn", "sport = :22"); listeners != "" {
					t.Errorf("after Stop, something still listens: %s", listeners)
				}
			}
		})
	}
}
