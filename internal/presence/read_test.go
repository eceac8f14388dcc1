//go:build linux

package presence

import (
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// bytesRead returns how much this process has read, according to /proc/self/io.
func bytesRead(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "rchar: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("/proc/self/io has no rchar")
	return 0
}

func TestBigLogIsCheap(t *testing.T) {
	d := newLogDir(t)
	f, err := os.Create(d.path("auth.log"))
	d.must(err)
	old := strings.Repeat(noise("03:00"), 1000)
	for n := 0; n < 50<<20; n += len(old) {
		_, err := io.WriteString(f, old)
		d.must(err)
	}
	d.must(f.Close())
	d.write("auth.log", in("07:30", "alice")+strings.Repeat(noise("07:40"), 1000))
	l := d.log("auth.log")
	read := func() int64 {
		before := bytesRead(t)
		last(t, l, "alice", "07:30")
		return bytesRead(t) - before
	}
	if n := read(); n > 512<<10 {
		t.Errorf("the first look read %d bytes", n)
	}
	if n := read(); n > 8<<10 {
		t.Errorf("a look at nothing new read %d bytes", n)
	}
	d.write("auth.log", strings.Repeat(noise("07:45"), 100))
	if n := read(); n > 32<<10 {
		t.Errorf("a look at 100 new lines read %d bytes", n)
	}
}

// Lines read backward are the same as lines read forward.
func TestLinesBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for range rapid.IntRange(0, 30).Draw(t, "lines") {
			n := rapid.OneOf(rapid.IntRange(0, 80), rapid.IntRange(maxLine-3, maxLine+3),
				rapid.IntRange(maxLine, 3*maxLine)).Draw(t, "length")
			b.WriteString(strings.Repeat(string(rune('a'+b.Len()%26)), n) + "\n")
		}
		b.WriteString(rapid.StringN(0, 20, 20).Filter(func(s string) bool { return !strings.Contains(s, "\n") }).Draw(t, "rest"))
		text := b.String()
		var back, want []string
		first := true
		err := linesBackward(strings.NewReader(text), 0, int64(len(text)), func(line []byte, long bool) bool {
			if first { // this is what follows the last newline
				want := []byte(text[strings.LastIndexByte(text, '\n')+1:])
				if line, want := afterZeros(line), afterZeros(want); string(line) != string(want) {
					t.Fatalf("the unfinished line is %q, want %q", line, want)
				}
			} else if !long && len(line) < maxLine {
				back = append(back, string(line))
			}
			first = false
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(text, "\n")
		for i := len(lines) - 2; i >= 0; i-- {
			if len(lines[i]) < maxLine {
				want = append(want, lines[i])
			}
		}
		if strings.Join(back, "\n") != strings.Join(want, "\n") {
			t.Fatalf("backward: %d lines, want %d", len(back), len(want))
		}
		var forth []string
		done, _, err := linesForward(strings.NewReader(text), false, func(line []byte) {
			forth = append(forth, string(line))
		})
		if err != nil || int(done) != strings.LastIndexByte(text, '\n')+1 {
			t.Fatalf("forward: done with %d of %d bytes, %v", done, len(text), err)
		}
		slices.Reverse(forth)
		if strings.Join(forth, "\n") != strings.Join(want, "\n") {
			t.Fatalf("forward: %d lines, want %d", len(forth), len(want))
		}
	})
}
