package touch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

var (
	_ knock.Touched   = Rule{}
	_ knock.Penalised = Rule{}
	_ knock.Redrawn   = Rule{}
	_ knock.Drafted   = Kind{}
)

// Costs returns Penalty.
func (r Rule) Costs() time.Duration { return r.Penalty }

// Touches returns the ports of Touch.
func (r Rule) Touches() []uint16 { return r.Touch }

// Every returns Judge.
func (r Rule) Every() time.Duration { return r.Judge }

// Proposed is the shape of a drafted knock: six of twelve ports in order, 665,280
// possibilities. Fewer are too few for somebody with many addresses, whom the growth of
// penalties alone does not hold up: docs/THREATS.md has what guessing costs, and a test
// computes it from this.
func Proposed() Rule {
	return Rule{Listen: make([]uint16, 12), Touch: make([]uint16, 6),
		Given: true, Within: time.Minute, Penalty: 5 * time.Minute}
}

// drawn returns the rule with other ports, drawn at random: as many listeners, of which
// as many are touched, in ascending order where the order does not matter.
func (r Rule) drawn(from knock.Lots) (Rule, error) {
	listen, err := from.Ports(knock.Connections, len(r.Listen))
	if err != nil {
		return Rule{}, err
	}
	// They came in random order, so the first few are a random choice.
	touched := slices.Clone(listen[:len(r.Touch)])
	slices.Sort(listen)
	if !r.Given {
		slices.Sort(touched)
	}
	r.Listen, r.Touch = listen, touched
	return r, nil
}

// Redraw returns the rule with as many new ports.
func (r Rule) Redraw(from knock.Lots) (knock.Touched, map[string]string, error) {
	fresh, err := r.drawn(from)
	if err != nil {
		return nil, nil, err
	}
	edits := map[string]string{}
	for key, ports := range map[string][]uint16{"listen": fresh.Listen, "touch": fresh.Touch} {
		for i, p := range ports {
			edits[fmt.Sprintf("%s.%d", key, i)] = strconv.Itoa(int(p))
		}
	}
	return fresh, edits, nil
}

// Brief says what sets the kind apart.
func (Kind) Brief() string { return "ports to connect to, in an order; no client needed" }

// Proposal describes Proposed.
func (Kind) Proposal() string {
	return `A knock that nobody else has: twelve listeners at random
ports from 20000 to 32767 and 61000 to 65535, six of which are to be touched in
the order of the file. Those ports are outside the range that Linux gives to
outgoing connections, have no name in /etc/services, and are not among those that
port scanners try first, so that a passing scan meets no penalty and a connection
of this machine never holds a listener's port. The six that are not touched are
what makes a thorough scan a wrong knock. There are 665,280 such knocks, which
takes whoever guesses from one address centuries.`
}

// Choices returns the ports and their order.
func (Kind) Choices() []knock.Choice {
	return []knock.Choice{
		{Name: "listen", List: true, Usage: "TCP `PORTS` of the listeners, with --touch (default: at random)",
			Question: "TCP ports to listen on, or random for twelve ports of which six are touched", Proposal: "random"},
		{Name: "touch", List: true, Usage: "those `PORTS` of them that are to be touched", With: "listen",
			Question: "Those of them that are to be touched", Empty: "at least one port, and better two or three"},
		{Name: "order", Usage: "any, or given: in the order of --touch", Default: "given",
			Question: "Order of the touches, given or any"},
	}
}

// Draft writes a knock with the chosen ports, or with drawn ones of the proposed
// shape. Of ports that are listened on, and of which none was chosen yet, the first
// is touched.
func (Kind) Draft(chosen map[string][]string, from knock.Lots) (string, error) {
	var b strings.Builder
	listen, touched, order := chosen["listen"], chosen["touch"], strings.Join(chosen["order"], " ")
	proposed := Proposed()
	if len(listen) == 0 {
		proposed.Given = order != "any"
		r, err := proposed.drawn(from)
		if err != nil {
			return "", err
		}
		listen, touched = words(r.Listen), words(r.Touch)
		b.WriteString(`# Drawn at random, from ports that Linux does not give to outgoing connections,
# that have no name in /etc/services, and that scanners do not try first.
`)
	} else if len(touched) == 0 {
		touched = listen[:1]
	}
	fmt.Fprintf(&b, "listen = [%s]\n", integers(listen))
	if len(touched) < len(listen) {
		b.WriteString("# Whoever touches one of the others, as a port scan does, is not heard for the\n" +
			"# time of the penalty.\n")
	}
	fmt.Fprintf(&b, "touch = [%s]\norder = %q\nwithin = %q\n", integers(touched), order, tables.Short(proposed.Within))
	b.WriteString("# Of the first wrong knock; it doubles each time, up to a day.\n")
	fmt.Fprintf(&b, "penalty = %q\nscope = \"source\"\n", tables.Short(proposed.Penalty))
	return b.String(), nil
}

// Write writes all keys of a Rule.
func (Kind) Write(rule knock.Rule) string {
	r := rule.(Rule)
	order, judge, scope := "any", "at once", "source"
	if r.Given {
		order = "given"
	}
	if r.Judge > 0 {
		judge = "every " + tables.Short(r.Judge)
	}
	if r.Everybody {
		scope = "door"
	}
	return fmt.Sprintf("listen = [%s]\ntouch = [%s]\norder = %q\nwithin = %q\njudge = %q\npenalty = %q\nscope = %q\n",
		integers(words(r.Listen)), integers(words(r.Touch)), order, tables.Short(r.Within), judge, tables.Short(r.Penalty), scope)
}

// integers writes the integers of a TOML list. Anything else is quoted, so that reading
// the text refuses it.
func integers(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = w
		if n, err := strconv.Atoi(w); err != nil || strconv.Itoa(n) != w {
			q[i] = strconv.Quote(w)
		}
	}
	return strings.Join(q, ", ")
}
