//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
)

// Bounds of what the daemon may use (P7), far beyond what a campaign of this
// size needs, and far below what hurts.
const (
	mostMemory = 300 << 20
	mostFiles  = 2000
	// stopsWithin is how long a service may run behind a dark door: one that could
	// not be stopped is tried again after ten seconds, and then after twenty.
	stopsWithin = 25 * time.Second
	settled     = 2 * time.Second
)

// inspector compares what the status says with the kernel's table, with what
// listens, and with what the operator ordered.
func (c *campaign) inspector(ctx context.Context) error {
	client := control.NewClient(c.net.machine.socket())
	wrong := map[string]judge.Moment{} // since when a door and its service disagree
	for sleep(ctx, 200*time.Millisecond) {
		pid, since := c.daemon.running()
		if pid == 0 || c.now()-since < settled {
			clear(wrong)
			continue
		}
		begun := c.now()
		before, err := client.Status(ctx)
		if err != nil {
			continue // it has just been killed; others check that it answers otherwise
		}
		kernel, err := c.elements(ctx)
		if err != nil {
			continue
		}
		listens, err := c.listening(ctx)
		if err != nil {
			continue
		}
		after, err := client.Status(ctx)
		if now, _ := c.daemon.running(); err != nil || now != pid {
			clear(wrong)
			continue
		}
		c.count("inspections")
		s := judge.Span{Begin: begun, End: c.now()}
		c.grants(s, &before, &after, kernel)
		c.services(s, wrong, &before, &after, listens)
		c.used(pid)
	}
	return nil
}

// element is a grant as nft shows it.
type element struct{ left time.Duration }

// elements reads the grants from the kernel by nft, by door and source.
func (c *campaign) elements(ctx context.Context) (map[string]element, error) {
	out, err := c.net.server.Run(ctx, "nft", "--json", "list", "table", "inet", "doorward")
	if err != nil {
		return nil, err
	}
	var table struct {
		Nftables []struct {
			Set struct {
				Name string            `json:"name"`
				Elem []json.RawMessage `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		return nil, err
	}
	all := map[string]element{}
	for _, o := range table.Nftables {
		// A door's set is door-NAME.v4.32 or the like.
		parts := strings.Split(strings.TrimPrefix(o.Set.Name, "door-"), ".")
		for _, raw := range o.Set.Elem {
			var e struct {
				Elem struct {
					Val     string `json:"val"`
					Expires int    `json:"expires"`
				} `json:"elem"`
			}
			// Others are not grants: door-NAME.always.v4, used.v4.
			if _, err := strconv.Atoi(parts[len(parts)-1]); err != nil {
				continue
			}
			if len(parts) != 3 || json.Unmarshal(raw, &e) != nil || e.Elem.Val == "" {
				continue
			}
			source := e.Elem.Val
			if parts[2] == "0" {
				source = "any"
			}
			all[parts[0]+" "+source] = element{time.Duration(e.Elem.Expires) * time.Second}
		}
	}
	return all, nil
}

// grants holds the status to what the kernel has (P6). What begins or ends
// between the two looks is left out: nft counts in seconds.
func (c *campaign) grants(s judge.Span, before, after *control.Status, kernel map[string]element) {
	const margin = 2 * time.Second
	first, last := told(before), told(after)
	for key, g := range first {
		if l, still := last[key]; !still || !l.Expires.Equal(g.Expires) || time.Until(g.Expires) < margin {
			continue
		}
		e, there := kernel[key]
		if !there && strings.HasPrefix(key, "one ") {
			c.count("spent grants that the status did not know of yet")
			continue
		}
		left := time.Until(g.Expires)
		if !there || left-e.left > margin+s.End-s.Begin || e.left-left > margin+s.End-s.Begin {
			c.broken("P6: the status has a grant of door and source %q with %s left, the kernel has (there: %t) %s", key, left, there, e.left)
		}
		c.count("grants compared with the kernel")
	}
	for key, e := range kernel {
		if _, source, _ := strings.Cut(key, " "); local(source) {
			c.broken("P1: the kernel has a grant of the machine itself, which nobody but a local user can have knocked for: %q", key)
		}
		_, known := first[key]
		_, knownNow := last[key]
		// One of single use may have been given after the first look, and spent
		// and forgotten before the second.
		if !known && !knownNow && e.left > margin && !strings.HasPrefix(key, "one ") {
			c.broken("P6: the kernel has a grant of door and source %q with %s left that the status has not", key, e.left)
		}
	}
}

// local says whether an address is the server's own.
func local(source string) bool {
	a, err := netip.ParseAddr(source)
	return err == nil && (a.IsLoopback() || source == server4 || source == server6)
}

// told is the grants that a status reports, by door and source.
func told(s *control.Status) map[string]control.Grant {
	all := map[string]control.Grant{}
	for _, d := range s.Doors {
		for _, g := range d.Grants {
			source := g.Source
			if a, err := netip.ParseAddr(source); err == nil {
				source = a.String()
			}
			all[d.Name+" "+source] = g
		}
	}
	return all
}

// listening says which of the services listen on the server. It asks ss, and does
// not connect: a connection would be presence.
func (c *campaign) listening(ctx context.Context) (map[string]bool, error) {
	out, err := c.net.server.Run(ctx, "ss", "-Hltn")
	if err != nil {
		return nil, err
	}
	has := func(port uint16) bool { return strings.Contains(out, fmt.Sprintf(":%d ", port)) }
	return map[string]bool{"ssh": has(22), "panel": has(panelPort), "echo": has(8888)}, nil
}

// services holds doors to their services (P9): one that has been open must run,
// one that has been dark must not.
func (c *campaign) services(s judge.Span, wrong map[string]judge.Moment, before, after *control.Status, listens map[string]bool) {
	if len(c.events.During(s, judge.NoBus)) > 0 {
		clear(wrong) // nothing can be started or stopped
		return
	}
	for _, d := range before.Doors {
		runs, has := listens[d.Name]
		if !has {
			continue
		}
		says := ""
		for _, o := range after.Doors {
			if o.Name == d.Name && o.State == d.State && o.Since.Equal(d.Since) {
				says = d.State
			}
		}
		bad := says == "open" && !runs || says == "dark" && runs
		began, known := wrong[d.Name]
		switch {
		case !bad:
			delete(wrong, d.Name)
			if says != "" {
				c.count("services compared with their doors")
			}
			continue
		case !known:
			wrong[d.Name] = s.Begin
			continue
		}
		limit := stopsWithin
		if says == "open" {
			limit = slow
		}
		if s.End-began > limit {
			c.broken("P9: door %s says %s since %s, its service has listened otherwise (listens: %t) for more than %s\n%s", d.Name, says,
				d.Since.Format(time.TimeOnly), runs, limit, c.happened(judge.Span{Begin: began - 10*time.Second, End: s.End}))
			delete(wrong, d.Name)
		}
	}
}

// used holds the daemon to its bounds (P7).
func (c *campaign) used(pid int) {
	kb, err := lab.StatusField(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
	if err != nil {
		return // killed
	}
	c.atMost("most memory of the daemon, kB", kb)
	if kb<<10 > mostMemory {
		c.broken("P7: the daemon has %d kB of memory", kb)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return
	}
	c.atMost("most descriptors of the daemon", int64(len(files)))
	if len(files) > mostFiles {
		c.broken("P7: the daemon has %d descriptors open", len(files))
	}
}
