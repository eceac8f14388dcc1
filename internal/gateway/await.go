package gateway

import (
	"context"
	"time"

	"github.com/doorward/doorward/internal/control"
)

// endsFirst is the error for orders to a gateway that is ending.
var endsFirst = &control.Error{Code: control.CodeDown, Message: "the daemon is shutting down", Hint: "systemctl status doorward"}

// await begins something in a turn, and returns the answer, which comes once, in that
// turn or a later one. It gives up when ctx or the gateway ends; what was begun goes on.
func await[T any](ctx context.Context, g *Gateway, begin func(now time.Time, answer func(T, error))) (T, error) {
	type answered struct {
		with T
		err  error
	}
	var none T
	done := make(chan answered, 1)
	e := func(now time.Time) {
		begin(now, func(with T, err error) { done <- answered{with, err} })
	}
	select {
	case g.events <- e:
	case <-ctx.Done():
		return none, ctx.Err()
	case <-g.ended:
		return none, endsFirst
	}
	select {
	case a := <-done:
		return a.with, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-g.ended:
		return none, endsFirst
	}
}
