package config

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sealed"
)

// secondReading holds the keys that decide who gets in, as the TOML library itself
// reads them into a struct.
type secondReading struct {
	Door map[string]struct {
		Ports     []string
		Always    []string
		OpenFor   *string `toml:"open_for"`
		SingleUse bool    `toml:"single_use"`
		Refuse    string
		Penalties string
		Knock     []writtenKnock
	}
}

// writtenKnock has the keys of all kinds.
type writtenKnock struct {
	Kind string

	Listen, Touch   []int64
	Within, Penalty *string
	Order, Scope    string

	Port                             *int64
	Carriers                         []string
	Identity, Keys, Secrets, Revoked *string
	OneWay                           bool    `toml:"one_way"`
	AnySource                        bool    `toml:"any_source"`
	MaxOpenFor                       *string `toml:"max_open_for"`
}

// sealed compares the rule of a sealed knock.
func (w writtenKnock) sealed(r sealed.Rule) error {
	for _, f := range []struct {
		key     string
		written *string
		got     string
	}{{"identity", w.Identity, r.Identity}, {"keys", w.Keys, r.Keys}, {"secrets", w.Secrets, r.Secrets}, {"revoked", w.Revoked, r.Revoked}} {
		if f.written != nil && *f.written != f.got {
			return fmt.Errorf("%s is %q, not %q", f.key, f.got, *f.written)
		}
	}
	switch {
	case w.Port != nil && *w.Port != int64(r.Port):
		return fmt.Errorf("port is %d, not %d", r.Port, *w.Port)
	case slices.Contains(w.Carriers, "tcp") != r.TCP, w.OneWay != r.OneWay, w.AnySource != r.AnySource:
		return fmt.Errorf("carriers, one_way or any_source are not %+v", r)
	}
	return sameLength("max_open_for", w.MaxOpenFor, r.MaxOpenFor)
}

// saysTheSame compares an accepted text with what became of it: nothing that is
// written there is left out, and nothing is guarded, listened on or let in that is
// not written there.
func saysTheSame(text []byte, c *Config) error {
	var r secondReading
	if err := toml.Unmarshal(text, &r); err != nil {
		return err
	}
	if len(r.Door) != len(c.Doors) {
		return fmt.Errorf("%d doors in the text, %d in the Config", len(r.Door), len(c.Doors))
	}
	for _, d := range c.Doors {
		w, ok := r.Door[d.Name]
		if !ok || len(w.Knock) != len(d.Knocks) || w.SingleUse != d.SingleUse || (w.Refuse == "reject") != (d.Refuse == Reject) ||
			(w.Penalties == "door") != d.Shared {
			return fmt.Errorf("door %q is not as it is written", d.Name)
		}
		if a, b := portsOf(parsed(w.Ports)), portsOf(d.Ports); *a != *b {
			return fmt.Errorf("door %q guards other ports than %q: %v", d.Name, w.Ports, d.Ports)
		}
		if err := sameLength("open_for", w.OpenFor, d.OpenFor); err != nil {
			return err
		}
		for i := range d.Knocks {
			if of, ok := d.Knocks[i].Rule.(sealed.Rule); ok {
				if err := w.Knock[i].sealed(of); err != nil {
					return fmt.Errorf("knock %d: %w", i, err)
				}
				continue
			}
			k := touchOf(d.Knocks[i])
			switch {
			case !slices.Equal(w.Knock[i].Listen, numbers(k.Listen)):
				return fmt.Errorf("knock %d listens on %v, not %v", i, k.Listen, w.Knock[i].Listen)
			case !slices.Equal(w.Knock[i].Touch, numbers(k.Touch)):
				return fmt.Errorf("knock %d is %v, not %v", i, k.Touch, w.Knock[i].Touch)
			case (w.Knock[i].Order == "given") != k.Given, (w.Knock[i].Scope == "door") != k.Everybody:
				return fmt.Errorf("knock %d has another order or scope", i)
			}
			if err := sameLength("within", w.Knock[i].Within, k.Within); err != nil {
				return err
			}
			if err := sameLength("penalty", w.Knock[i].Penalty, k.Penalty); err != nil {
				return err
			}
		}
		if err := sameAlways(w.Always, d.Always); err != nil {
			return fmt.Errorf("door %q: %w", d.Name, err)
		}
	}
	return nil
}

func parsed(texts []string) (all []port.Range) {
	for _, s := range texts {
		r, _ := port.ParseRange(s)
		all = append(all, r)
	}
	return all
}

// portsOf marks every port of the ranges.
func portsOf(ranges []port.Range) *[256][65536]bool {
	all := &[256][65536]bool{}
	for _, r := range ranges {
		for n := int(r.First); n <= int(r.Last); n++ {
			all[r.Proto][n] = true
		}
	}
	return all
}

func numbers(ports []uint16) (all []int64) {
	for _, p := range ports {
		all = append(all, int64(p))
	}
	return all
}

func sameLength(key string, written *string, got time.Duration) error {
	if written == nil {
		return nil // valid checks the bounds of defaults
	}
	if want, err := time.ParseDuration(*written); err != nil || want != got {
		return fmt.Errorf("%s is %s, not %q", key, got, *written)
	}
	return nil
}

// sameAlways compares the prefixes that never need to knock.
func sameAlways(written []string, got []netip.Prefix) error {
	if len(written) != len(got) {
		return fmt.Errorf("always %q is %v", written, got)
	}
	for i, s := range written {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return err
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if got[i] != p {
			return fmt.Errorf("always %q is %v", s, got[i])
		}
	}
	return nil
}
