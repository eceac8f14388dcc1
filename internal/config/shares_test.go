package config

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// sharingKind is wordKind with rules that share a port if they wait as long.
type sharingKind struct{ wordKind }

func (sharingKind) Name() string                                { return "sharing" }
func (sharingKind) Keep(io.Reader, []knock.Mark) (k knock.Kept) { return k }
func (sharingKind) Digest(knock.File, []byte) (any, error)      { return nil, nil }
func (sharingKind) Identity(by string) string                   { return by }
func (sharingKind) Read(t *tables.Table) knock.Rule {
	if r, ok := (wordKind{}).Read(t).(wordRule); ok {
		return sharingRule{r}
	}
	return nil
}

type sharingRule struct{ wordRule }

func (r sharingRule) Shares(other knock.Rule) error {
	if o := other.(sharingRule); o.Patience != r.Patience {
		return fmt.Errorf("patience: %v there, and %v here", o.Patience, r.Patience)
	}
	return nil
}

// Doors share a port if their knocks are of one kind that has something in common, and
// agree. Each that does not is one mistake, however many others there are.
func TestDoorsThatShareAPort(t *testing.T) {
	withWord(t)
	kinds.All = append(slices.Clone(kinds.All), sharingKind{})
	door := func(name string, port int, knocks ...string) string {
		return fmt.Sprintf("[door.%s]\nports = [\"%d/tcp\"]\nknock = [%s]\n", name, port, strings.Join(knocks, ", "))
	}
	const a, b = `{kind = "sharing", port = 5005}`, `{kind = "sharing", port = 5005, patience = "9s"}`
	const word, elsewhere = `{kind = "word", port = 5005}`, `{kind = "sharing", port = 5006}`
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"they agree", door("c", 1, a) + door("b", 2, a, elsewhere) + door("a", 3, a), nil},
		{"one does not", door("c", 1, a) + door("b", 2, a) + door("a", 3, b) + door("d", 4, a), []string{
			`9: door.a.knock[0].port: 5005: shares a port with a knock of door "c", line 3, and cannot: patience: 2s there, and 9s here: allowed are knocks that agree there, or a port of its own`}},
		{"one of another kind", door("c", 1, a) + door("b", 2, a) + door("a", 3, word), []string{
			`9: door.a.knock[0].port: 5005: door "a" listens on a port of another knock: door "b", line 6: allowed are ports that only one knock listens on`,
			`9: door.a.knock[0].port: 5005: door "a" listens on a port of another knock: door "c", line 3: allowed are ports that only one knock listens on`}},
		{"twice at one door", door("c", 1, a, a), []string{
			`3: door.c.knock[1].port: 5005: door "c" listens on a port of another knock: door "c", line 3: allowed are ports that only one knock listens on`}},
		{"a kind that shares nothing", door("c", 1, word) + door("b", 2, word), []string{
			`6: door.b.knock[0].port: 5005: door "b" listens on a port of another knock: door "c", line 3: allowed are ports that only one knock listens on`}},
		{"on a guarded port", strings.ReplaceAll(door("c", 5005, a), "tcp", "udp") + door("b", 2, a), []string{
			`3: door.c.knock[0].port: 5005: a listener of door "c" is on a guarded port: "5005/udp" of door "c", line 2: allowed are ports that no door guards: the fence would keep every packet away`,
			`6: door.b.knock[0].port: 5005: a listener of door "b" is on a guarded port: "5005/udp" of door "c", line 2: allowed are ports that no door guards: the fence would keep every packet away`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("t.toml", []byte(tt.text))
			var got []string
			for _, m := range tables.Mistakes(err) {
				got = append(got, strings.TrimPrefix(m.Error(), "t.toml:"))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
}
