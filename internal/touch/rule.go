package touch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// Rule says what a right knock is. It is a knock.Rule.
type Rule struct {
	Listen    []uint16      // every TCP port whose touch counts, each once
	Touch     []uint16      // those of them that must be touched, each once; the others must not
	Given     bool          // Touch must be touched in its order
	Within    time.Duration // the longest from the first touch to the last
	Judge     time.Duration // 0: judged at once; else only every so often
	Penalty   time.Duration // what a wrong knock costs
	Everybody bool          // everybody's touches add up to one knock
}

func place(n uint16) knock.Place { return knock.Place{Medium: knock.Connections, Port: n} }

// Hears returns the ports of Listen.
func (r Rule) Hears() []knock.Place {
	places := make([]knock.Place, len(r.Listen))
	for i, n := range r.Listen {
		places[i] = place(n)
	}
	return places
}

// Recogniser needs no marks: a knock that is under way when the daemon ends is forgotten.
func (r Rule) Recogniser(armed time.Time, _ []knock.Mark) knock.Recogniser {
	return newRecogniser(r, armed)
}

// same says whether both rules ask for the same knock.
func (r Rule) same(o Rule) bool {
	return slices.Equal(r.Listen, o.Listen) && slices.Equal(r.Touch, o.Touch) && r.Given == o.Given &&
		r.Within == o.Within && r.Judge == o.Judge && r.Everybody == o.Everybody
}

// Lasts returns the longer of Within and Judge.
func (r Rule) Lasts() time.Duration { return max(r.Within, r.Judge) }

// ForAll returns Everybody.
func (r Rule) ForAll() bool { return r.Everybody }

// Needs returns nothing: listening is all.
func (r Rule) Needs() knock.Needs { return knock.Needs{} }

// Warnings warns about knocks that are too easily found, or open to everybody.
func (r Rule) Warnings() (w []string) {
	if len(r.Touch) == len(r.Listen) {
		w = append(w, "every port of listen is to be touched: a port scan opens the door, so leave at least one alone")
	}
	if len(r.Touch) == 1 {
		w = append(w, "one touch is the whole knock: whoever finds the port gets in")
	}
	if r.Everybody {
		w = append(w, `scope = "door": the right knock of one visitor opens to everybody, `+
			"and a stranger's wrong one makes the door ignore everybody")
	}
	if r.Penalty == 0 && len(r.Touch) < len(r.Listen) {
		w = append(w, `penalty = "0s": a wrong knock costs nothing, so all of them can be tried`)
	}
	return w
}

// Words says which ports to touch and which to leave alone.
func (r Rule) Words() string {
	order := "in any order"
	if r.Given {
		order = "in this order"
	}
	if len(r.Touch) == 1 {
		order = "once"
	}
	told := fmt.Sprintf("touch %s %s within %s", listed(r.Touch), order, tables.Short(r.Within))
	alone := slices.DeleteFunc(slices.Clone(r.Listen), func(p uint16) bool { return slices.Contains(r.Touch, p) })
	if len(alone) > 0 {
		told += ", leave " + listed(alone) + " alone"
	}
	if r.Judge > 0 {
		told += "; looked at every " + tables.Short(r.Judge)
	}
	return told
}

// listed lists port numbers.
func listed(ports []uint16) string { return tables.Listed(words(ports)) }

// words returns port numbers as text.
func words(ports []uint16) []string { return strings.Fields(strings.Trim(fmt.Sprint(ports), "[]")) }
