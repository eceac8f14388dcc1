//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// metrics is where the daemon under load says how long its turns take.
const metrics = "127.0.0.1:9472"

// turns are how often something took as long as a bound at the most.
type turns []atMost

type atMost struct {
	bound float64 // seconds, +Inf at the end
	count uint64
}

// longest is the bound that none was longer than.
func (t turns) longest() time.Duration {
	for _, a := range t {
		if a.count == t[len(t)-1].count {
			return time.Duration(a.bound * float64(time.Second))
		}
	}
	return 0
}

// readTurns reads the daemon's histograms of its turns and of what touches wait for one.
func (b *bench) readTurns(ctx context.Context) (took, waited turns, err error) {
	err = b.server.Do(func() error {
		c, err := net.Dial("tcp", metrics) // on this thread, which is in the server's network
		if err != nil {
			return err
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metrics+"/metrics", nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		lines := bufio.NewScanner(answer.Body)
		for lines.Scan() {
			for name, into := range map[string]*turns{"doorward_turn_seconds": &took, "doorward_knock_wait_seconds": &waited} {
				rest, ok := strings.CutPrefix(lines.Text(), name+`_bucket{le="`)
				if !ok {
					continue
				}
				var a atMost
				if _, err := fmt.Sscanf(strings.Replace(rest, `"}`, "", 1), "%g %d", &a.bound, &a.count); err != nil {
					return fmt.Errorf("metrics: %q: %w", lines.Text(), err)
				}
				*into = append(*into, a)
			}
		}
		return lines.Err()
	})
	return took, waited, err
}
