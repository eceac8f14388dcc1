//go:build linux

package fence

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// A grant that is given while its source is already sending to the door is good for one
// connection all the same. At the moment when a transaction takes effect, packets may see
// the grant before they can remove it.
func TestSingleUseGivenUnderFire(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var in net.PacketConn
	p.host.Do(func() (err error) { in, err = net.ListenPacket("udp4", ":53"); return err })
	var got atomic.Int32
	var running sync.WaitGroup
	running.Go(func() { // ends with the socket
		known := map[string]bool{} // a port that was seen before belongs to an earlier connection
		for b := make([]byte, 16); ; {
			_, from, err := in.ReadFrom(b)
			if err != nil {
				return
			}
			if !known[from.String()] {
				got.Add(1)
			}
			known[from.String()] = true
		}
	})
	p.visitor.Run("ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	p.host.Run("ip", "route", "add", "198.51.100.0/24", "via", visitorIP)
	p.guard(Door{Name: "once", Ports: ports(t, "53/udp"), SingleUse: true})
	var source atomic.Uint32 // the last byte of the sender's address; 0 to stop
	source.Store(1)
	running.Go(func() { fire(p.visitor, at(hostIP, 53), &source) })
	const rounds = 250
	for i := range uint32(rounds) {
		source.Store(i + 1)
		p.give(grant("once", fmt.Sprintf("198.51.100.%d", i+1), time.Minute))
		eventually(t, "the grant is spent", func() bool { gs, err := p.f.allGrants(); return err == nil && len(gs) == 0 })
	}
	source.Store(0)
	eventually(t, "all that was let in has been read", func() bool { return got.Load() >= rounds })
	in.Close()
	running.Wait()
	if n := got.Load(); n != rounds {
		t.Errorf("%d grants let %d connections in", rounds, n)
	}
}

// Of two connections that begin at the same time, only one gets in by a single-use grant,
// although two processors may find the grant before either has removed it.
func TestSingleUseByTwoAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var in net.PacketConn
	p.host.Do(func() (err error) { in, err = net.ListenPacket("udp4", ":53"); return err })
	var reading sync.WaitGroup
	got := map[byte]int{}
	reading.Go(func() { // ends with the socket
		for b := make([]byte, 16); ; {
			_, from, err := in.ReadFrom(b)
			if err != nil {
				return
			}
			got[from.(*net.UDPAddr).IP.To4()[3]]++
		}
	})
	p.visitor.Run("ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	p.host.Run("ip", "route", "add", "198.51.100.0/24", "via", visitorIP)
	p.guard(Door{Name: "once", Ports: ports(t, "53/udp"), SingleUse: true})
	const sources = 250
	var grants []Grant
	for i := range sources {
		grants = append(grants, grant("once", fmt.Sprintf("198.51.100.%d", i+1), time.Minute))
	}
	p.give(grants...)
	var ready atomic.Int32
	var visitors sync.WaitGroup
	for range 2 {
		visitors.Go(func() {
			p.visitor.Do(func() error {
				for i := range sources {
					d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(198, 51, 100, byte(i+1))}}
					c, err := d.Dial("udp4", at(hostIP, 53))
					if err != nil {
						return err
					}
					for ready.Add(1); ready.Load() < int32(2*i+2); { // as close together as two threads get
						runtime.Gosched()
					}
					c.Write([]byte("x"))
					c.Close()
				}
				return nil
			})
		})
	}
	visitors.Wait()
	eventually(t, "all grants are spent", func() bool { gs, err := p.f.allGrants(); return err == nil && len(gs) == 0 })
	in.Close()
	reading.Wait()
	for source, n := range got {
		if n > 1 {
			t.Errorf("the grant of 198.51.100.%d let %d connections in", source, n)
		}
	}
}

// fire sends datagrams to an address, each from another port and so a flow of its own.
func fire(n *nstest.NS, addr string, source *atomic.Uint32) {
	n.Do(func() error {
		for i := source.Load(); i != 0; i = source.Load() {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(198, 51, 100, byte(i))}}
			c, err := d.Dial("udp4", addr)
			if err != nil {
				return err
			}
			c.Write([]byte("x"))
			c.Close()
		}
		return nil
	})
}

// A visitor whose every connection takes a knock can make many connections.
func TestSingleUseAgainAndAgain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	listen(t, p.host, 22)
	p.guard(Door{Name: "once", Ports: ports(t, "22/udp"), SingleUse: true})
	for range 40 {
		eventually(t, "room for another grant", func() bool {
			return p.f.Change(Changes{Give: []Grant{grant("once", visitorIP, time.Minute)}}) == nil
		})
		want(t, p.visitor, "udp", at(hostIP, 22), reached)
	}
}
