package gateway

import (
	"encoding/json"
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
	if change.Reply != nil {
		g.replyBeside(k, o.What, change.Reply, done)
		return
	}
	g.carryOut(now, k, by, change, func(now time.Time, ended int, unsaved error) {
		reply := control.Reply{Message: k.kind + " " + o.What + ": done", Result: result,
			Changed: len(change.Marks)+len(change.Notes)+ended > 0, Ended: ended}
		if change.Recheck {
			reply.Message += "; grants ended: " + fmt.Sprint(ended)
		}
		if unsaved == nil && g.storeProblem != "" && len(change.Marks) > 0 {
			unsaved = errors.New("nothing is kept: " + g.storeProblem)
		}
		switch {
		case change.Undo == nil && unsaved != nil:
			done(control.Reply{}, staysInForce(k.kind, o.What, unsaved))
		case change.Undo == nil:
			g.answer(reply, nil, func(reply control.Reply, err error) {
				if why, ok := causeOf(err).(*unsavedError); ok {
					err = staysInForce(k.kind, o.What, why.why)
				}
				done(reply, err)
			})
		case unsaved != nil:
			g.undoOrder(now, k, by, change, unsaved, done)
		default:
			g.onDisk(now, func(now time.Time, err error) {
				if err != nil {
					g.undoOrder(now, k, by, change, err, done)
					return
				}
				g.answer(reply, nil, done)
			})
		}
	})
}

// replyBeside answers an order that changes nothing and whose reply takes long.
func (g *Gateway) replyBeside(k *keep, what string, reply func() (json.RawMessage, error), done replier) {
	g.beside(func() {
		result, err := reply()
		g.post(func(time.Time) {
			if err != nil {
				done(control.Reply{}, orderError(err))
				return
			}
			g.answer(control.Reply{Message: k.kind + " " + what + ": done", Result: result}, nil, done)
		})
	})
}

// staysInForce is the error of an order that takes a right from somebody, who does not have
// it any more although that is not on disk.
func staysInForce(kind, what string, why error) error {
	return &control.Error{Code: control.CodeFailed, Hint: "doorward status", Cause: &unsavedError{why},
		Message: fmt.Sprintf("%s %s: it is in force, but not on disk, and until it is, a restart would forget it: %v", kind, what, why)}
}

// undoOrder takes back what an order has changed that cannot be saved, so that the gateway
// has what a restart would have.
func (g *Gateway) undoOrder(now time.Time, k *keep, by control.Caller, c knock.Change, why error, done replier) {
	g.callers.now = by
	defer func() { g.callers.now = control.Caller{} }()
	for _, m := range c.Undo() {
		if err := g.changes.markByOrder(storedMark("", k.kind, m)); err != nil {
			g.log.Error("cannot save that an order was undone; after a restart it may be in force", "kind", k.kind, "err", err)
		}
	}
	for _, n := range c.Notes {
		g.record(now, noteEvent(n.Event), by.Name, "undone, since it could not be saved: "+n.Detail)
	}
	done(control.Reply{}, &control.Error{Code: control.CodeFailed, Hint: "doorward status",
		Message: "nothing was changed, since it cannot be saved: " + why.Error()})
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
