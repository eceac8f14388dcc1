//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// kernel tries the configuration's table on the kernel that runs.
func (h *Host) kernel(c *config.Config) []Finding {
	var u unix.Utsname
	release := "of an unknown release"
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	owned, err := rehearse(c)
	return kernelFindings(release, owned, err)
}

// kernelFindings judges a rehearsal.
func kernelFindings(release string, owned bool, err error) []Finding {
	where := "kernel"
	switch {
	case errors.Is(err, unix.EPERM):
		return []Finding{{Warning, where, fmt.Sprintf("Linux %s; did not try whether it accepts doorward's nftables table",
			release), "run doctor as root; in a container, give it CAP_NET_ADMIN and CAP_SYS_ADMIN for this"}}
	case err != nil:
		return []Finding{{Problem, where, fmt.Sprintf("Linux %s does not accept doorward's nftables table: %v", release, err),
			"use a kernel with nf_tables, nft_fib_inet and nf_conntrack, 5.10 or later; in a container that is the host's"}}
	case !owned:
		return []Finding{{OK, where, fmt.Sprintf("Linux %s accepts doorward's nftables table; others may flush it"+
			" (the flags owner and persist need 6.9), and doorward then puts it back", release), ""}}
	}
	return []Finding{{OK, where, fmt.Sprintf("Linux %s accepts doorward's nftables table and keeps others from changing it",
		release), ""}}
}

// rehearse builds the table of c in a network namespace of its own, which ends
// with the thread that made it.
func rehearse(c *config.Config) (owned bool, err error) {
	var doors []fence.Door
	for _, d := range c.Doors {
		doors = append(doors, fence.Door{Name: d.Name, Ports: d.Ports, Reject: d.Refuse == config.Reject,
			SingleUse: d.SingleUse, Always: d.Always})
	}
	done := make(chan error)
	go func() { // ends after one rehearsal
		runtime.LockOSThread() // never unlocked: the thread goes, and the namespace with it
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			f, err := fence.Open(slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer f.Close()
			if err := f.Guard(doors); err != nil {
				return err
			}
			owned = f.Owned()
			return f.Check()
		}()
	}()
	err = <-done
	return owned, err
}

// conntrack checks how connections are tracked.
func (h *Host) conntrack(c *config.Config) []Finding {
	const dir = "/proc/sys/net/netfilter/"
	all := conntrackFindings(h.read(dir+"nf_conntrack_count"), h.read(dir+"nf_conntrack_max"))
	for _, t := range timeouts {
		all = append(all, t.findings(c, h.read(dir+t.name))...)
	}
	return all
}

// timeout is a time after which connection tracking forgets what is silent, and what
// follows for a door if that is too early.
type timeout struct {
	name   string
	proto  port.Proto
	least  time.Duration
	silent string // what is silent
	what   string // what follows
}

// To the fence, a session of this machine's own services lives as long as its socket.
// One that is forwarded has no socket here, and other firewalls judge by connection
// tracking alone. TCP keepalive probes after two hours (RFC 1122, 4.2.3.6), which is
// why no address translation may forget a session sooner than after 2 h 4 min (RFC
// 5382, REQ-5). A flow over UDP is nothing but what is remembered of it;
// two minutes is Linux's default, and the least by RFC 4787, REQ-5.
var timeouts = [...]timeout{
	{"nf_conntrack_tcp_timeout_established", port.TCP, 2*time.Hour + 4*time.Minute, "a silent TCP connection",
		"before TCP keepalive probes it (after 2h): then a session through a forwarded port, such" +
			" as a container's, hangs, and so does one that another firewall allows only as established; the fence keeps those" +
			" of this machine's own services"},
	{"nf_conntrack_udp_timeout_stream", port.UDP, 2 * time.Minute, "a silent flow over UDP",
		"and whoever is silent for longer is no longer seen to be in"},
}

// findings judges the timeout as the kernel writes it, in seconds; it is "" where
// connections are not tracked yet.
func (t timeout) findings(c *config.Config, text string) []Finding {
	seconds, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	is := time.Duration(seconds) * time.Second
	if err != nil || is >= t.least {
		return nil
	}
	var doors []string
	for _, d := range c.Doors {
		if port.Has(d.Ports, t.proto) {
			doors = append(doors, d.Name)
		}
	}
	if len(doors) == 0 {
		return nil
	}
	setting := fmt.Sprintf("net.netfilter.%s=%d", t.name, int(t.least.Seconds()))
	return []Finding{{Warning, "conntrack", fmt.Sprintf("forgets %s to door %s after %v, %s",
		t.silent, tables.Listed(doors), is, t.what), "sysctl " + setting + ", and again in /etc/sysctl.d"}}
}

func conntrackFindings(count, limit string) []Finding {
	const where = "conntrack"
	n, err1 := strconv.Atoi(strings.TrimSpace(count))
	m, err2 := strconv.Atoi(strings.TrimSpace(limit))
	switch {
	case err1 != nil || err2 != nil:
		return []Finding{{OK, where, "is not in use yet: the fence turns it on", ""}}
	case n >= m/10*9:
		return []Finding{{Warning, where, fmt.Sprintf("tracks %d of at most %d connections: when it is full,"+
			" new ones are dropped before anybody can knock", n, m),
			fmt.Sprintf("sysctl net.netfilter.nf_conntrack_max=%d, and again in /etc/sysctl.d", 2*m)}}
	}
	return []Finding{{OK, where, fmt.Sprintf("tracks %d of at most %d connections", n, m), ""}}
}

// clockState is what the kernel says about its clock.
type clockState struct {
	now    time.Time
	synced bool
	err    error
}

// readClock asks the kernel; see adjtimex(2).
func readClock() clockState {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return clockState{time.Now(), state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, err}
}

func clock(c clockState) []Finding {
	const where = "clock"
	stamp := c.now.UTC().Format("2006-01-02 15:04:05 MST")
	switch {
	case c.now.Year() < 2026:
		return []Finding{{Problem, where, fmt.Sprintf("says %s: logins would be dated wrong, and idle with them", stamp),
			"set the clock: timedatectl set-ntp true"}}
	case c.err != nil:
		return []Finding{{Note, where, fmt.Sprintf("says %s; cannot tell whether it is synchronised: %v", stamp, c.err), ""}}
	case !c.synced:
		return []Finding{{Warning, where, fmt.Sprintf("says %s, and is not synchronised: when it is set, logins look"+
			" older or newer than they are", stamp), "timedatectl set-ntp true, or install chrony"}}
	}
	return []Finding{{OK, where, fmt.Sprintf("says %s, and is synchronised", stamp), ""}}
}
