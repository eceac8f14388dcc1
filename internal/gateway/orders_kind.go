package gateway

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/knock"
)

// orderKind hands an order to what the knocks of a kind have in common, carries out what
// follows from it, and answers when that is done and on disk.
func (g *Gateway) orderKind(now time.Time, by control.Caller, o control.KindRequest, done replier) {
	k := g.keepOf(o.Kind)
	if k == nil {
		done(control.Reply{}, g.noKind(o.Kind))
		return
	}
	change, result, err := k.of.Order(now, by.Name, o.What, o.Args)
	if err != nil {
		done(control.Reply{}, orderError(err))
		return
	}
	for _, w := range change.Warnings {
		g.log.Warn(w, "kind", k.kind, "order", o.What)
	}
	g.carryOut(now, k, by, change, func(_ time.Time, ended int, unsaved error) {
		reply := control.Reply{Message: k.kind + " " + o.What + ": done", Result: result,
			Changed: len(change.Marks)+len(change.Notes)+ended > 0, Ended: ended}
		if change.Recheck {
			reply.Message += "; grants ended: " + fmt.Sprint(ended)
		}
		if unsaved != nil {
			done(control.Reply{}, &control.Error{Code: control.CodeFailed, Message: (&unsavedError{unsaved}).Error(), Hint: "doorward status"})
			return
		}
		g.answer(reply, nil, done)
	})
}

// noKind is the error of an order to a kind that takes none.
func (g *Gateway) noKind(name string) error {
	var names []string
	for _, k := range g.keeps {
		names = append(names, k.kind)
	}
	allowed := "no kind of knock of this version takes orders"
	if len(names) > 0 {
		allowed = "those that do are " + strings.Join(names, ", ")
	}
	return &control.Error{Code: control.CodeRefused, Message: fmt.Sprintf("there is no kind of knock %q that takes orders: %s", name, allowed)}
}

// orderError is why a kind has not carried out an order, as it is answered.
func orderError(err error) error {
	e := &control.Error{Code: control.CodeRefused, Message: err.Error()}
	if told, ok := errors.AsType[*knock.OrderError](err); ok {
		e.Hint = told.Hint
		if told.Usage {
			e.Code = control.CodeUsage
		}
	}
	return e
}
