package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/legible"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/socks"
	"github.com/doorward/doorward/internal/visit"
)

const proxyHelp = `Be a SOCKS5 proxy (RFC 1928) on this machine for one gateway: when a program connects to
one of the gateway's hosts by it, knock at the door that has the port, wait until that
accepts, and join the two. So a browser gets to all that is behind the gateway's doors
with its own names and certificates.

It leads to the profile's hosts, by their names or addresses, and to the ports of its
doors; all else is refused. So it is no way around a firewall, it tells no name server
where you go, and whoever finds it gets no further than to those doors. A browser is best
told to use it for these hosts alone (FoxyProxy, or a proxy.pac). There is CONNECT only,
and no login: every user of this machine can use it, by your key.

Which ports a door has, is known once it was opened. The profile's doors that were not
are tried in turn for a port that no other door has. With one_way in the profile nobody
tells them: they are those under [ports] in its file.

At most 256 connections are joined at once, and others wait. Interrupted (Ctrl-C) or
terminated, proxy ends, and all connections with it.

Exit status: 0 when it was told to end; 1 when something failed; 2 when the command line
is wrong.`

const proxyExamples = `  doorward proxy gate
  curl --proxy socks5h://127.0.0.1:1080 https://gate.example.org/`

// socksWithin is how long a client of the proxy may take to say where it wants to.
const socksWithin = 10 * time.Second

func newProxy(e *env) *cobra.Command {
	var listen string
	var at netip.AddrPort
	c := &cobra.Command{
		Use:               "proxy PROFILE [--listen [ADDRESS:]PORT]",
		Short:             "be a SOCKS5 proxy that knocks at a gateway's doors",
		Long:              proxyHelp,
		Example:           proxyExamples,
		ValidArgsFunction: completeProfiles(e),
		Args: func(c *cobra.Command, args []string) (err error) {
			switch {
			case len(args) == 0:
				err = errors.New("PROFILE is missing: the gateway, as doorward profiles lists it")
			case len(args) > 1:
				err = fmt.Errorf("%q: one PROFILE only", args[1])
			default:
				if at, err = readListen(listen); err != nil {
					err = fmt.Errorf("--listen %w", err)
				}
			}
			if err != nil {
				return &usageError{withHint(err, "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			l, err := newLocal(c.Context(), e, args[0], "")
			if err != nil {
				return err
			}
			l.strict = true
			return l.serve(c.Context(), at, "SOCKS5 proxy for "+l.profile.Name, l.socks)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&listen, "listen", "127.0.0.1:1080", "listen on this [ADDRESS:]`PORT`")
	return c
}

// socks serves one client of the proxy.
func (l *local) socks(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(socksWithin)); err != nil {
		return err
	}
	q, err := socks.Accept(conn)
	if err != nil {
		return fmt.Errorf("a client of the proxy: %w", bareError(err))
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	to, err := l.connectFor(ctx, q)
	if err != nil {
		return errors.Join(err, socks.Answer(conn, replyFor(err)))
	}
	if err := socks.Answer(conn, socks.Succeeded); err != nil {
		return errors.Join(err, to.Close())
	}
	l.join(ctx, conn, to)
	return nil
}

// replyFor is what a client of the proxy is told of an error.
func replyFor(err error) socks.Reply {
	switch codeOf(err) {
	case control.CodeRefused, control.CodeNoDoor:
		return socks.NotAllowed
	case control.CodeTimeout:
		return socks.Unreachable
	}
	return socks.Failed
}

// connectFor connects to where a client wants to, if that is behind one of the doors.
func (l *local) connectFor(ctx context.Context, q socks.Request) (net.Conn, error) {
	refused := func(why string) error {
		return &control.Error{Code: control.CodeRefused, Message: fmt.Sprintf("%s:%d: %s", legible.Text(q.Host), q.Port, why)}
	}
	if q.Port == 0 || !l.leadsTo(ctx, q.Host) {
		return nil, refused("not allowed: the proxy leads to the hosts of profile " + l.profile.Name)
	}
	doors, err := l.doorsFor(q.Port)
	if err != nil {
		return nil, err
	}
	if len(doors) == 0 {
		return nil, refused("not allowed: none of the doors has this port")
	}
	var conn net.Conn
	for _, door := range doors {
		if conn, err = l.through(ctx, door, q.Port); err == nil || codeOf(err) != control.CodeRefused {
			break
		}
	}
	return conn, err
}

// leadsTo says whether a host is the gateway.
func (l *local) leadsTo(ctx context.Context, host string) bool {
	host = plainHost(host)
	if host == plainHost(l.profile.Name) || slices.ContainsFunc(l.profile.Hosts, func(h string) bool { return plainHost(h) == host }) {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	v := l.e.visits
	if v == nil {
		v = &visit.Visitor{}
	}
	for _, h := range l.profile.Hosts {
		families, _ := v.Resolve(ctx, h, visit.Both)
		if slices.Contains(slices.Concat(families...), a) {
			return true
		}
	}
	return false
}

// doorsFor are the doors that have a port, or else those of which nobody knows.
func (l *local) doorsFor(port uint16) (doors []string, err error) {
	p, err := l.in.Load(l.profile.Name)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(p.Doors, slices.Sorted(maps.Keys(p.Ports)))
	if len(p.Doors) == 0 {
		all = append(all, "")
	}
	for _, door := range all {
		if hasPort(p.Ports[door], port) {
			return []string{door}, nil
		}
		_, known := p.Ports[door]
		open := !known && !p.OneWay // to be asked: single packets are not answered
		if (open || len(p.Ports[door]) >= seal.MostPorts) && !slices.Contains(doors, door) {
			doors = append(doors, door)
		}
	}
	return doors, nil
}
