package control

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// Each path of the API has one row in docs/API.md, and nothing else has a row.
func TestPathsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/API.md")
	if err != nil {
		t.Fatal(err)
	}
	routes := NewServer(nil, slog.New(slog.DiscardHandler)).routes(t.Context())
	routes[kindsPath+"KIND/ORDER"] = route{method: "POST"}
	for path, r := range routes {
		if row := fmt.Sprintf("\n| `%s %s` | ", r.method, path); strings.Count(string(page), row) != 1 {
			t.Errorf("docs/API.md has no row, or several, that begin with %q", row)
		}
	}
	if n := strings.Count(string(page), " /v1/"); n != len(routes) {
		t.Errorf("docs/API.md has %d paths, and the API %d", n, len(routes))
	}
}
