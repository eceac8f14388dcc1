package touch

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// Kind is the knock of touched ports, as a knock.Kind.
type Kind struct{}

var _ knock.Kind = Kind{}

//go:embed reference.toml
var reference string

// Name returns "touch".
func (Kind) Name() string { return "touch" }

// Reference returns the documentation of the keys.
func (Kind) Reference() string { return reference }

// Needs returns nothing: listening is all.
func (Kind) Needs() knock.Needs { return knock.Needs{} }

var (
	// The article's minute: enough for a person with telnet, too short for a
	// slow scan to pass both by chance.
	withinSpan = tables.Span{Unset: time.Minute, Min: time.Second, Max: time.Hour}

	// Looking more often than once a second is what "at once" is for.
	judgeSpan = tables.Span{Min: time.Second, Max: time.Hour}

	// The article's five minutes. More than a month is a wrong unit.
	penaltySpan = tables.Span{Unset: 5 * time.Minute, Min: time.Second, Max: 30 * 24 * time.Hour, OrNone: true}
)

// Read reads a table of the kind into a Rule.
func (Kind) Read(t *tables.Table) knock.Rule {
	var r Rule
	listen, whole := t.At("listen").Ports(port.TCP)
	for _, l := range listen {
		r.Listen = append(r.Listen, l.Number)
	}
	touch, _ := t.At("touch").Ports(port.TCP)
	for _, p := range touch {
		r.Touch = append(r.Touch, p.Number)
		if whole && !slices.Contains(r.Listen, p.Number) {
			p.Wrong(`not in "listen": nobody would hear it`, "ports of "+t.At("listen").Key)
		}
	}
	r.Given = t.At("order").Choice("any", "given") == 1
	r.times(t)
	r.Penalty, _ = t.At("penalty").Duration(penaltySpan)
	r.Everybody = t.At("scope").Choice("source", "door") == 1
	return r
}

// times reads how long a knock may take and when it is judged, and checks one against the
// other.
func (r *Rule) times(t *tables.Table) {
	within, interval := t.At("within"), t.At("judge")
	var withinOK, judgeOK bool
	r.Within, withinOK = within.Duration(withinSpan)
	r.Judge, judgeOK = judge(interval)
	if !withinOK || !judgeOK || r.Judge == 0 || r.Within <= r.Judge {
		return
	}
	// When knocks are judged, an incomplete one is wrong. If a knock's time were longer
	// than the interval between judgements, no visitor could ever have all of it.
	what := fmt.Sprintf("longer than the interval of the looks, %q", tables.Short(r.Judge))
	if !within.Given() {
		within.V = tables.Short(r.Within)
		what = "the default is " + what
	}
	within.Wrong(what, fmt.Sprintf("%q to %q, or a longer interval in %s",
		tables.Short(withinSpan.Min), tables.Short(r.Judge), interval.Key))
}

const judges = `"at once", and intervals such as "every 1m"`

// judge reads "at once", as 0, or "every D".
func judge(v tables.Value) (time.Duration, bool) {
	if !v.Given() {
		return 0, true
	}
	s, ok := v.Text(judges)
	if !ok || s == "at once" {
		return 0, ok
	}
	interval, ok := strings.CutPrefix(s, "every ")
	if !ok {
		m := v.Wrong("neither \"at once\" nor \"every\" and an interval", judges)
		if _, err := time.ParseDuration(s); err == nil {
			m.Hint = fmt.Sprintf("write %q", "every "+s)
		}
		return 0, false
	}
	return v.DurationIn(interval, judgeSpan)
}
