//go:build linux

package presence

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/doorward/doorward/internal/tape"
)

// FuzzArchive reads a compressed log, and its text, as decompressed by a library alone,
// as a plain log: whatever is in it and however it is damaged, both have the same last
// login. It also checks what reading costs, which warnings there are, and that the result
// is the same after a read was stopped and started again.
func FuzzArchive(f *testing.F) {
	good := zip(f, noise("05:00")+in("07:40", "alice")+noise("07:45")+in("07:50", "bob"))
	flipped := bytes.Clone(good)
	flipped[len(good)/2] ^= 0x10
	stored := drawArchive(tape.New([]byte("\x01\x00\x04\x00\x05\x01\x00\x09\x02\x00\x03")))
	for _, raw := range [][]byte{
		nil, good, zip(f, strings.TrimSuffix(in("07:50", "bob"), "\n")), good[:len(good)-9], good[:len(good)/2], good[:5], flipped, stored,
		append(bytes.Clone(good), good...), append(bytes.Clone(good), "no member"...), append(bytes.Clone(good), make([]byte, 512)...),
		bytes.Repeat(zip(f, ""), 300), append(bytes.Repeat(zip(f, ""), 300), good...),
		zip(f, strings.Repeat("x", 8<<20)+"\n"+in("07:50", "bob")), zip(f, strings.Repeat("\n", 1<<20)),
		zip(f, in("07:40", "alice")+strings.Repeat("x", maxLine-1)+"\n"+strings.Repeat("x", maxLine)+in("07:55", "mallory")+in("07:50", "bob")),
		zip(f, strings.Repeat("\x00", 100<<10)+in("07:40", "alice")+"\x00\x00"+in("07:50", "bob")),
		zip(f, "2026-11-24 07:50:01 gate sshd[7]: "+accepted+"\n"+in("09:30", "carol")),
	} {
		f.Add(raw, []byte(nil))
		f.Add(raw, []byte("\x02\x03\x04\x00\x05\x01\x00\x09\x02\x00\x03\x03\x01\x00\x20\x01"))
	}
	for _, text := range []string{"", in("07:40", "alice") + noise("07:45") + strings.TrimSuffix(in("07:50", "bob"), "\n"), strings.Repeat("x", 300<<10)} {
		z := zstd.EncodeTo(nil, []byte(text))
		f.Add(z, []byte(nil))
		f.Add(z[:len(z)-5], []byte(nil))
		f.Add(append(bytes.Clone(z), z...), []byte(nil))
		f.Add(append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}, z...), []byte(nil)) // a skippable frame, RFC 8878, 3.1.2
	}
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00"), []byte(nil)) // a window of 128 MiB
	f.Add([]byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00"), []byte(nil))
	for _, s := range []string{
		"\x00\x01\x08\x00\x01\x05\x02\x00\x20\x03\x01\x04\x09\x00\x07", "\x01\x02\x03\x0b\xff\xff\x00\x05\x01\x03\x02\x00\x40\x02",
		"\x02\x03\x02\x0a\xff\x00\x03\x01\x05\x02\x00\x30\x05\x01\x00\x31\x80",
	} {
		f.Add([]byte(nil), []byte(s))
	}
	dir := quickDir(f)
	f.Fuzz(func(t *testing.T, raw, choices []byte) {
		c := tape.New(choices)
		most, asks := tape.Of(c, []int64{1 << 20, 100, 4096, 2 * maxLine}), c.Below(40)
		archive := append(bytes.Clone(raw), drawArchive(c)...)
		if len(archive) == 0 {
			return
		}
		h := &archiveCase{t: t, dir: dir, kind: kindOf(archive)}
		h.most = most / h.kind.slow
		h.inflate(archive)
		h.write("none", "\n") // data, so that a damaged archive is not the only file
		h.write("log"+h.kind.ending, string(archive))
		defer os.Remove(filepath.Join(dir, "log"+h.kind.ending))
		want, ok, warnings := h.plainly()

		read := h.files("none", "log")
		h.first(read, len(archive), want, ok, warnings)
		again := &countdown{context.Background(), math.MaxInt}
		h.look("again", read, again, want, ok)
		if n := math.MaxInt - again.left; n > 6 {
			t.Errorf("the second look at the archive read %d blocks", n)
		}
		stopped := h.files("none", "log")
		if _, _, _, err := stopped.last(&countdown{context.Background(), asks}, eight); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("a look that was stopped: %v", err)
		}
		h.look("after a stop", stopped, context.Background(), want, ok)
		_, _, _, err := h.files("log", "log").last(context.Background(), eight)
		if none := h.err != nil || len(h.text) == 0; none != errors.Is(err, ErrNoData) {
			t.Errorf("the archive alone: %v, want no data: %v", err, none)
		}
	})
}

// kindOf returns how an archive is compressed, judged by its first bytes.
func kindOf(b []byte) *archive {
	switch {
	case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")), bytes.HasPrefix(b, []byte("\x50\x2a\x4d\x18")):
		return archiveOf(".zst")
	case bytes.HasPrefix(b, []byte("BZh")):
		return archiveOf(".bz2")
	}
	return archiveOf(".gz")
}

// archiveCase is an archive, and its text according to its library.
type archiveCase struct {
	t    *testing.T
	dir  string
	kind *archive
	most int64
	text []byte // up to the error, or at most one byte more than is read
	err  error
}

// inflate is the second reader: it decompresses everything at once, by the library alone.
func (h *archiveCase) inflate(archive []byte) {
	z, end, err := h.kind.open(bytes.NewReader(archive))
	if err != nil {
		h.err = err
		return
	}
	defer end()
	h.text, h.err = io.ReadAll(io.LimitReader(z, h.most+1))
}

func (h *archiveCase) cut() bool { return h.err == nil && int64(len(h.text)) > h.most }

// plainly reads the text as a log to which it has just been added, and line by line.
func (h *archiveCase) plainly() (Login, bool, []string) {
	h.t.Helper()
	text := string(h.text)
	if h.err == nil && !h.cut() {
		text += "\n" // if the archive is whole, so is its last line
	}
	h.write("plain", "\n")
	plain := h.files("plain", "plain")
	if _, ok, _, err := plain.last(context.Background(), eight); ok || err != nil {
		h.t.Fatalf("a log of an empty line: %v, %v", ok, err)
	}
	h.write("plain", "\n"+text)
	got, ok, warnings, err := plain.last(context.Background(), eight)
	if err != nil {
		h.t.Fatal(err)
	}
	got.Where = filepath.Join(h.dir, "log"+h.kind.ending)

	var best *Login
	lines := strings.Split(text, "\n")
	for _, line := range lines[:len(lines)-1] {
		line = string(afterZeros([]byte(line)))
		if l, what := parseLine(line, eight); what == isLogin && len(line) <= maxLogin {
			if l.Time.After(eight) {
				l.Time = eight
			}
			if best == nil || l.Time.After(best.Time) {
				best = &l
			}
		}
	}
	if ok != (best != nil) || ok && (!got.Time.Equal(best.Time) || got.User != best.User) {
		h.t.Fatalf("the plain log has %+v (%v), its lines %+v", got, ok, best)
	}
	for i := range warnings {
		warnings[i] = strings.Replace(warnings[i], filepath.Join(h.dir, "plain"), got.Where, 1)
	}
	return got, ok, warnings
}

// first looks at the archive for the first time.
func (h *archiveCase) first(f *files, size int, want Login, ok bool, warnings []string) {
	h.t.Helper()
	asked := &countdown{context.Background(), math.MaxInt}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := h.look("first", f, asked, want, ok)
	runtime.ReadMemStats(&after)
	if n := math.MaxInt - asked.left; h.kind.ending == ".gz" && n > size/4096+12 {
		h.t.Errorf("%d bytes were read in %d blocks", size, n)
	}
	var parsed int // bytes of the lines that may be a login, which are copied and parsed
	for line := range bytes.SplitSeq(h.text, []byte("\n")) {
		if bytes.Contains(line, []byte("Accepted ")) {
			parsed += len(line) + 64
		}
	}
	own := map[string]int{".gz": 1 << 20, ".zst": 4*maxWindow + 40*size, ".bz2": 8<<20 + 40*size}[h.kind.ending]
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(own+16*parsed) {
		h.t.Errorf("%d bytes were allocated for %d of text", n, len(h.text))
	}
	name := filepath.Join(h.dir, "log"+h.kind.ending)
	switch {
	case h.err != nil:
		warnings = []string{fmt.Sprintf("%s: %v after %d bytes of text: logins after that do not count; "+
			"`%s` tells whether the file is damaged", name, h.err, len(h.text), h.kind.tester)}
	case h.cut():
		i := 0
		for i < len(warnings) && strings.Contains(warnings[i], "their stamp is in no known form") {
			i++
		}
		said := fmt.Sprintf("%s: only the first %d bytes of its text are read: logins after that do not "+
			"count; let logrotate begin a new file sooner (maxsize 100M)", name, h.most)
		warnings = append(warnings[:i:i], append([]string{said}, warnings[i:]...)...)
	}
	if diff := cmp.Diff(warnings, got); diff != "" && len(warnings)+len(got) > 0 {
		h.t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func (h *archiveCase) look(who string, f *files, ctx context.Context, want Login, wantOK bool) []string {
	h.t.Helper()
	got, ok, warnings, err := f.last(ctx, eight)
	if err != nil || ok != wantOK || ok && got != want {
		h.t.Fatalf("%s: %+v, %v, %v, want %+v, %v in\n%.2000q", who, got, ok, err, want, wantOK, h.text)
	}
	return warnings
}

func (h *archiveCase) files(names ...string) *files {
	for i, n := range names {
		names[i] = filepath.Join(h.dir, n)
	}
	f := newFiles(names)
	f.most = h.most * h.kind.slow
	return f
}

// write writes a file in place, last written at eight.
func (h *archiveCase) write(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chtimes(path, eight, eight); err != nil {
		h.t.Fatal(err)
	}
}

// drawArchive makes members with lines, long lines and zeros, and damages them.
func drawArchive(c *tape.Tape) []byte {
	var b bytes.Buffer
	at := eight.Add(-2 * time.Hour)
	for range c.Below(4) {
		z, err := gzip.NewWriterLevel(&b, tape.Of(c, []int{gzip.NoCompression, gzip.BestSpeed, gzip.BestCompression, gzip.HuffmanOnly}))
		if err != nil {
			panic(err)
		}
		for n := range c.Below(12) {
			piece := drawLine(c, n, &at)
			switch c.Below(8) {
			case 6:
				piece = bytes.Repeat([]byte{0}, c.Below(1<<16))
			case 7: // a very long line
				piece = append(bytes.Repeat([]byte("x"), tape.Of(c, []int{maxLine - 1, maxLine, 3 * maxLine, 1 << 20})-c.Below(3)), piece...)
			}
			_, _ = z.Write(piece) // a buffer's writes do not fail
		}
		_ = z.Close()
	}
	all := b.Bytes()
	for len(all) > 0 && c.More() {
		where := c.Below(1<<16) % len(all)
		switch c.Below(6) {
		case 0:
			all = all[:where]
		case 1:
			all[where] ^= 1 << c.Below(8)
		case 2:
			all = append(all, c.Bytes(where)...)
		case 3:
			all = append(all, make([]byte, where)...)
		case 4:
			all = append(all, all[:where]...)
		}
	}
	return all
}
