package port

import (
	"math/big"
	"regexp"
	"testing"
)

var rangeForm = regexp.MustCompile(`^([0-9]+)(?:-([0-9]+))?/(tcp|udp)$`)

// secondReading reads a range by its form, with numbers of any length.
func secondReading(s string) (r Range, ok bool) {
	m := rangeForm.FindStringSubmatch(s)
	if m == nil {
		return r, false
	}
	if m[2] == "" {
		m[2] = m[1]
	}
	first, _ := new(big.Int).SetString(m[1], 10)
	last, _ := new(big.Int).SetString(m[2], 10)
	r = Range{Proto: map[string]Proto{"tcp": 6, "udp": 17}[m[3]]}
	if first.Sign() <= 0 || first.Cmp(last) > 0 || last.Cmp(big.NewInt(65535)) > 0 {
		return r, false
	}
	r.First, r.Last = uint16(first.Int64()), uint16(last.Int64())
	return r, true
}

// FuzzParseRange checks that a text is a range exactly if it is one by its form, that
// a range reads back as it was written, and that Contains and Overlaps agree with
// counting ports.
func FuzzParseRange(f *testing.F) {
	for _, s := range []string{
		"22/tcp", "60000-61000/udp", "1-65535/tcp", "0022/udp", "22", "22/", "0/tcp", "65536/tcp", "2-1/tcp", "+22/tcp", "-/tcp",
		"22/sctp", "22-/tcp", "18446744073709551638/tcp", "2\u0662/tcp", "22/tcp\n", "",
	} {
		f.Add(s, uint16(1000), uint16(22))
	}
	f.Fuzz(func(t *testing.T, s string, first, last uint16) {
		got, err := ParseRange(s)
		want, ok := secondReading(s)
		if (err == nil) != ok || ok && got != want {
			t.Fatalf("ParseRange(%q) = %+v, %v; the second reading is %+v, %v", s, got, err, want, ok)
		}
		if !ok {
			return
		}
		if again, err := ParseRange(got.String()); err != nil || again != got {
			t.Fatalf("%+v is %q, and then %+v (%v)", got, got, again, err)
		}
		other := Range{Proto: TCP, First: max(1, min(first, last)), Last: max(1, first, last)}
		shared := false
		for n := int(other.First); n <= int(other.Last); n++ {
			in := got.Proto == TCP && int(got.First) <= n && n <= int(got.Last)
			if p := (Port{TCP, uint16(n)}); got.Contains(p) != in {
				t.Fatalf("%s contains %s: %v", got, p, !in)
			}
			shared = shared || in
		}
		if got.Overlaps(other) != shared || other.Overlaps(got) != shared {
			t.Fatalf("%s and %s overlap: %v", got, other, !shared)
		}
	})
}

func TestRangeErrorsSayWhatToWrite(t *testing.T) {
	for s, want := range map[string]string{
		"22":          `"22" has no protocol: write "22/tcp" or "22/udp"`,
		"22/sctp":     `"22/sctp": protocol "sctp" is not known: allowed are tcp and udp`,
		"0/tcp":       `"0/tcp": port "0": allowed are 1 to 65535`,
		"1-70000/tcp": `"1-70000/tcp": port "70000": allowed are 1 to 65535`,
		"9-1/udp":     `"9-1/udp": the range runs backwards: write "1-9/udp"`,
	} {
		if r, err := ParseRange(s); err == nil || err.Error() != want || r != (Range{}) {
			t.Errorf("%q: %v, %v; want %s", s, err, r, want)
		}
	}
	if got := Proto(132).String(); got != "proto-132" {
		t.Errorf("protocol 132 is %q", got)
	}
}
