//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
)

// tormentor makes bad days, one after the other. It alone starts and ends the
// daemon; between two torments the daemon is ready. Storms, in which hardly a
// moment passes between two kills, take turns with times in which the rest has
// room.
func (c *campaign) tormentor(ctx context.Context, dice *rand.Rand) error {
	t := &tormentor{campaign: c, ctx: ctx, dice: dice}
	kinds := t.kinds()
	total := 0
	for i, k := range kinds {
		if slices.Contains(c.favour, k.name) {
			kinds[i].weight *= 30
		}
		total += kinds[i].weight
	}
	for begun := c.now(); ; {
		storm := !c.calm && int((c.now()-begun).Seconds())%40 >= 22
		pause := between(dice, 2*time.Second, 5*time.Second)
		if storm {
			pause = between(dice, 0, 100*time.Millisecond)
		}
		if !sleep(ctx, pause) {
			return nil
		}
		torment := kinds[0] // kill
		if !storm || dice.IntN(8) == 0 {
			n := dice.IntN(total)
			for _, k := range kinds {
				if n -= k.weight; n < 0 {
					torment = k
					break
				}
			}
		}
		c.count("torments: " + torment.name)
		if err := torment.do(); err != nil {
			c.broken("P8: torment %q at %.3f: %v\n%s", torment.name, c.now().Seconds(), err, c.daemon.said(12))
			if err := t.revive(); err != nil {
				return err
			}
		}
	}
}

// revive starts the daemon after a torment that went wrong, as systemd would.
func (t *tormentor) revive() (err error) {
	for range 5 {
		if pid, _ := t.daemon.running(); pid != 0 {
			return nil
		}
		time.Sleep(time.Second)
		if err = t.daemon.start(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the daemon cannot be started any more: %w\n%s", err, t.daemon.said(12))
}

// tormentor is what torments share.
type tormentor struct {
	*campaign
	ctx    context.Context
	dice   *rand.Rand
	served judge.Moment // when a service was last killed
}

// kind is one kind of torment; those of more weight come more often.
type kind struct {
	name   string
	weight int
	do     func() error
}

// Names of some of them.
const (
	killed           = "kill -9"
	applied          = "apply --confirm"
	operatorOpens    = "an operator opens for a minute"
	flushedWhileDead = "nft flush ruleset while dead"
	serviceKilled    = "service killed"
	busAway          = "D-Bus away"
	forgotten        = "connections forgotten"
	stateReadOnly    = "state read-only over a start"
)

func (t *tormentor) kinds() []kind {
	return []kind{
		{killed, 12, t.kill},
		{"kill -9, and again while it starts", 6, t.killTwice},
		{"SIGTERM", 4, t.term},
		{"SIGHUP with a good file", 4, t.hupGood},
		{"SIGHUP with a bad file", 4, t.hupBad},
		{"kill -9, start with a bad file", 2, t.badStart},
		{applied, 4, t.apply},
		{operatorOpens, 3, t.open},
		{"nft flush ruleset, nft delete table", 4, t.flush},
		{flushedWhileDead, 4, t.flushDead},
		{"disk full", 3, t.fill},
		{"store damaged", 4, t.damage},
		{"log rotated, cut, half a line", 4, t.logs},
		{"no log data", 1, t.noLog},
		{serviceKilled, 2, t.killService},
		{"service started behind a dark door", 2, t.foreignService},
		{"link down", 3, t.link},
		{busAway, 6, t.noBus},
		{"polkit away", 2, t.noPolkit},
		{forgotten, 5, t.forgetConnections},
		{stateReadOnly, 3, t.readOnly},
		{"first start without room", 2, t.firstStart},
	}
}

// gap is how long the daemon stays away.
func (t *tormentor) gap() {
	if t.dice.IntN(2) == 0 {
		time.Sleep(between(t.dice, 0, 300*time.Millisecond))
	}
}

func (t *tormentor) kill() error {
	if err := t.daemon.end(syscall.SIGKILL); err != nil {
		return err
	}
	t.gap()
	return t.daemon.start()
}

// startTime is about how long a start takes: systemd's part, and the daemon's.
const startTime = 150 * time.Millisecond

func (t *tormentor) killTwice() error {
	for range 1 + t.dice.IntN(3) {
		if err := t.daemon.end(syscall.SIGKILL); err != nil {
			return err
		}
		if err := t.daemon.launch(); err != nil {
			return err
		}
		time.Sleep(between(t.dice, 0, startTime))
	}
	return t.kill()
}

func (t *tormentor) term() error {
	if err := t.daemon.end(syscall.SIGTERM); err != nil {
		return err
	}
	t.gap()
	return t.daemon.start()
}

// write puts a configuration into the daemon's file.
func (t *tormentor) write(text string) error {
	return os.WriteFile(t.net.machine.configPath(), []byte(text), 0o640)
}

// good is the configuration with other words in it.
func (t *tormentor) good() string {
	return config + fmt.Sprintf("\n# changed %d\n", t.dice.Uint32())
}

// bad is one that cannot be used.
func (t *tormentor) bad() string {
	switch t.dice.IntN(4) {
	case 0:
		return ""
	case 1:
		return config[:t.dice.IntN(len(config)/2)] + "\n[door"
	case 2:
		return strings.Replace(config, "open_for", "open_fro", 1)
	}
	return strings.Replace(config, "59021", "59011", 1)
}

func (t *tormentor) hupGood() error {
	return errors.Join(t.write(t.good()), t.daemon.reload())
}

func (t *tormentor) hupBad() error {
	err := errors.Join(t.write(t.bad()), t.daemon.reload())
	if t.dice.IntN(3) == 0 {
		err = errors.Join(err, t.kill())
		err = errors.Join(err, t.write(config), t.kill())
	}
	return errors.Join(err, t.write(config), t.daemon.reload())
}

// badStart has the daemon start without a usable file: it must use what it used
// before.
func (t *tormentor) badStart() error {
	if err := errors.Join(t.daemon.end(syscall.SIGKILL), t.write(t.bad()), t.daemon.start()); err != nil {
		return errors.Join(err, t.write(config))
	}
	time.Sleep(between(t.dice, 0, 3*time.Second))
	return errors.Join(t.write(config), t.kill())
}

// nft runs nft on the server.
func (t *tormentor) nft(args ...string) error {
	_, err := t.net.server.Run(context.Background(), "nft", args...)
	return err
}

// flush is what others may try while the daemon owns the table: nothing must
// come of it.
func (t *tormentor) flush() error {
	if err := t.nft("flush", "ruleset"); err != nil {
		return err
	}
	err := t.nft("delete", "table", "inet", "doorward")
	if err == nil || !strings.Contains(err.Error(), "not permitted") {
		return fmt.Errorf("nft delete table: got %v, want it forbidden by the owner flag", err)
	}
	return nil
}

// flushDead takes the table away while nobody owns it. From then on until the
// next daemon is ready there is no fence, which nobody promised.
func (t *tormentor) flushDead() error {
	if err := t.daemon.end(syscall.SIGKILL); err != nil {
		return err
	}
	t.daemon.unguard()
	what := []string{"flush", "ruleset"}
	if t.dice.IntN(2) == 0 {
		what = []string{"delete", "table", "inet", "doorward"}
	}
	// What was killed while it started a program has left its sockets to that
	// one, until it runs: the table is owned as long.
	err := lab.Until(context.Background(), tooLong, "the table gone", func() error {
		if err := t.nft(what...); err != nil {
			return err
		}
		if t.nft("list", "table", "inet", "doorward") == nil {
			return errors.New("it is still there")
		}
		return nil
	})
	t.gap()
	return errors.Join(err, t.daemon.start())
}

// fill fills the state's disk for a while, over a restart too.
func (t *tormentor) fill() error {
	end := t.events.Begin(judge.Disk, t.now())
	junk := t.net.machine.state() + "/junk"
	_, _ = t.net.server.Run(context.Background(), "dd", "if=/dev/zero", "of="+junk, "bs=4k") // ends with the disk
	var err error
	time.Sleep(between(t.dice, 0, 2*time.Second))
	if t.dice.IntN(2) == 0 {
		restarted := t.events.Begin(judge.Damage, t.now()) // it may do without its store
		defer func() { restarted(t.now() + 3*time.Second) }()
		err = t.kill()
		time.Sleep(between(t.dice, 0, 2*time.Second))
	}
	_, e := t.net.server.Run(context.Background(), "rm", junk)
	end(t.now() + time.Second)
	return errors.Join(err, e)
}

// damage damages the store while no daemon has it open.
func (t *tormentor) damage() error {
	end := t.events.Begin(judge.Damage, t.now())
	if err := t.daemon.end(syscall.SIGKILL); err != nil {
		return err
	}
	// Two files are used in turn: the one in use is not empty.
	inUse, err := t.net.server.Run(context.Background(), "find", t.net.machine.state(), "-name", "doorward.state.?", "-size", "+0")
	if file := strings.TrimSpace(inUse); err == nil && file != "" {
		err = t.garble(file)
	}
	t.gap()
	err = errors.Join(err, t.daemon.start())
	end(t.now() + 3*time.Second)
	// What was set aside is the operator's to look at, and to remove.
	_, e := t.net.server.Run(context.Background(), "find", t.net.machine.state(), "-name", "*.corrupt-*", "-delete")
	return errors.Join(err, e)
}

// garble damages a file that only the server sees.
func (t *tormentor) garble(path string) error {
	text := fmt.Sprintf("of=%s", path)
	var args []string
	switch t.dice.IntN(4) {
	case 0: // cut short
		args = []string{"truncate", "-s", fmt.Sprint(t.dice.IntN(70000)), path}
	case 1: // somewhere something else
		args = []string{"dd", "if=/dev/urandom", text, "bs=1", fmt.Sprintf("seek=%d", t.dice.IntN(65536)),
			fmt.Sprintf("count=%d", 1+t.dice.IntN(4096)), "conv=notrunc"}
	case 2: // a page of nothing
		args = []string{"dd", "if=/dev/zero", text, "bs=4096", fmt.Sprintf("seek=%d", t.dice.IntN(16)), "count=1", "conv=notrunc"}
	default:
		args = []string{"dd", "if=/dev/urandom", text, "bs=4096", "count=8"}
	}
	_, err := t.net.server.Run(context.Background(), args[0], args[1:]...)
	return err
}

// logs does to the auth log what log rotation and crashes do.
func (t *tormentor) logs() error {
	log := t.net.machine.authLog()
	switch t.dice.IntN(3) {
	case 0: // copied and truncated
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		return errors.Join(t.writeLog(log+".1", string(text)), os.Truncate(log, 0))
	case 1: // cut in the middle of a line
		info, err := os.Stat(log)
		if err != nil || info.Size() < 200 {
			return err
		}
		return os.Truncate(log, info.Size()-int64(1+t.dice.IntN(100)))
	}
	f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	half := time.Now().UTC().Format(time.Stamp) + " server sshd[4711]: Accepted publickey for ro"
	if _, err := f.WriteString(half); err != nil {
		return err
	}
	time.Sleep(between(t.dice, 0, time.Second))
	_, err = f.WriteString("ot from 192.0.2.2 port 40000 ssh2: ED25519 SHA256:x\n")
	return err
}

// writeLog writes a log that the daemon may read, as it may the one that there
// always is.
func (t *tormentor) writeLog(path, text string) error {
	info, err := os.Stat(t.net.machine.authLog())
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return errors.Join(os.WriteFile(path, []byte(text), 0o640), os.Chmod(path, 0o640), os.Chown(path, int(owner.Uid), int(owner.Gid)))
}

// noLog takes all log data away (S9): the door goes dark and ignores knocks.
func (t *tormentor) noLog() error {
	end := t.events.Begin(judge.NoLog, t.now())
	text, err := os.ReadFile(t.net.machine.authLog())
	if err != nil {
		return err
	}
	err = errors.Join(os.RemoveAll(t.net.machine.authLog()+".1"), os.Truncate(t.net.machine.authLog(), 0))
	time.Sleep(between(t.dice, 0, 3*time.Second))
	err = errors.Join(err, t.writeLog(t.net.machine.authLog()+".1", "\n"+string(text)))
	// It looks again after ten seconds.
	go func() { // ends by itself, and before the network does
		time.Sleep(12 * time.Second)
		end(t.now())
	}()
	return err
}
