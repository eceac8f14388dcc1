package main

import (
	"fmt"
	"io"
	"time"

	"github.com/doorward/doorward/internal/visit"
)

// knockJSON is what --json prints.
type knockJSON struct {
	Host   string        `json:"host"`
	OK     bool          `json:"ok"` // what exit status 0 says
	Knocks []attemptJSON `json:"knocks"`
	Wait   []waitJSON    `json:"wait"` // empty without --wait
}

type attemptJSON struct {
	Address  string      `json:"address"`
	Complete bool        `json:"complete"`
	Touches  []touchJSON `json:"touches"`
}

type touchJSON struct {
	Port   uint16  `json:"port"`
	TookMS float64 `json:"took_ms"`
	Error  string  `json:"error"` // "" when done
}

type waitJSON struct {
	Port    string  `json:"port"`
	Address string  `json:"address"`
	Open    bool    `json:"open"`
	AfterMS float64 `json:"after_ms"`
	Error   string  `json:"error"` // "" when open
}

func printKnock(w io.Writer, o *knockOptions, attempts []visit.Attempt, opened []visit.Opened) error {
	j := knockJSON{Host: o.host, Knocks: []attemptJSON{}, Wait: []waitJSON{}}
	for _, at := range attempts {
		a := attemptJSON{Address: at.Address.String(), Complete: at.Err == nil, Touches: []touchJSON{}}
		for _, t := range at.Touches {
			tj := touchJSON{Port: t.Port, TookMS: ms(t.Took)}
			if t.Err != nil {
				tj.Error = t.Err.Error()
			}
			a.Touches = append(a.Touches, tj)
		}
		j.Knocks = append(j.Knocks, a)
		j.OK = j.OK || a.Complete && o.waitPort == 0
	}
	j.Wait = waits(o, opened)
	for _, w := range j.Wait {
		j.OK = j.OK || w.Open
	}
	return printJSON(w, j)
}

// waits are what --wait has come to.
func waits(o *knockOptions, opened []visit.Opened) []waitJSON {
	all := []waitJSON{}
	for _, w := range opened {
		wj := waitJSON{Port: fmt.Sprintf("%d/tcp", o.waitPort), Address: w.Address.String(),
			Open: w.Err == nil, AfterMS: ms(w.After)}
		if w.Err != nil {
			wj.Error = w.WhyShut()
		}
		all = append(all, wj)
	}
	return all
}

// ms is d in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
