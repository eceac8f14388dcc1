package service

import (
	"encoding/json"
	"slices"
	"strings"
)

// Names are the names that systemd itself uses for a unit, and asks polkit about,
// whatever alias an order used.
type Names struct {
	ID string // its own name
	// Feeds are the services that a socket hands its connections to, which are
	// stopped with it since they go on listening; nil for another unit.
	Feeds []string
}

// Order is one request to systemd, in polkit's terms: the details "verb" and "unit" of
// org.freedesktop.systemd1.manage-units.
type Order struct{ Verb, Unit string }

// String returns "start ssh.service".
func (o Order) String() string { return o.Verb + " " + o.Unit }

// Orders returns all that a Unit ever asks for.
func (n Names) Orders() []Order {
	orders := []Order{{"start", n.ID}, {"stop", n.ID}, {"reset-failed", n.ID}}
	for _, s := range n.Feeds {
		orders = append(orders, Order{"stop", s}, Order{"reset-failed", s})
	}
	return orders
}

// PolkitRule returns a polkit rule (JavaScript, for a file under /etc/polkit-1/rules.d)
// that lets user start and stop exactly units, and reset their failed state, without a
// password, and nothing else: no restart, no enabling, no other unit. It needs polkit
// 0.106 or later and systemd 226 or later.
func PolkitRule(user string, units []Names) string {
	var orders []string
	for _, u := range units {
		for _, o := range u.Orders() {
			orders = append(orders, o.String())
		}
	}
	slices.Sort(orders)
	orders = slices.Compact(orders)

	var b strings.Builder
	b.WriteString("// Made by doorward from the units of its configuration; make it anew when they change.\n")
	b.WriteString("polkit.addRule(function(action, subject) {\n")
	b.WriteString("    var orders = [\n")
	for _, o := range orders {
		b.WriteString("        " + quoteJS(o) + ",\n")
	}
	b.WriteString("        null\n    ];\n")
	b.WriteString("    if (action.id === \"org.freedesktop.systemd1.manage-units\" &&\n")
	b.WriteString("        subject.user === " + quoteJS(user) + " &&\n")
	b.WriteString("        orders.indexOf(action.lookup(\"verb\") + \" \" + action.lookup(\"unit\")) >= 0) {\n")
	b.WriteString("        return polkit.Result.YES;\n    }\n")
	b.WriteString("    return polkit.Result.NOT_HANDLED;\n});\n")
	return b.String()
}

// PolkitUnits returns the units that a rule of PolkitRule lets start, by name; none of
// another text.
func PolkitUnits(rule string) (units []string) {
	for line := range strings.Lines(rule) {
		var order string
		quoted, ok := strings.CutSuffix(strings.TrimSpace(line), ",")
		if !ok || json.Unmarshal([]byte(quoted), &order) != nil {
			continue
		}
		if unit, ok := strings.CutPrefix(order, "start "); ok {
			units = append(units, unit)
		}
	}
	return units
}

// quoteJS writes s as a JavaScript string. JSON's strings are JavaScript's, with
// the two line separators that differ escaped by encoding/json.
func quoteJS(s string) string {
	q, err := json.Marshal(s)
	if err != nil {
		panic("service: a string cannot be quoted: " + err.Error())
	}
	return string(q)
}
