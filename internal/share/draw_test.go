package share

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
)

// places is a rule that only says where it is heard.
type places struct {
	knock.Rule
	at []knock.Place
}

func (p places) Hears() []knock.Place { return p.at }

// Whatever the configuration, what is drawn is not used, and not drawn twice.
func TestLots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom([]knock.Medium{knock.Connections, knock.Datagrams}).Draw(t, "medium")
		proto := knock.Place{Medium: m}.Range().Proto
		guarded := port.Range{Proto: proto, First: 20500, Last: uint16(rapid.IntRange(20500, 32767).Draw(t, "guarded"))}
		heard := places{at: []knock.Place{{Medium: knock.Connections, Port: 62000}, {Medium: knock.Datagrams, Port: 62002}}}
		c := &config.Config{Doors: []config.Door{
			{Name: "a", Knocks: []config.Knock{{Rule: heard}}},
			{Name: "b", Ports: []port.Range{guarded, {Proto: port.TCP + port.UDP - proto, First: 61000, Last: 65535}}},
		}}
		odd := func(p port.Port) bool {
			if p.Proto != proto {
				t.Fatalf("asked whether %s is taken", p)
			}
			return p.Number%2 == 1
		}
		lots := Lots(c, odd, rand.Reader)
		var all []uint16
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 12), 1, 3).Draw(t, "draws") {
			ports, err := lots.Ports(m, n)
			if err != nil || len(ports) != n {
				t.Fatalf("%v, %v; want %d ports", ports, err, n)
			}
			all = append(all, ports...)
		}
		for i, p := range all {
			inside := 20000 <= p && p <= 32767 || 61000 <= p
			if !inside || p%2 == 1 || p == 62000 || p == 62002 || guarded.Contains(port.Port{Proto: proto, Number: p}) {
				t.Errorf("port %d was drawn (guarded are %v)", p, guarded)
			}
			if slices.Contains(all[:i], p) {
				t.Errorf("port %d was drawn twice", p)
			}
		}
	})
}

func TestLotsFail(t *testing.T) {
	lots := Lots(&config.Config{}, func(p port.Port) bool { return p.Number != 20000 }, rand.Reader)
	_, err := lots.Ports(knock.Connections, 2)
	if want := "too few ports are free for a new knock"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	lots = Lots(&config.Config{}, func(port.Port) bool { return false }, bytes.NewReader(nil))
	if _, err = lots.Ports(knock.Datagrams, 1); err == nil || errors.Unwrap(err) == nil {
		t.Errorf("error %v, want one that wraps the source's", err)
	}
}
