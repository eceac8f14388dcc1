package gateway

import (
	"errors"
	"fmt"
	"slices"

	"github.com/doorward/doorward/internal/datagrams"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/listen"
)

// ears are a machine's, on TCP ports.
type ears machine

func (e *ears) Set(ports listen.Ports) error {
	e.effect()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listening, e.lacks, e.sets = nil, nil, e.sets+1
	var err error
	held := slices.Concat(ports.Open, ports.Shut, ports.Same)
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
func (e *ears) Check() []uint16 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lacks)
}

// Dropped is as if some touches had been too many.
func (e *ears) Dropped() uint64 { return 6 }

func (e *ears) Behind() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.behind
}

func (e *ears) Close() error { return nil }

// mailbox is the ear on UDP ports: what it is to hear, and what was answered.
type mailbox machine

func (b *mailbox) Set(ports map[uint16]knock.Opener) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openers = ports
	var err error
	for p := range ports {
		if slices.Contains(b.taken, p) {
			err = errors.Join(err, fmt.Errorf("%d/udp: address already in use", p))
		}
	}
	return err
}

func (b *mailbox) Answer(path knock.Path, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers = append(b.answers, path.From.String()+" "+string(payload))
	return nil
}

func (b *mailbox) Check() []uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

func (b *mailbox) Behind() bool { return false }
func (b *mailbox) Counts() datagrams.Counts {
	return datagrams.Counts{Foreign: 1, Strange: 2, Crowded: 3, Overrun: 4, Withheld: 5}
}
func (b *mailbox) Close() error { return nil }
