package share

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
)

// New knocks are drawn from these ports, first to last. They lie outside the
// range that Linux assigns to outgoing connections (32768 to 60999,
// net.ipv4.ip_local_port_range), where a connection could hold a listener's
// port, and above those that most services have by custom.
var drawn = [][2]int{{20000, 32767}, {61000, 65535}}

// Lots returns what a new knock is drawn from. It draws no port that a door of c guards
// or hears a knock at, and none for which taken returns true, which is asked only about
// ports that might be drawn. entropy is crypto/rand.Reader except in tests.
func Lots(c *config.Config, taken func(port.Port) bool, entropy io.Reader) knock.Lots {
	left := map[knock.Medium][]port.Port{}
	ports := func(m knock.Medium, n int) (all []uint16, err error) {
		if _, begun := left[m]; !begun {
			left[m] = candidates(c, m)
		}
		for len(all) < n {
			free := left[m]
			if len(free) == 0 {
				return nil, errors.New("too few ports are free for a new knock")
			}
			i, err := intn(entropy, len(free))
			if err != nil {
				return nil, err
			}
			if p := free[i]; !taken(p) {
				all = append(all, p.Number)
			}
			free[i] = free[len(free)-1]
			left[m] = free[:len(free)-1]
		}
		return all, nil
	}
	return knock.Lots{Reader: entropy, Ports: ports}
}

// candidates returns the ports that no door of c has anything to do with.
func candidates(c *config.Config, m knock.Medium) (free []port.Port) {
	var guarded []port.Range
	used := map[uint16]bool{}
	for _, d := range c.Doors {
		guarded = append(guarded, d.Ports...)
		for _, k := range d.Knocks {
			for _, p := range k.Hears() {
				used[p.Port] = true
			}
		}
	}
	proto := knock.Place{Medium: m}.Range().Proto
	for _, r := range drawn {
		for n := r[0]; n <= r[1]; n++ {
			p := port.Port{Proto: proto, Number: uint16(n)}
			if !used[p.Number] && !port.Within(guarded, p) {
				free = append(free, p)
			}
		}
	}
	return free
}

// intn draws a number from 0 to n-1.
func intn(entropy io.Reader, n int) (int, error) {
	i, err := rand.Int(entropy, big.NewInt(int64(n)))
	if err != nil {
		return 0, fmt.Errorf("draw a random number: %w", err)
	}
	return int(i.Int64()), nil
}
