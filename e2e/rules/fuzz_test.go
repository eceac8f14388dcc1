package rules

import (
	"go/ast"
	"strings"
	"testing"
)

// TestFuzzTargetsHaveSeeds: a target without seeds begins with nothing, and its
// run as a test holds nothing.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	targets := 0
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !s.test || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Fuzz") {
				continue
			}
			targets++
			called := map[string]bool{}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
						called[sel.Sel.Name] = true
					}
				}
				return true
			})
			if !called["Add"] || !called["Fuzz"] {
				t.Errorf("%s: %s adds no seeds, or fuzzes nothing", s.at(f), f.Name.Name)
			}
			if f.Doc == nil {
				t.Errorf("%s: %s does not say what it holds", s.at(f), f.Name.Name)
			}
		}
	}
	if targets < 30 {
		t.Errorf("%d fuzz targets: most are not found", targets)
	}
}
