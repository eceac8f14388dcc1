package rules

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/kinds"
)

// named are the files that have the name of a kind of knock, and why.
var named = map[string]string{
	"cmd/doorward/knock.go": "the visitor's command that touches ports has a flag --touch",
}

// TestNobodyKnowsAKind checks that adding a kind of knock takes a package and a line:
// outside the kinds' own packages and their list nothing has a kind's name.
// TestImportArrows says who may import one. Tests, and programs that are only for
// tests, write configurations.
func TestNobodyKnowsAKind(t *testing.T) {
	own := append(kindsOfKnock(t), "internal/kinds")
	names := append(kinds.Names(), kinds.ToCome...)
	if len(own) < 2 || len(names) < 1 {
		t.Fatalf("no kind of knock is known: %q, %q", own, names)
	}
	configured := regexp.MustCompile(`\bkind\s*=\s*["'](` + strings.Join(names, "|") + `)["']`)
	seen := map[string]bool{}
	for _, s := range sources(t) {
		tests := s.test || strings.HasPrefix(s.dir, "e2e") || s.dir == "bench" || s.dir == "internal/control/controltest"
		if tests || slices.Contains(own, s.dir) {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil || !slices.Contains(names, text) && !configured.MatchString(text) {
				return true
			}
			seen[s.name] = true
			if named[s.name] == "" {
				t.Errorf("%s: %s is the name of a kind of knock: ask its Rule or Kind, by the interfaces of internal/knock", s.at(n), lit.Value)
			}
			return true
		})
	}
	for name, why := range named {
		if !seen[name] {
			t.Errorf("%s has no kind's name (%s): take it out of the list", name, why)
		}
	}
}
