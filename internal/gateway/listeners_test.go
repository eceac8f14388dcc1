package gateway

import (
	"errors"
	"fmt"
	"slices"

	"github.com/doorward/doorward/internal/datagrams"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/listen"
)

// tcpListener is a machine's listener on TCP ports.
type tcpListener machine

func (e *tcpListener) Set(ports listen.Ports) error {
	e.effect()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listening, e.lacks, e.sets = nil, nil, e.sets+1
	var err error
	held := slices.Concat(ports.Open, ports.Streams, ports.Shut, ports.Same)
	e.streams = ports.Streams
	slices.Sort(held)
	e.held = slices.Compact(held)
	for _, p := range e.held {
		switch {
		case slices.Contains(e.taken, p):
			err, e.lacks = errors.Join(err, fmt.Errorf("%d/tcp: address already in use", p)), append(e.lacks, p)
		case slices.Contains(ports.Open, p):
			e.listening = append(e.listening, p)
		}
	}
	return err
}

// Check returns the ports that could not be had when they were last asked for.
func (e *tcpListener) Check() []uint16 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lacks)
}

// Dropped returns a number of touches, as if they had been too many.
func (e *tcpListener) Dropped() uint64 { return 6 }

func (e *tcpListener) Behind() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.behind
}

func (e *tcpListener) Close() error { return nil }

// udpListener is a machine's listener on UDP ports.
type udpListener machine

func (b *udpListener) Set(places map[knock.Place]knock.Opener) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openers = places
	var err error
	for at := range places {
		if at.Medium == knock.Datagrams && slices.Contains(b.taken, at.Port) {
			err = errors.Join(err, fmt.Errorf("%d/udp: address already in use", at.Port))
		}
	}
	return err
}

func (b *udpListener) Answer(path knock.Path, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers = append(b.answers, path.From.String()+" "+string(payload))
	return nil
}

func (b *udpListener) Check() []uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

func (b *udpListener) Behind() bool { return false }
func (b *udpListener) Counts() datagrams.Counts {
	return datagrams.Counts{Foreign: 1, Strange: 2, Crowded: 3, Overrun: 4, Withheld: 5, Replied: 6}
}
func (b *udpListener) Close() error { return nil }
