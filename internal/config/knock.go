package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/port"
)

type rawTouch struct {
	Kind    value `toml:"kind"`
	Listen  value `toml:"listen"`
	Touch   value `toml:"touch"`
	Order   value `toml:"order"`
	Within  value `toml:"within"`
	Judge   value `toml:"judge"`
	Penalty value `toml:"penalty"`
	Scope   value `toml:"scope"`
}

// KindTouch is the kind of a knock on open ports.
const KindTouch = "touch"

const kinds = `"touch"`

// knocks checks the [[door.NAME.knock]] tables.
func (c *checker) knocks(door string, v value, placed *places) []Knock {
	form := fmt.Sprintf("one or more tables: write [[%s]]", v.key)
	if isTable(v.v) {
		c.wrong(v, "one table, not a list of them", form)
		return nil
	}
	elements, ok := c.list(v, form)
	if ok && len(elements) == 0 {
		c.wrong(v, "empty: nobody could open the door", form)
	}
	var knocks []Knock
	for _, e := range elements {
		if c.table(e) {
			knocks = append(knocks, c.knock(door, e, placed))
		}
	}
	return knocks
}

// knock checks one knock by its kind. The keys of a kind that is not here are
// not judged.
func (c *checker) knock(door string, v value, placed *places) Knock {
	kindKey := c.child(v, "kind")
	kind, ok := c.str(kindKey, kinds)
	switch {
	case !ok:
	case kind == KindTouch:
		return c.touch(door, v, placed)
	case slices.Contains([]string{"sequence", "sealed", "fwknop"}, kind):
		c.wrong(kindKey, "this version of doorward does not have this kind of knock yet", kinds).Hint =
			"remove this knock, or write one of kind \"touch\""
	default:
		c.wrong(kindKey, "unknown kind of knock", kinds)
	}
	return Knock{}
}

// touch checks a knock of kind "touch".
func (c *checker) touch(door string, v value, placed *places) Knock {
	var raw rawTouch
	c.fields(v, &raw)
	k := Knock{
		Kind:  KindTouch,
		Order: Order(c.choice(raw.Order, "any", "given")),
		Scope: Scope(c.choice(raw.Scope, "source", "door")),
	}
	listen, listenOK := c.portNumbers(raw.Listen)
	for _, l := range listen {
		k.Listen = append(k.Listen, l.port.First)
		l.door = door
		placed.listened = append(placed.listened, l)
	}
	touch, _ := c.portNumbers(raw.Touch)
	for _, t := range touch {
		k.Touch = append(k.Touch, t.port.First)
		if listenOK && !slices.Contains(k.Listen, t.port.First) {
			c.wrong(t.value, "not in \"listen\": nobody would hear it", "ports of "+raw.Listen.key)
		}
	}
	c.times(raw, &k)
	return k
}

const portList = `lists of port numbers such as [59000, 59001, 59002]`

// portNumbers reads a list of different TCP port numbers that is not empty.
// True means that all of it is usable.
func (c *checker) portNumbers(v value) ([]claim, bool) {
	elements, good := c.list(v, portList)
	if good && len(elements) == 0 {
		c.wrong(v, "empty", portList)
	}
	var found []claim
	for _, e := range elements {
		n, isInt := e.v.(int64)
		switch {
		case !isInt:
			m := c.wrong(e, kindOf(e.v)+", not an integer", "port numbers, 1 to 65535")
			if s, ok := e.v.(string); ok && strings.HasSuffix(s, "/tcp") {
				m.Hint = "listeners are always TCP: write " + strings.TrimSuffix(s, "/tcp")
			}
			good = false
		case n < 1 || n > 65535:
			c.wrong(e, "not a port", "port numbers, 1 to 65535")
			good = false
		default:
			p := uint16(n)
			same := func(c claim) bool { return c.port.First == p }
			if slices.ContainsFunc(found, same) {
				c.wrong(e, "listed twice", "")
			}
			found = append(found, claim{value: e, port: port.Range{Proto: port.TCP, First: p, Last: p}})
		}
	}
	return found, good
}

// times checks a knock's durations, and what they mean to each other.
func (c *checker) times(raw rawTouch, k *Knock) {
	var withinOK, judgeOK bool
	k.Within, withinOK = c.duration(raw.Within, withinSpan)
	k.Penalty, _ = c.duration(raw.Penalty, penaltySpan)
	k.Judge, judgeOK = c.judge(raw.Judge)
	if !withinOK || !judgeOK || k.Judge == 0 || k.Within <= k.Judge {
		return
	}
	// At a look, a knock that is not complete is a wrong one. If its time were
	// longer than the looks are apart, no visitor could ever have all of it.
	v, what := raw.Within, fmt.Sprintf("longer than the interval of the looks, %q", Short(k.Judge))
	if !v.given() {
		v.v = Short(k.Within)
		what = "the default is " + what
	}
	c.wrong(v, what, fmt.Sprintf("%q to %q, or a longer interval in %s",
		Short(withinSpan.min), Short(k.Judge), raw.Judge.key))
}

const judges = `"at once", and intervals such as "every 1m"`

// judge reads "at once", which is 0, or "every D".
func (c *checker) judge(v value) (time.Duration, bool) {
	if !v.given() {
		return 0, true
	}
	s, ok := c.str(v, judges)
	if !ok || s == "at once" {
		return 0, ok
	}
	interval, ok := strings.CutPrefix(s, "every ")
	if !ok {
		m := c.wrong(v, "neither \"at once\" nor \"every\" and an interval", judges)
		if _, err := time.ParseDuration(s); err == nil {
			m.Hint = fmt.Sprintf("write %q", "every "+s)
		}
		return 0, false
	}
	return c.durationIn(v, interval, judgeSpan)
}
