package touch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// shuffled are lots whose ports are 20000 and so on, in random order.
var shuffled = knock.Lots{Ports: func(_ knock.Medium, n int) ([]uint16, error) {
	ports := make([]uint16, n)
	for i, p := range rand.Perm(n) {
		ports[i] = uint16(20000 + p)
	}
	return ports, nil
}}

// A knock that is drawn again has the old one's shape, and the edits say all of it.
func TestRedraw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rule{Listen: make([]uint16, rapid.IntRange(1, 12).Draw(t, "listen")), Given: rapid.Bool().Draw(t, "given")}
		r.Touch = make([]uint16, rapid.IntRange(1, len(r.Listen)).Draw(t, "touch"))
		fresh, edits, err := r.Redraw(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		got := fresh.(Rule)
		if len(got.Listen) != len(r.Listen) || len(got.Touch) != len(r.Touch) || got.Given != r.Given {
			t.Fatalf("drew %+v, want the shape of %+v", got, r)
		}
		if !slices.IsSorted(got.Listen) {
			t.Errorf("listen %v, want it ascending", got.Listen)
		}
		if !r.Given && !slices.IsSorted(got.Touch) {
			t.Errorf("touch %v shows an order that does not matter, want it ascending", got.Touch)
		}
		want := map[string]string{}
		for i, p := range got.Listen {
			want[fmt.Sprintf("listen.%d", i)] = fmt.Sprint(p)
		}
		for i, p := range got.Touch {
			want[fmt.Sprintf("touch.%d", i)] = fmt.Sprint(p)
			if !slices.Contains(got.Listen, p) {
				t.Errorf("touch %v is no part of listen %v", got.Touch, got.Listen)
			}
		}
		if d := cmp.Diff(want, edits); d != "" {
			t.Errorf("edits (-want +got):\n%s", d)
		}
	})
}

// Every listener is as likely to be one to touch, and every order of a knock in
// order.
func TestRedrawIsEven(t *testing.T) {
	r := Rule{Listen: []uint16{1, 2, 3}, Touch: []uint16{1, 2}, Given: true}
	seen := map[string]int{}
	const draws = 600
	for range draws {
		fresh, err := r.drawn(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprint(fresh.Touch)]++
	}
	// Six ordered pairs, 100 each; 50 would be five standard deviations off.
	for pair, n := range seen {
		if n < draws/12 {
			t.Errorf("%s came up %d times in %d", pair, n, draws)
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d of 6 ordered pairs came up", len(seen))
	}
}

func TestNothingToDraw(t *testing.T) {
	none := errors.New("no port is free")
	from := knock.Lots{Ports: func(knock.Medium, int) ([]uint16, error) { return nil, none }}
	if fresh, edits, err := Proposed().Redraw(from); !errors.Is(err, none) || fresh != nil || edits != nil {
		t.Errorf("Redraw: %v, %v, %v; want the error %v", fresh, edits, err, none)
	}
	if keys, err := (Kind{}).Draft(nil, from); !errors.Is(err, none) || keys != "" {
		t.Errorf("Draft: %q, %v; want the error %v", keys, err, none)
	}
}

// A draft reads as what was chosen, and a wrong choice is a mistake in the text.
func TestDraft(t *testing.T) {
	for _, tt := range []struct {
		name          string
		listen, touch []string
		order         string
		want          Rule
		mistake       string
	}{
		{name: "drawn", order: "given", want: Proposed()},
		{name: "drawn, in any order", order: "any", want: func() Rule { r := Proposed(); r.Given = false; return r }()},
		{name: "chosen", listen: []string{"7", "8", "9"}, touch: []string{"9", "7"}, order: "given",
			want: Rule{Listen: []uint16{7, 8, 9}, Touch: []uint16{9, 7}, Given: true, Within: Proposed().Within, Penalty: Proposed().Penalty}},
		{name: "not yet touched", listen: []string{"7", "8"}, order: "any",
			want: Rule{Listen: []uint16{7, 8}, Touch: []uint16{7}, Within: Proposed().Within, Penalty: Proposed().Penalty}},
		{name: "no number", listen: []string{"7", "x]\nkind = 1"}, touch: []string{"7"}, order: "any", mistake: "not an integer"},
		{name: "no order", listen: []string{"7", "8"}, touch: []string{"7"}, order: "never", mistake: "not one of the allowed words"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keys, err := Kind{}.Draft(map[string][]string{"listen": tt.listen, "touch": tt.touch, "order": {tt.order}}, shuffled)
			if err != nil {
				t.Fatal(err)
			}
			table, err := tables.Parse("f", []byte(keys))
			if err != nil {
				t.Fatalf("%v\n%s", err, keys)
			}
			got := Kind{}.Read(table).(Rule)
			table.Done()
			if err := table.Err(); tt.mistake != "" {
				if err == nil || !strings.Contains(err.Error(), tt.mistake) {
					t.Errorf("mistakes %v, want %s", err, tt.mistake)
				}
				return
			} else if err != nil {
				t.Fatalf("%v\n%s", err, keys)
			}
			if tt.listen == nil {
				got.Listen, got.Touch = make([]uint16, len(got.Listen)), make([]uint16, len(got.Touch))
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("the draft reads as (-want +got):\n%s", d)
			}
		})
	}
}

// A rule that is written reads as the same one.
func TestWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ports := rapid.SliceOfNDistinct(rapid.Uint16Min(1), 1, 12, rapid.ID)
		seconds := func(least, most int, name string) time.Duration {
			return time.Duration(rapid.IntRange(least, most).Draw(t, name)) * time.Second
		}
		want := Rule{Listen: ports.Draw(t, "listen"), Given: rapid.Bool().Draw(t, "given"), Within: seconds(1, 3600, "within"),
			Penalty: seconds(0, 86400, "penalty"), Everybody: rapid.Bool().Draw(t, "everybody")}
		want.Touch = rapid.Permutation(want.Listen).Draw(t, "touch")[:rapid.IntRange(1, len(want.Listen)).Draw(t, "touches")]
		if rapid.Bool().Draw(t, "looks") {
			want.Judge = seconds(int(want.Within.Seconds()), 3600, "judge")
		}
		keys := Kind{}.Write(want)
		table, err := tables.Parse("f", []byte(keys))
		if err != nil {
			t.Fatalf("%v\n%s", err, keys)
		}
		got := Kind{}.Read(table)
		table.Done()
		if err := table.Err(); err != nil {
			t.Fatalf("%v\n%s", err, keys)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("it reads as (-want +got):\n%s\n%s", d, keys)
		}
	})
}
