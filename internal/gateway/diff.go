package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
)

// fileEvery is how old a reading of the configuration file may be for a status, and
// fileTime how long status waits for one.
const (
	fileEvery = time.Second
	fileTime  = time.Second
)

// fileLook is the configuration file as it was found. It is read outside the loop, once
// for all who ask meanwhile, so that at most one goroutine hangs when the disk does.
type fileLook struct {
	mu      sync.Mutex
	reading chan struct{} // closed when the look that is under way has ended; nil for none
	begun   int           // looks so far, with that one
	at      time.Time     // when the latest one that has ended began; zero for none
	text    []byte
	err     error
}

// recent returns the result of a reading that began no longer ago than the given age. It
// waits for one no longer than the given time.
func (g *Gateway) recent(age, within time.Duration) ([]byte, error) {
	l := &g.file
	l.mu.Lock()
	defer l.mu.Unlock()
	before, asked := l.begun, g.world.Now()
	found := func() bool {
		return l.reading == nil && l.begun > before || !l.at.IsZero() && asked.Sub(l.at) < age
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	for !found() {
		if l.reading == nil {
			l.begun++
			l.reading = make(chan struct{})
			go g.lookAtFile(l.reading, g.world.Now()) // ends with the disk's answer
		}
		reading, late := l.reading, false
		l.mu.Unlock()
		select {
		case <-reading:
		case <-timer.C:
			late = true
		}
		if l.mu.Lock(); late {
			return nil, fmt.Errorf("it has not been read for %s", within)
		}
	}
	return l.text, l.err
}

// lookAtFile reads the file.
func (g *Gateway) lookAtFile(ended chan struct{}, at time.Time) {
	text, err := g.world.Text(g.opts.Path)
	l := &g.file
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.text, l.err, l.reading = at, text, err, nil
	close(ended)
}

// compareFile adds to a status whether the file is what is in use.
func (g *Gateway) compareFile(s *control.Status) {
	text, err := g.recent(fileEvery, fileTime)
	if err == nil && config.Hash(text) != s.ConfigHash { // it may have come into use since
		text, err = g.recent(0, fileTime)
	}
	s.ConfigDiffers = err != nil || config.Hash(text) != s.ConfigHash
	if err != nil {
		s.Warnings = append(slices.Clone(s.Warnings),
			"cannot tell whether the configuration file is the one in use: "+err.Error())
	}
}

// Diff says what an apply of the configuration file would change (control.Backend).
func (g *Gateway) Diff(ctx context.Context) (control.Diff, error) {
	d := control.Diff{Config: g.opts.Path, Changes: []control.KeyChange{}}
	inUse, err := await(ctx, g, func(_ time.Time, answer func(checked, error)) { answer(g.inUse(), nil) })
	if err != nil {
		return d, err
	}
	text, err := g.recent(0, slowDisk)
	file := checked{text: text}
	if err == nil {
		file.config, err = config.Parse(g.opts.Path, text)
	}
	if err != nil {
		return d, &control.Error{Code: control.CodeRefused, Message: "the file cannot be compared: " + err.Error(),
			Hint: "doorward check " + g.opts.Path}
	}
	file.judge(g)
	d.Before, d.After = inUse.hash, file.hash
	if d.Before == d.After {
		return d, nil
	}
	for _, k := range config.Differences(inUse.text, text) {
		d.Changes = append(d.Changes, tellKey(k))
	}
	refused, err := await(ctx, g, func(_ time.Time, answer func(error, error)) {
		refused := g.mayReplace(false)
		if refused == nil {
			refused = g.acceptable(&applying{checked: file})
		}
		answer(refused, nil)
	})
	if err != nil {
		return d, err
	}
	d.Refused, _ = errors.AsType[*control.Error](refused)
	return d, nil
}

// tellKey returns a difference as the API shows it.
func tellKey(d config.Difference) control.KeyChange {
	k := control.KeyChange{Key: d.Key, Change: control.KeyChanged, Secret: d.Secret}
	switch {
	case d.Added:
		k.Change = control.KeyAdded
	case d.Removed:
		k.Change = control.KeyRemoved
	}
	if d.Before != "" {
		k.Before = &d.Before
	}
	if d.After != "" {
		k.After = &d.After
	}
	return k
}
