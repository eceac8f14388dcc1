package service

import (
	"encoding/json"
	"slices"
	"strings"
)

// PolkitRule returns a polkit rule (JavaScript, for a file under
// /etc/polkit-1/rules.d) that lets user start and stop exactly units, without a
// password, and nothing else: no restart, no enabling, no other unit. For a
// .socket it also allows stopping the .service of the same name, which goes on
// listening when its socket stops. Units must be named as systemd does, not by
// an alias. It needs polkit 0.106 or later and systemd 226 or later.
func PolkitRule(user string, units []string) string {
	var orders []string
	for _, u := range units {
		orders = append(orders, "start "+u, "stop "+u)
		if base, ok := strings.CutSuffix(u, ".socket"); ok {
			orders = append(orders, "stop "+base+".service")
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

// quoteJS writes s as a JavaScript string. JSON's strings are JavaScript's, with
// the two line separators that differ escaped by encoding/json.
func quoteJS(s string) string {
	q, err := json.Marshal(s)
	if err != nil {
		panic("service: a string cannot be quoted: " + err.Error())
	}
	return string(q)
}
