package judge

import (
	"cmp"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// The register that the checker holds a history against: the grant of one source
// at one door. It is given by knocks, ends when its time is up, is spent by a
// connection where it is good for one, and goes with its table. Each of these is
// an operation with a span, within which it took effect at one moment; so are
// the connections, which read the register. The history is right if there is an
// order of these moments in which every connection was answered as the register
// says: linearizability.

// register is its state.
type register struct {
	knock int // the latest knock that was taken in
	live  int // the knock whose grant is live, 0 for none
}

// operation is one of those below, of knock n where it belongs to one.
type operation struct {
	kind opKind
	n    int
}

// opKind is what an operation does.
type opKind uint8

const (
	opGrant      opKind = iota // a right knock that nothing disturbed
	opMaybeGrant               // a right knock that may have been lost
	opExpire                   // the grant's time is up
	opIn                       // a connection that was let in
	opSpend                    // the same, of single use
	opMaybeSpend               // one of single use that may have been let in
	opOut                      // a connection that was not let in
	opWipe                     // the table went
	opMaybeWipe                // the door may have gone dark
)

// step returns the states that the operation can lead to, none where it cannot
// have happened in this state.
func (r register) step(op operation) []register {
	shut := register{r.knock, 0}
	switch op.kind {
	case opGrant:
		if r.knock == op.n-1 {
			return []register{{op.n, op.n}}
		}
	case opMaybeGrant:
		if r.knock == op.n-1 {
			return []register{{op.n, op.n}, {op.n, r.live}}
		}
	case opExpire:
		switch {
		case r.knock < op.n: // never before it was given
		case r.live == op.n:
			return []register{shut}
		default: // another knock has renewed it
			return []register{r}
		}
	case opIn:
		if r.live != 0 {
			return []register{r}
		}
	case opSpend:
		if r.live != 0 {
			return []register{shut}
		}
	case opOut:
		if r.live == 0 {
			return []register{r}
		}
	case opWipe:
		return []register{shut}
	case opMaybeWipe, opMaybeSpend:
		return []register{r, shut}
	}
	return nil
}

// model is the register in porcupine's words.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{register{}} },
		Step: func(state, input, _ any) []any {
			var next []any
			for _, r := range state.(register).step(input.(operation)) {
				next = append(next, r)
			}
			return next
		},
	}
	return m.ToModel()
}

// patience bounds the search for an order.
const patience = 10 * time.Second

// history collects operations.
type history []porcupine.Operation

func (h *history) add(s Span, kind opKind, n int) {
	*h = append(*h, porcupine.Operation{Input: operation{kind, n}, Call: int64(s.Begin), Return: int64(s.End)})
}

// check looks for an order.
func (h history) check() porcupine.CheckResult {
	slices.SortFunc(h, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	return porcupine.CheckOperationsTimeout(model(), h, patience)
}
