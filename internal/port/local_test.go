package port

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestLocal(t *testing.T) {
	tests := []struct {
		ports, reserved, guarded string
		want                     []string
		reserving                string
	}{
		{"32768\t60999\n", "\n", "51820/udp", []string{"51820/udp"}, "51820"},
		{"32768\t60999\n", "", "60000-61000/udp", []string{"60000-60999/udp"}, "60000-60999"},
		{"32768\t60999\n", "8080,9148", "32767/udp", nil, "8080,9148"},
		{"32768\t60999\n", "40000-40001,60500-61000,8080", "39999-60999/udp",
			[]string{"39999/udp", "40002-60499/udp"}, "8080,39999-61000"},
		{"32768\t60999\n", "60000-61000", "60000-61000/udp", nil, "60000-61000"},
		{"1\t65535\n", "1,65535", "1-65535/tcp", []string{"2-65534/tcp"}, "1-65535"},
	}
	for _, tt := range tests {
		l, err := ParseLocal(tt.ports, tt.reserved)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRange(tt.guarded)
		if err != nil {
			t.Fatal(err)
		}
		parts := l.Gives(r)
		var got []string
		for _, p := range parts {
			got = append(got, p.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q without %q: Gives(%s) (-want +got):\n%s", tt.ports, tt.reserved, tt.guarded, diff)
		}
		if got := l.Reserving(parts); got != tt.reserving {
			t.Errorf("%q and %v are reserved as %q, want %q", tt.reserved, parts, got, tt.reserving)
		}
	}
	for _, bad := range [][2]string{{"", ""}, {"32768", ""}, {"60999 32768", ""}, {"32768 60999", "x"}, {"32768 60999", "1,70000"}} {
		if l, err := ParseLocal(bad[0], bad[1]); err == nil {
			t.Errorf("%q is %+v, want an error", bad, l)
		}
	}
}

// Ports that are reserved as proposed are no longer assigned, and those that were
// reserved stay so. Each port is checked by itself.
func TestReservedPortsAreNotGiven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		span := rapid.Custom(func(t *rapid.T) Range {
			first := rapid.Uint16Range(1, 100).Draw(t, "first")
			return Range{UDP, first, first + rapid.Uint16Range(0, 20).Draw(t, "more")}
		})
		kept := rapid.SliceOfN(span, 0, 4).Draw(t, "kept")
		within, guarded := span.Draw(t, "within"), span.Draw(t, "guarded")
		var words []string
		for _, k := range kept {
			words = append(words, strings.TrimSuffix(k.String(), "/udp"))
		}
		ports := strings.ReplaceAll(strings.TrimSuffix(Range{UDP, within.First, within.Last + 1}.String(), "/udp"), "-", " ")
		within.Last++
		l, err := ParseLocal(ports, strings.Join(words, ","))
		if err != nil {
			t.Fatal(err)
		}
		given := map[uint16]bool{}
		for _, p := range l.Gives(guarded) {
			for n := p.First; n <= p.Last; n++ {
				given[n] = true
			}
		}
		for n := uint16(1); n < 150; n++ {
			p := Port{UDP, n}
			want := within.Contains(p) && guarded.Contains(p)
			for _, k := range kept {
				want = want && !k.Contains(p)
			}
			if given[n] != want {
				t.Fatalf("of %s, %d is given: %v, want %v", guarded, n, given[n], want)
			}
		}
		after, err := ParseLocal(ports, l.Reserving(l.Gives(guarded)))
		if err != nil {
			t.Fatal(err)
		}
		if left := after.Gives(guarded); len(left) > 0 {
			t.Fatalf("reserved as %q, %v of %s are still given", l.Reserving(l.Gives(guarded)), left, guarded)
		}
		for _, k := range kept {
			if left := after.Gives(k); len(left) > 0 {
				t.Fatalf("%s was reserved, and %v is given", k, left)
			}
		}
	})
}
