package client

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// Whoever has asked, and does not know what has come of it, is told so.
func TestUnanswered(t *testing.T) {
	refuses := func(k clienttest.Knock) []seal.Answer {
		return []seal.Answer{{Status: seal.Refused, Reason: seal.Reason(credential.From), Source: k.From}}
	}
	silent := func(clienttest.Knock) []seal.Answer { return nil }
	for _, tt := range []struct {
		name   string
		answer func(clienttest.Knock) []seal.Answer // nil: it opens
		touch  time.Duration                        // that the key takes
		nobody bool                                 // is there
		within time.Duration                        // the context; 0: as long as it takes
		want   bool
	}{
		{name: "opened"},
		{name: "refused", answer: refuses},
		{name: "nobody is there", nobody: true},
		{name: "cancelled before a request", touch: time.Minute, within: time.Second},
		{name: "cancelled after it", answer: silent, within: time.Second, want: true},
		{name: "no answer at all", answer: silent, want: true},
		{name: "refused over one family, and silent over the other", answer: func(k clienttest.Knock) []seal.Answer {
			if k.From.Is6() {
				return nil
			}
			return refuses(k)
		}, want: true},
		{name: "the service goes on starting", answer: func(k clienttest.Knock) []seal.Answer {
			return []seal.Answer{{Status: seal.Starting, Source: k.From}}
		}, want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				l.prover.wait = tt.touch
				if tt.nobody {
					clear(l.gateways)
				}
				if tt.answer != nil {
					l.gateway.Answer(tt.answer)
				}
				ctx := t.Context()
				if tt.within > 0 {
					within, cancel := context.WithTimeout(ctx, tt.within)
					defer cancel()
					ctx = within
				}
				if r, err := l.client().Knock(ctx, l.knock); r.Unanswered != tt.want {
					t.Errorf("%v: unanswered %v, want %v", err, r.Unanswered, tt.want)
				}
			})
		})
	}
}

// A first knock that may have opened the door, though nobody has said so, is given back,
// whether Hold gives up or is told to end meanwhile.
func TestHoldGivesBackWhatMayBeOpen(t *testing.T) {
	for name, within := range map[string]time.Duration{"gives up": time.Hour, "is told to end": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				l.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
					if k.Request.Action == seal.Close {
						return l.gateway.Open(k)
					}
					return nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				var last Held
				err := l.client().Hold(ctx, l.knock, func(h Held) { last = h })
				knocks := l.gateway.Knocks()
				if end := knocks[len(knocks)-1]; last.Why != HeldReturn || last.Err != nil || end.Request.Action != seal.Close {
					t.Errorf("%v; it ends with %+v, and the last knock asks for %v; want it to close", err, last, end.Request.Action)
				}
			})
		})
	}
}
