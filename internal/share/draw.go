package share

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/touch"
)

// New knocks are drawn from these ports, first to last. They lie outside the
// range that Linux gives to outgoing connections (32768 to 60999,
// net.ipv4.ip_local_port_range), where a connection could hold a listener's
// port, and above those that most services have by custom.
var drawn = [][2]int{{20000, 32767}, {61000, 65535}}

// Proposed is the shape of the knock that doorward init proposes: six of twelve
// ports in order, 665,280 possibilities. Fewer are too few for somebody with
// many addresses, whom the growth of penalties alone does not hold up:
// docs/THREATS.md has what guessing costs, and a test computes it from this.
func Proposed() touch.Rule {
	return touch.Rule{Listen: make([]uint16, 12), Touch: make([]uint16, 6),
		Given: true, Within: time.Minute, Penalty: 5 * time.Minute}
}

// Draw draws the ports of a knock like k: as many listeners, of which as many
// are touched, in ascending order where the order does not matter. None of them
// is guarded or listened on by a door of c, as it stands, or taken, which is
// asked for ports that might be drawn. entropy is crypto/rand.Reader but in
// tests.
func Draw(c *config.Config, k touch.Rule, taken func(uint16) bool, entropy io.Reader) (listen, touched []uint16, err error) {
	free := candidates(c)
	for len(listen) < len(k.Listen) {
		if len(free) == 0 {
			return nil, nil, errors.New("too few ports are free for a new knock")
		}
		i, err := intn(entropy, len(free))
		if err != nil {
			return nil, nil, err
		}
		if p := free[i]; !taken(p) {
			listen = append(listen, p)
		}
		free[i] = free[len(free)-1]
		free = free[:len(free)-1]
	}
	// The ports came in random order, so the first few are a random choice.
	touched = slices.Clone(listen[:len(k.Touch)])
	slices.Sort(listen)
	if !k.Given {
		slices.Sort(touched)
	}
	return listen, touched, nil
}

// candidates are the ports that no door of c has anything to do with.
func candidates(c *config.Config) []uint16 {
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
	var free []uint16
	for _, r := range drawn {
		for n := r[0]; n <= r[1]; n++ {
			p := port.Port{Proto: port.TCP, Number: uint16(n)}
			if !used[p.Number] && !port.Within(guarded, p) {
				free = append(free, p.Number)
			}
		}
	}
	return free
}

func intn(entropy io.Reader, n int) (int, error) {
	i, err := rand.Int(entropy, big.NewInt(int64(n)))
	if err != nil {
		return 0, fmt.Errorf("draw a random number: %w", err)
	}
	return int(i.Int64()), nil
}
