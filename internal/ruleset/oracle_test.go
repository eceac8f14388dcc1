//go:build linux

package ruleset

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/port"
)

// draft makes random rulesets in nft's language.
type draft struct {
	*rand.Rand
	eth string
}

func one[T any](d *draft, all ...T) T { return all[d.IntN(len(all))] }

// There are only a few ports and sources, so that rules and packets often meet.
func (d *draft) port() int { return 20 + d.IntN(8) }
func (d *draft) source() string {
	return one(d, "192.0.2.1", "192.0.2.7", "198.51.100.1", "198.51.100.200")
}
func (d *draft) prefix() string {
	return one(d, "192.0.2.0/24", "198.51.100.0/25", "198.0.0.0/8", "192.0.2.1", "192.0.2.0/29", "198.51.100.100-198.51.100.220")
}

func (d *draft) portRange() string {
	a, b := d.port(), d.port()
	switch {
	case a > b:
		a, b = b, a
	case a == b:
		return strconv.Itoa(a)
	}
	return fmt.Sprintf("%d-%d", a, b)
}

// set returns a set of elements from make, without overlaps, which nft would refuse.
func (d *draft) set(make func() string) string {
	return fmt.Sprintf("{ %s }", make())
}

// match returns a condition.
func (d *draft) match() string {
	not := one(d, "", "", "", "!= ")
	switch d.IntN(17) {
	case 0:
		return fmt.Sprintf("tcp dport %s%d", not, d.port())
	case 1:
		return fmt.Sprintf("udp dport %s%s", not, d.portRange())
	case 2:
		return fmt.Sprintf("th dport %s%s", not, d.set(d.portRange))
	case 3:
		return fmt.Sprintf("tcp dport %s %d", one(d, "<", ">", "<=", ">="), d.port())
	case 4:
		return fmt.Sprintf("ip saddr %s%s", not, d.prefix())
	case 5:
		return fmt.Sprintf("ip saddr %s%s", not, d.set(d.prefix))
	case 6:
		return "meta l4proto " + one(d, "tcp", "udp", "{ tcp, udp }", "icmp")
	case 7:
		return "ip protocol " + one(d, "tcp", "udp")
	case 8:
		return one(d, "iifname ", "iifname ", "iifname != ") + one(d, d.eth, "lo", `"veth*"`, `"eth*"`, "{ lo, "+d.eth+" }")
	case 9:
		return "ct state " + not + one(d, "new", "established,related", "invalid", "{ new, untracked }", "untracked")
	case 10:
		return fmt.Sprintf("meta mark %s%d", not, d.IntN(3))
	case 11:
		return fmt.Sprintf("meta mark & %d == %d", 1+d.IntN(3), d.IntN(2))
	case 12:
		return "fib daddr type " + not + one(d, "local", "broadcast")
	case 13:
		return one(d, "tcp flags & (fin|syn|rst|ack) == syn", "tcp flags syn", "tcp flags & ack != 0", "ip frag-off & 0x1fff != 0", "ip version 4")
	case 14:
		return fmt.Sprintf("ip saddr . th dport %s{ %s . %s }", not, d.prefix(), d.portRange())
	case 15:
		return one(d, "fib saddr . iif oif exists", "fib saddr . iif oif missing", "ct mark 0", "ct status dnat", "ct direction original")
	}
	return one(d, "limit rate 100/second", "counter", "meta mark set 2", "ct mark set 1", "meta pkttype host", "ip saddr & 0.0.0.1 == 0.0.0.1", "meta oif 0")
}

// rule returns a rule of chain number, which may call the chains with greater numbers.
func (d *draft) rule(number, chains int) string {
	var words []string
	for range d.IntN(3) {
		words = append(words, d.match())
	}
	called := func() string {
		if number+1 >= chains {
			return "continue"
		}
		return one(d, "jump", "jump", "goto") + fmt.Sprintf(" c%d", number+1+d.IntN(chains-number-1))
	}
	switch d.IntN(9) {
	case 0, 1:
		words = append(words, "accept")
	case 2:
		words = append(words, "drop")
	case 3, 4:
		words = append(words, called())
	case 5:
		words = append(words, "return")
	case 6:
		words = append(words, fmt.Sprintf("meta mark set %d", d.IntN(3)), one(d, "", "accept"))
	case 7:
		words = append(words, fmt.Sprintf("th dport vmap { %d : %s, %d-%d : %s }", d.port(), one(d, "accept", "drop", called()), 30, 40, called()))
	case 8:
		words = append(words, fmt.Sprintf("ip saddr vmap { %s : %s }", d.prefix(), one(d, "accept", "drop", called(), "return")))
	}
	return strings.Join(words, " ")
}

// table returns a table with base chains at some hooks and chains that they call.
func (d *draft) table(name string) string {
	const chains = 4
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", one(d, "ip", "inet"), name)
	for c := chains - 1; c >= 0; c-- {
		fmt.Fprintf(&b, "chain c%d {\n", c)
		for range d.IntN(3) {
			fmt.Fprintln(&b, d.rule(c, chains))
		}
		fmt.Fprintln(&b, "}")
	}
	fmt.Fprintf(&b, "chain base {\ntype filter hook %s; policy %s;\n", one(d, "prerouting priority raw", "prerouting priority mangle",
		"input priority filter", "input priority 10", "input priority filter"), one(d, "accept", "accept", "drop"))
	for range 1 + d.IntN(4) {
		fmt.Fprintln(&b, d.rule(-1, chains))
	}
	fmt.Fprintln(&b, "}\n}")
	return b.String()
}

func (d *draft) ruleset() string {
	var b strings.Builder
	for i := range 1 + d.IntN(3) {
		b.WriteString(d.table(fmt.Sprintf("t%d", i)))
	}
	if d.IntN(3) == 0 {
		fmt.Fprintf(&b, "table ip nat { chain p { type nat hook prerouting priority dstnat; %s redirect to :%d; }; }\n",
			one(d, "tcp dport", "udp dport")+" "+d.portRange(), d.port())
	}
	if d.IntN(4) == 0 {
		fmt.Fprintf(&b, "table ip raw2 { chain p { type filter hook prerouting priority raw; %s notrack; }; }\n", d.match())
	}
	return b.String()
}

// witness makes the kernel record, by their source ports, the packets that arrive and
// those that pass all rules.
const witness = `table ip witness {
	set arrived { type inet_service; size 65535; flags dynamic; }
	set passed { type inet_service; size 65535; flags dynamic; }
	chain first { type filter hook prerouting priority -500; meta l4proto { tcp, udp } add @arrived { th sport }; }
	chain last { type filter hook input priority 500; meta l4proto { tcp, udp } add @passed { th sport }; }
}
`

var elements = regexp.MustCompile(`\b\d{4,5}\b`)

// seen returns the recorded source ports.
func seen(n *nstest.NS, set string) map[string]bool {
	all := map[string]bool{}
	_, list, _ := strings.Cut(n.Run("nft", "-n", "list", "set", "ip", "witness", set), "elements")
	for _, e := range elements.FindAllString(list, -1) {
		all[e] = true
	}
	return all
}

// segment returns a SYN, or a datagram, in an IPv4 packet (RFC 791, 9293, 768).
func segment(proto port.Proto, from, to netip.Addr, source, destination uint16) []byte {
	size := 20
	if proto == port.UDP {
		size = 8
	}
	b := make([]byte, 20+size)
	b[0], b[8], b[9] = 0x45, 64, byte(proto)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	t := b[20:]
	binary.BigEndian.PutUint16(t, source)
	binary.BigEndian.PutUint16(t[2:], destination)
	at := 6
	if proto == port.TCP {
		t[12], t[13], at = 5<<4, 2, 16
		binary.BigEndian.PutUint16(t[14:], 64240)
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(size))
	}
	pseudo := append(append([]byte{}, b[12:20]...), 0, byte(proto), 0, byte(size))
	var sum uint32
	for _, part := range [][]byte{pseudo, t} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(t[at:], ^uint16(sum))
	return b
}

// TestAgreesWithTheKernel checks, for random rulesets, that the answer is what the
// kernel does with real packets, and that for a packet of which less is known, what
// the kernel does is among the answers.
func TestAgreesWithTheKernel(t *testing.T) {
	nstest.Need(t, "nft", "ip")
	n, outside := nstest.New(t), nstest.New(t)
	_, eth := nstest.Link(outside, n, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	n.Run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", eth)
	var index uint32
	n.Do(func() error {
		i, err := net.InterfaceByName(eth)
		if err == nil {
			index = uint32(i.Index)
		}
		return err
	})
	var raw int
	outside.Do(func() (err error) { raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW); return err })
	defer unix.Close(raw)
	send := func(b []byte) {
		t.Helper()
		if err := unix.Sendto(raw, b, 0, &unix.SockaddrInet4{Addr: here.As4()}); err != nil {
			t.Fatal(err)
		}
	}
	witnessed := func(c *Chain) bool { return c.Table == "witness" }
	certain, through, total := 0, 0, 0
	rulesets := 40 // RULESETS in the environment is for longer runs
	if testing.Short() {
		rulesets = 6
	}
	if n, err := strconv.Atoi(os.Getenv("RULESETS")); err == nil {
		rulesets = n
	}
	for seed := uint64(0); total < 24*rulesets; seed++ {
		d := &draft{rand.New(rand.NewPCG(seed, 7)), eth}
		text := d.ruleset()
		n.Run("nft", "flush", "ruleset")
		if err := n.Command(t.Context(), "nft", text).Run(); err != nil {
			continue // nft refuses it, since ranges of a set overlap, or the like
		}
		n.Run("nft", witness)
		var all *Ruleset
		n.Do(func() (err error) { all, err = Read(witnessed); return err })

		var packets []Packet
		next := uint16(10000 + 100*(seed%500))
		for range 24 {
			p := Packet{Source: netip.MustParseAddr(d.source()), Destination: here, Own: []netip.Addr{here}, Interface: eth, Index: index, Routed: true}
			p.Ports = port.Range{Proto: one(d, port.TCP, port.TCP, port.UDP), First: uint16(d.port())}
			p.Ports.Last = p.Ports.First
			send(segment(p.Ports.Proto, p.Source, here, next+uint16(len(packets)), p.Ports.First))
			packets = append(packets, p)
		}
		// The packet that is sent last arrives last.
		end := strconv.Itoa(int(next) + 99)
		send(segment(port.UDP, stranger, here, next+99, 1))
		for deadline := time.Now().Add(10 * time.Second); !seen(n, "arrived")[end]; {
			if time.Now().After(deadline) {
				t.Fatal("the last packet did not arrive within 10 seconds")
			}
		}
		passed := seen(n, "passed")
		for i, p := range packets {
			passes := passed[strconv.Itoa(int(next)+i)]
			a := all.Judge(p)
			total++
			if passes {
				through++
			}
			if a.Certain() {
				certain++
			}
			vague := p
			vague.Source, vague.Interface, vague.Index, vague.Routed = netip.Addr{}, "", 0, false
			wide := p
			wide.Ports.First, wide.Ports.Last, wide.Destination = p.Ports.First-2, p.Ports.Last+2, netip.Addr{}
			for _, q := range []Packet{p, vague, wide} {
				a := all.Judge(q)
				if passes && !a.Passes || !passes && !a.Drops {
					t.Fatalf("seed %d: the kernel lets %v from %v through: %v; the answer for %+v is %q\n%s", seed, p.Ports, p.Source, passes, q, say(a), text)
				}
			}
		}
	}
	if certain < total*3/4 || through < total/4 || through > total*3/4 {
		t.Errorf("of %d packets, %d pass, and for %d the answer is certain: too few or too many for a meaningful test", total, through, certain)
	}
}
