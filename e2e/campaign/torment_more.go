//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
)

// apply applies a configuration with one door more, for a time. It is kept, or
// left to go back by itself: with the daemon alive, killed in between, or dead
// when the time is up. The door's port is another's that nobody guards before.
func (t *tormentor) apply() error {
	const confirm = 2 * time.Second
	if err := t.write(t.good() + extra); err != nil {
		return err
	}
	client := control.NewClient(t.net.machine.socket())
	_, err := client.Apply(t.ctx, control.ApplyRequest{Action: "apply", Confirm: confirm.String()})
	if t.ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return errors.Join(fmt.Errorf("apply --confirm: %w", err), t.write(config), t.daemon.reload())
	}
	keep := false
	switch t.dice.IntN(4) {
	case 0: // left alone
	case 1:
		keep = true
		if _, err = client.Apply(context.WithoutCancel(t.ctx), control.ApplyRequest{Action: "keep"}); err != nil {
			err = fmt.Errorf("apply --keep: %w", err)
		}
	case 2:
		time.Sleep(between(t.dice, 0, confirm))
		err = t.kill()
	case 3:
		err = t.daemon.end(syscall.SIGKILL)
		time.Sleep(between(t.dice, 0, 2*confirm))
		err = errors.Join(err, t.daemon.start())
	}
	time.Sleep(confirm)
	err = errors.Join(err, t.guarded(client, keep))
	return errors.Join(err, t.write(t.good()), t.daemon.reload(), t.guarded(client, false))
}

// guarded checks whether the extra door is there and guarded, or neither.
func (t *tormentor) guarded(client *control.Client, want bool) error {
	ctx := context.WithoutCancel(t.ctx)
	return lab.Until(ctx, 5*time.Second, fmt.Sprintf("the extra door guarded: %t", want), func() error {
		s, err := client.Status(ctx)
		if err != nil {
			return err
		}
		has := false
		for _, d := range s.Doors {
			has = has || d.Name == "extra"
		}
		r := judge.Failed
		e := episode{source: t.net.source(false)}
		err = t.net.outside.Do(func() error {
			fd := -1
			if fd, r = connect(e.from(), netip.AddrPortFrom(netip.MustParseAddr(server4), 7777)); fd >= 0 {
				hangUp(fd)
			}
			return nil
		})
		if has != want || (r == judge.In) == want || s.Pending != nil {
			return fmt.Errorf("the status has it: %t; a stranger's connection: %s; a configuration waits: %t", has, r, s.Pending != nil)
		}
		return err
	})
}

// open gives long grants to sources that never come, for the inspector to
// compare: the visitors' own end too soon after a restart.
func (t *tormentor) open() error {
	client := control.NewClient(t.net.machine.socket())
	for _, six := range []bool{false, true} {
		order := control.OpenRequest{Door: "web", Source: t.net.source(six).String(), For: "1m"}
		if _, err := client.Open(context.WithoutCancel(t.ctx), order); err != nil {
			return fmt.Errorf("open %+v: %w", order, err)
		}
	}
	return nil
}

// pidOf finds what ss says of a listener.
var pidOf = regexp.MustCompile(`pid=(\d+)`)

// killService kills the sshd that listens, behind an open door. It is started
// again, but not twice within ten seconds.
func (t *tormentor) killService() error {
	out, err := t.net.server.Run(context.Background(), "ss", "-Hltnp", "sport = :22")
	m := pidOf.FindStringSubmatch(out)
	if err != nil || m == nil || t.now()-t.served < 12*time.Second {
		return err
	}
	pid, _ := strconv.Atoi(m[1])
	t.served = t.now()
	end := t.events.Begin(judge.Service, t.now())
	err = syscall.Kill(pid, syscall.SIGKILL)
	time.Sleep(time.Second)
	end(t.now() + time.Second)
	return err
}

// foreignService starts the panel's service, whatever its door says. Behind a
// dark door it must be stopped again, which the inspector watches.
func (t *tormentor) foreignService() error {
	end := t.events.Begin(judge.Service, t.now())
	_, err := t.net.machine.systemctl(context.Background(), "start", "panel.service")
	end(t.now() + time.Second)
	return err
}

// noBus takes D-Bus away for a while, over a restart too. It is stopped, or dies
// and comes back when somebody asks for it.
func (t *tormentor) noBus() error {
	order := []string{"stop", "dbus.socket", "dbus.service"}
	if t.dice.IntN(2) == 0 {
		order = []string{"kill", "--kill-whom=main", "--signal=KILL", "dbus.service"}
	}
	return t.without(order, "dbus.socket", "dbus.service")
}

// noPolkit takes polkit away, which says what the daemon's user may start. It
// comes back when it is asked.
func (t *tormentor) noPolkit() error {
	if _, err := t.net.machine.systemctl(context.Background(), "start", "polkit.service"); err != nil {
		return err
	}
	return t.without([]string{"kill", "--kill-whom=main", "--signal=KILL", "polkit.service"}, "polkit.service")
}

// without gives systemd an order that takes something away through which units
// are started, and has it start that again.
func (t *tormentor) without(order []string, again ...string) error {
	end := t.events.Begin(judge.NoBus, t.now())
	_, err := t.net.machine.systemctl(context.Background(), order...)
	time.Sleep(between(t.dice, 0, 4*time.Second))
	if t.dice.IntN(2) == 0 {
		err = errors.Join(err, t.kill())
		time.Sleep(between(t.dice, 0, time.Second))
	}
	_, e := t.net.machine.systemctl(context.Background(), append([]string{"start"}, again...)...)
	end(t.now() + 3*time.Second) // the daemon looks for it every two seconds
	return errors.Join(err, e)
}

// link takes the cable away, at one end or the other.
func (t *tormentor) link() error {
	end := t.events.Begin(judge.Link, t.now())
	ctx := context.Background()
	host := t.net.server
	if t.dice.IntN(2) == 0 {
		host = t.net.outside
	}
	err := t.net.run(ctx, host, "ip link set eth1 down")
	time.Sleep(between(t.dice, 100*time.Millisecond, 1500*time.Millisecond))
	err = errors.Join(err, t.net.run(ctx, host, "ip link set eth1 up"), t.net.routes(ctx))
	end(t.now() + 1500*time.Millisecond)
	return err
}

// floods have this many connections a second.
const floodRate = 1000

// flooder floods the listeners from sources that never come again. Right knocks of
// others must open all the same.
func (c *campaign) flooder(ctx context.Context, dice *rand.Rand) error {
	for sleep(ctx, between(dice, 3*time.Second, 12*time.Second)) {
		c.count("floods")
		open := make([]int, 64) // the connections of the last moments
		for i, end := 0, c.now()+between(dice, time.Second, 3*time.Second); c.now() < end && ctx.Err() == nil; i++ {
			d := c.doors[dice.IntN(len(c.doors))]
			source := netip.AddrFrom4([4]byte{198, 19, byte(dice.Uint32()), byte(dice.Uint32())})
			if dice.IntN(2) == 0 {
				source = anyOf(netip.MustParsePrefix(guesser6), dice)
			}
			to := netip.AddrPortFrom(d.target(source).Addr(), d.listen[dice.IntN(len(d.listen))])
			fd, err := socket(netip.AddrPortFrom(source, 0), unix.SOCK_STREAM)
			if err != nil {
				continue
			}
			_ = unix.Connect(fd, sockaddr(to))
			if old := open[i%len(open)]; old > 0 {
				hangUp(old)
			}
			open[i%len(open)] = fd
			time.Sleep(time.Second / floodRate)
		}
		for _, fd := range open {
			if fd > 0 {
				hangUp(fd)
			}
		}
	}
	return nil
}

// forgetConnections empties the server's connection table, or has it forget what
// is idle for a moment. Sessions live on.
func (t *tormentor) forgetConnections() error {
	ctx := context.Background()
	if t.dice.IntN(2) == 0 {
		_, err := t.net.server.Run(ctx, "conntrack", "-F")
		return err
	}
	const name = "net.netfilter.nf_conntrack_tcp_timeout_established="
	err := t.net.run(ctx, t.net.server, "sysctl -qw "+name+"1")
	time.Sleep(between(t.dice, 0, 4*time.Second))
	return errors.Join(err, t.net.run(ctx, t.net.server, "sysctl -qw "+name+"432000"))
}

// readOnly has the daemon start while its state cannot be written. The doors are
// guarded all the same. What doors' commands have open stays writable, as a disk
// that turns read-only leaves it to them to find out.
func (t *tormentor) readOnly() error {
	mount := func(args ...string) error {
		_, err := t.net.machine.Run(context.Background(), args[0], append(args[1:], stateDir)...)
		return err
	}
	return t.withoutState(func() error {
		return errors.Join(mount("mount", "--bind", stateDir), mount("mount", "-o", "remount,bind,ro"))
	}, func() error {
		return mount("umount", "--lazy")
	})
}

// firstStart has the daemon start without any state and without room for it.
func (t *tormentor) firstStart() error {
	ctx, junk := context.Background(), t.net.machine.state()+"/junk"
	return t.withoutState(func() error {
		_, err := t.net.server.Run(ctx, "find", t.net.machine.state(), "-type", "f", "-delete")
		_, _ = t.net.server.Run(ctx, "dd", "if=/dev/zero", "of="+junk, "bs=4k") // ends with the disk
		return err
	}, func() error {
		_, err := t.net.server.Run(ctx, "rm", junk)
		return err
	})
}

// withoutState does something while no daemon lives, and undoes it before the
// next but one.
func (t *tormentor) withoutState(do, undo func() error) error {
	end := t.events.Begin(judge.Damage, t.now())
	err := errors.Join(t.daemon.end(syscall.SIGKILL), do(), t.daemon.start())
	time.Sleep(between(t.dice, 0, 3*time.Second))
	err = errors.Join(err, t.daemon.end(syscall.SIGKILL), undo(), t.daemon.start())
	end(t.now() + 3*time.Second)
	return err
}
