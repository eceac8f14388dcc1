//go:build linux

package presence

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/conntrack"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
)

// entries is a fake kernel with these entries, which filters like Linux.
type entries []conntrack.Entry

func (k entries) List(f conntrack.Filter, each func(conntrack.Entry)) error {
	is := func(want, got uint16) bool { return want == 0 || want == got }
	for _, e := range k {
		if (f.Family == 2) == e.Original.To.Addr().Is4() && f.Proto == e.Proto && e.Status&f.Status == f.Status &&
			is(f.FromPort, e.Original.From.Port()) && is(f.ToPort, e.Original.To.Port()) && is(f.ReplyToPort, e.Reply.To.Port()) {
			each(e)
		}
	}
	return nil
}

// whoIsIn calls In for a host with the addresses 192.0.2.1, 2001:db8::1 and
// 198.51.100.0/24.
func whoIsIn(t *testing.T, k kernel, ports []port.Range, sockets ...Connection) ([]string, error) {
	t.Helper()
	here := &addresses{single: map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("2001:db8::1"): true},
		prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
	tr := newTracked(ports, func() (*addresses, error) { return here, nil })
	tr.kernel = k
	if err := tr.flows(); err != nil {
		return nil, err
	}
	for _, s := range sockets {
		tr.hold(s)
	}
	err := tr.dropBegun()
	var all []string
	for c := range tr.in {
		all = append(all, c.Proto.String()+" "+c.Local.String()+" "+c.Remote.String())
	}
	slices.Sort(all)
	return all, err
}

// tuple parses "FROM TO".
func tuple(s string) conntrack.Tuple {
	from, to, _ := strings.Cut(s, " ")
	return conntrack.Tuple{From: netip.MustParseAddrPort(from), To: netip.MustParseAddrPort(to)}
}

// entryOf returns an entry with two directions, changed by more.
func entryOf(proto port.Proto, original, reply string, more ...func(*conntrack.Entry)) conntrack.Entry {
	e := conntrack.Entry{Proto: uint8(proto), Original: tuple(original), Reply: tuple(reply), Status: conntrack.SeenReply}
	for _, f := range more {
		f(&e)
	}
	return e
}

func letIn(e *conntrack.Entry)      { e.LetIn = true }
func pickedUp(e *conntrack.Entry)   { e.PickedUp = true }
func unanswered(e *conntrack.Entry) { e.Status &^= conntrack.SeenReply }
func offloaded(e *conntrack.Entry) {
	e.Status |= conntrack.Assured | conntrack.DstNAT | conntrack.Offload
}

// published makes an entry that of a translated TCP connection in a state.
func published(state uint8) func(*conntrack.Entry) {
	return func(e *conntrack.Entry) { e.Status, e.State = e.Status|conntrack.Assured|conntrack.DstNAT, state }
}

// Each entry and socket counts or not, both for few ports, each of which is a query of its
// own, and for many.
func TestWhoIsIn(t *testing.T) {
	const (
		visitor   = "192.0.2.2:4000 192.0.2.1:51820"
		server    = "192.0.2.1:51820 192.0.2.2:4000"
		web, back = "192.0.2.2:4000 192.0.2.1:8080", "203.0.113.2:80 192.0.2.2:4000"
	)
	udp := func(original, reply string, more ...func(*conntrack.Entry)) conntrack.Entry {
		return entryOf(port.UDP, original, reply, more...)
	}
	tcp := func(original, reply string, more ...func(*conntrack.Entry)) conntrack.Entry {
		return entryOf(port.TCP, original, reply, more...)
	}
	socket := func(proto port.Proto, s string) []Connection {
		ends := tuple(s)
		return []Connection{{Proto: proto, Local: ends.From, Remote: ends.To}}
	}
	ssh := socket(port.TCP, "192.0.2.1:22 192.0.2.2:4000")
	connected := socket(port.UDP, server)
	for name, test := range map[string]struct {
		entries entries
		sockets []Connection
		want    string
	}{
		"a flow":                          {entries{udp(visitor, server)}, nil, "udp 192.0.2.1:51820 192.0.2.2:4000"},
		"a flow over IPv6":                {entries{udp("[2001:db8::2]:4 [2001:db8::1]:51820", "[2001:db8::1]:51820 [2001:db8::2]:4")}, nil, "udp [2001:db8::1]:51820 [2001:db8::2]:4"},
		"a flow that is not answered":     {entries{udp(visitor, server, unanswered, letIn)}, nil, ""},
		"a flow to an unguarded port":     {entries{udp("192.0.2.2:4000 192.0.2.1:53", "192.0.2.1:53 192.0.2.2:4000")}, nil, ""},
		"a flow to another host":          {entries{udp("192.0.2.2:4000 203.0.113.2:51820", "203.0.113.2:51820 192.0.2.2:4000")}, nil, ""},
		"a flow that was let in anyhow":   {entries{udp("192.0.2.2:4000 203.0.113.2:51820", "203.0.113.2:51820 192.0.2.2:4000", letIn)}, nil, "udp 203.0.113.2:51820 192.0.2.2:4000"},
		"a flow of this host":             {entries{udp("192.0.2.1:4000 192.0.2.1:51820", "192.0.2.1:51820 192.0.2.1:4000")}, nil, ""},
		"a flow of a prefix of this host": {entries{udp("198.51.100.9:4 192.0.2.1:51820", "192.0.2.1:51820 198.51.100.9:4")}, nil, ""},
		"a flow over loopback":            {entries{udp("127.0.0.1:4000 127.0.0.1:51820", "127.0.0.1:51820 127.0.0.1:4000", letIn)}, nil, ""},
		"taken up by the server":          {entries{udp(server, visitor, letIn)}, nil, "udp 192.0.2.1:51820 192.0.2.2:4000"},
		"taken up, translated twice": {entries{udp("203.0.113.2:53 192.0.2.2:4000", "192.0.2.2:4000 192.0.2.1:51820", letIn)}, nil,
			"udp 192.0.2.1:51820 192.0.2.2:4000"},
		"taken up, and not answered":  {entries{udp(server, visitor, letIn, unanswered)}, nil, ""},
		"the server's own business":   {entries{udp(server, visitor)}, nil, ""},
		"to another door, translated": {entries{udp("192.0.2.2:51820 192.0.2.1:8053", "203.0.113.2:53 192.0.2.2:51820", letIn)}, nil, ""},
		"from the same port, translated": {entries{udp("192.0.2.2:51820 192.0.2.1:51820", "203.0.113.2:51820 192.0.2.2:51820", letIn)}, nil,
			"udp 192.0.2.1:51820 192.0.2.2:51820"},
		"another door's, taken up, translated": {entries{udp("203.0.113.2:53 192.0.2.2:51820", "192.0.2.2:51820 192.0.2.1:8053", letIn)}, nil, ""},
		"between the same ports":               {entries{udp("192.0.2.1:51820 192.0.2.2:51820", "192.0.2.2:51820 192.0.2.1:51820")}, nil, ""},
		"a connected socket":                   {nil, connected, "udp 192.0.2.1:51820 192.0.2.2:4000"},
		"a connected socket, and flow":         {entries{udp(visitor, server)}, connected, "udp 192.0.2.1:51820 192.0.2.2:4000"},
		"a socket of this host's":              {entries{udp(server, visitor)}, connected, ""},
		"a socket of silent business":          {entries{udp(server, visitor, unanswered)}, connected, ""},
		"a socket that takes up":               {entries{udp(server, visitor, letIn, unanswered)}, connected, "udp 192.0.2.1:51820 192.0.2.2:4000"},
		"a session":                            {entries{tcp("192.0.2.2:4000 192.0.2.1:22", "192.0.2.1:22 192.0.2.2:4000")}, ssh, "tcp 192.0.2.1:22 192.0.2.2:4000"},
		"a session, not tracked":               {nil, ssh, "tcp 192.0.2.1:22 192.0.2.2:4000"},
		"a session, in mid-stream":             {entries{tcp("192.0.2.1:22 192.0.2.2:4000", "192.0.2.2:4000 192.0.2.1:22", pickedUp)}, ssh, "tcp 192.0.2.1:22 192.0.2.2:4000"},
		"an entry without its socket":          {entries{tcp("192.0.2.2:4000 192.0.2.1:22", "192.0.2.1:22 192.0.2.2:4000", published(1))}, nil, ""},
		"begun here":                           {entries{tcp("192.0.2.1:22 192.0.2.2:4000", "192.0.2.2:4000 192.0.2.1:22")}, ssh, ""},
		"of this host to itself":               {nil, socket(port.TCP, "192.0.2.1:22 192.0.2.1:4000"), ""},
		"of this host over loopback":           {nil, socket(port.TCP, "127.0.0.1:22 127.0.0.1:4000"), ""},
		"forwarded":                            {entries{tcp(web, back, published(conntrack.Established))}, nil, "tcp 192.0.2.1:8080 192.0.2.2:4000"},
		"forwarded, one side said all":         {entries{tcp(web, back, published(conntrack.FinWait))}, nil, "tcp 192.0.2.1:8080 192.0.2.2:4000"},
		"forwarded, half closed":               {entries{tcp(web, back, published(conntrack.CloseWait))}, nil, "tcp 192.0.2.1:8080 192.0.2.2:4000"},
		"forwarded, over":                      {entries{tcp(web, back, published(7))}, nil, ""},
		"forwarded, half open":                 {entries{tcp(web, back, published(2))}, nil, ""},
		"forwarded by a flow table":            {entries{tcp(web, back, offloaded)}, nil, "tcp 192.0.2.1:8080 192.0.2.2:4000"},
		"forwarded, of this host":              {entries{tcp("198.51.100.1:4 192.0.2.1:8080", "203.0.113.2:80 198.51.100.1:4", published(3))}, nil, ""},
		"forwarded for other hosts":            {entries{tcp("192.0.2.2:4000 203.0.113.9:8080", back, published(3))}, nil, ""},
		"redirected to a guarded port":         {entries{tcp(web, "192.0.2.1:22 192.0.2.2:4000", published(3))}, ssh, "tcp 192.0.2.1:8080 192.0.2.2:4000"},
		"a session and another's entry":        {entries{tcp("192.0.2.1:22 192.0.2.9:4000", "192.0.2.9:4000 192.0.2.1:22")}, ssh, "tcp 192.0.2.1:22 192.0.2.2:4000"},
	} {
		for _, ports := range [][]string{
			{"22/tcp", "8080/tcp", "51820/udp"},
			{"20-22/tcp", "8080/tcp", "51820/udp", "51810-51819/udp"},
		} {
			got, err := whoIsIn(t, test.entries, nstest.Ranges(t, ports...), test.sockets...)
			if err != nil || strings.Join(got, ", ") != test.want {
				t.Errorf("%s, by %q: %q, %v, want %q", name, ports, got, err, test.want)
			}
		}
	}
}

// The host's own addresses are needed only if there is a connection, and then they must be
// known.
func TestOwnAddressesAreNeeded(t *testing.T) {
	flow := entries{entryOf(port.UDP, "192.0.2.2:4000 192.0.2.1:51820", "192.0.2.1:51820 192.0.2.2:4000")}
	socket := []Connection{{Proto: port.TCP, Local: netip.MustParseAddrPort("192.0.2.1:22"), Remote: netip.MustParseAddrPort("192.0.2.2:4000")}}
	unread := errors.New("no such file")
	for name, test := range map[string]struct {
		kernel  kernel
		sockets []Connection
		want    error
	}{"nobody": {entries{}, nil, nil}, "a flow": {flow, nil, unread}, "a socket": {entries{}, socket, unread}} {
		tr := newTracked(nstest.Ranges(t, "51820/udp", "22/tcp"), func() (*addresses, error) { return nil, unread })
		tr.kernel = test.kernel
		if err := tr.flows(); err != nil {
			t.Fatal(err)
		}
		for _, s := range test.sockets {
			tr.hold(s)
		}
		if tr.err != test.want || len(tr.in) > 0 {
			t.Errorf("%s: error %v, in are %v, want error %v and nobody in", name, tr.err, tr.in, test.want)
		}
	}
}

// questions records the filters that are asked for.
type questions []conntrack.Filter

func (q *questions) List(f conntrack.Filter, _ func(conntrack.Entry)) error {
	*q = append(*q, f)
	return nil
}

// The number of walks through the kernel's table grows neither with a door's ports nor
// with the number of visitors.
func TestFewQuestions(t *testing.T) {
	many := make([]Connection, 1000)
	for i := range many {
		many[i] = Connection{Proto: port.TCP, Local: netip.MustParseAddrPort("192.0.2.1:22"), Remote: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), uint16(i+1))}
	}
	for _, test := range []struct {
		ports   string
		sockets []Connection
		want    int
	}{
		{"22/tcp", nil, 2},
		{"22/tcp", many[:1], 4},
		{"22/tcp", many, 4},
		{"22/tcp 22/tcp", nil, 2},
		{"51820/udp", nil, 4},
		{"22/tcp 80/tcp 443/tcp", many, 12},
		{"22/tcp 80/tcp 443/tcp 8080/tcp", many, 4},
		{"1-65535/tcp", many, 4},
		{"1-65535/tcp 1-65535/udp", many, 6},
		{"1-3/udp 7-9/udp", nil, 2},
		{"1-3/udp", nil, 12},
	} {
		var q questions
		if _, err := whoIsIn(t, &q, nstest.Ranges(t, strings.Fields(test.ports)...), test.sockets...); err != nil || len(q) != test.want {
			t.Errorf("%s with %d sockets: %d walks, %v, want %d", test.ports, len(test.sockets), len(q), err, test.want)
		}
	}
	var q questions
	if _, err := whoIsIn(t, &q, nstest.Ranges(t, "22/tcp", "53/udp"), many[0]); err != nil {
		t.Fatal(err)
	}
	want := questions{
		{Family: 2, Proto: 17, ToPort: 53, Status: conntrack.SeenReply}, {Family: 10, Proto: 17, ToPort: 53, Status: conntrack.SeenReply},
		{Family: 2, Proto: 17, ReplyToPort: 53, Status: conntrack.SeenReply}, {Family: 10, Proto: 17, ReplyToPort: 53, Status: conntrack.SeenReply},
		{Family: 2, Proto: 6, ToPort: 22, Status: conntrack.Assured | conntrack.DstNAT}, {Family: 10, Proto: 6, ToPort: 22, Status: conntrack.Assured | conntrack.DstNAT},
		{Family: 2, Proto: 6, FromPort: 22}, {Family: 10, Proto: 6, FromPort: 22},
	}
	if d := cmp.Diff(want, q); d != "" {
		t.Errorf("questions (-want +got):\n%s", d)
	}
}

// blindKernel refuses the n-th query and those after it.
type blindKernel struct{ n int }

func (k *blindKernel) List(conntrack.Filter, func(conntrack.Entry)) error {
	if k.n--; k.n < 0 {
		return errors.New("no such subsystem")
	}
	return nil
}

// If any query fails, that is an error.
func TestEachQuestionIsAnswered(t *testing.T) {
	in := Connection{Proto: port.TCP, Local: netip.MustParseAddrPort("192.0.2.1:22"), Remote: netip.MustParseAddrPort("192.0.2.2:4000")}
	for n := range 8 {
		if _, err := whoIsIn(t, &blindKernel{n}, nstest.Ranges(t, "22/tcp", "53/udp"), in); err == nil {
			t.Errorf("query %d failed, but there is no error", n)
		}
	}
	if _, err := whoIsIn(t, &blindKernel{8}, nstest.Ranges(t, "22/tcp", "53/udp"), in); err != nil {
		t.Error(err)
	}
}
