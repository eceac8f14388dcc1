//go:build linux

package presence

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/doorward/doorward/internal/nstest"
)

// zip returns text, compressed by gzip.
func zip(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// changed returns when a file's inode last changed.
func (d *logDir) changed(name string) time.Time {
	d.t.Helper()
	var st syscall.Stat_t
	d.must(syscall.Stat(d.path(name), &st))
	return time.Unix(st.Ctim.Unix())
}

// countdown is a context that ends after its Err has been called a number of times.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// However long a line is, and however much text a few bytes of an archive have, a reader
// that is stopped returns at the next block.
func TestStopsInsideALine(t *testing.T) {
	line := strings.Repeat("x", 16<<20)
	for _, test := range []struct {
		name, file string
		text       []byte
	}{
		{"a log of one line", "auth.log", []byte(line)},
		{"an archive of one line", "auth.log.gz", bytes.Repeat(zip(t, line), 64)},
		{"an archive of empty members", "auth.log.gz", bytes.Repeat(zip(t, ""), 64<<10)},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLogDir(t)
			d.write(test.file, string(test.text))
			before := bytesRead(t)
			_, _, err := d.log("auth.log", "auth.log").Last(&countdown{t.Context(), 8})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Last of a context that ended: %v", err)
			}
			if n := bytesRead(t) - before; n > 640<<10 {
				t.Errorf("%d of %d bytes were read", n, len(test.text))
			}
		})
	}
}

// New lines that were read before a reader was stopped are not read again.
func TestStopsAndGoesOn(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", noise("05:00"))
	l := d.log("auth.log")
	last(t, l, "", "")
	d.write("auth.log", in("07:40", "alice")+strings.Repeat(noise("07:41"), 20<<10)+in("07:50", "bob"))
	if _, _, err := l.Last(&countdown{t.Context(), 8}); !errors.Is(err, context.Canceled) {
		t.Errorf("Last of a context that ended: %v", err)
	}
	before := bytesRead(t)
	last(t, l, "bob", "07:50")
	st, err := os.Stat(d.path("auth.log"))
	d.must(err)
	if n := bytesRead(t) - before; n > st.Size()-128<<10 {
		t.Errorf("the second look read %d of %d bytes", n, st.Size())
	}
}

// An archive of a few kilobytes whose text is longer than the limit costs no more than
// reading up to the limit, once, and there is a warning.
func TestBomb(t *testing.T) {
	d := newLogDir(t)
	bomb := bytes.Repeat(zip(t, strings.Repeat("x", 1<<20)), maxArchive>>20)
	d.write("auth.log", noise("07:55"))
	d.write("auth.log.1.gz", string(zip(t, in("07:40", "alice")))+string(bomb)+string(zip(t, "\n"+in("07:50", "bob"))))
	l := d.log("auth.log")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	last(t, l, "alice", "07:40")
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	want := d.path("auth.log.1.gz") + ": only the first 268435456 bytes of its text are read: logins after that do not " +
		"count; let logrotate begin a new file sooner (maxsize 100M)"
	if w := l.Warnings(); len(w) != 1 || w[0] != want {
		t.Errorf("warnings %q, want %q", w, want)
	}
	read := bytesRead(t)
	last(t, l, "alice", "07:40")
	if n := bytesRead(t) - read; n > 8<<10 || len(l.Warnings()) != 1 {
		t.Errorf("the second look read %d bytes, warnings %q", n, l.Warnings())
	}
	d.write("auth.log", in("07:56", "carol"))
	last(t, l, "carol", "07:56")
}

// An archive whose text just fits into the limit is read completely. If the text is cut at
// the limit, an incomplete last line does not count.
func TestCutInsideALine(t *testing.T) {
	whole := in("07:40", "alice") + strings.TrimSuffix(in("07:50", "bob"), "\n")
	for _, test := range []struct {
		text, want string
		warnings   int
	}{{whole, "bob 07:50", 0}, {whole + " from 192.0.2.9 port 22 ssh2", "alice 07:40", 1}} {
		d := newLogDir(t)
		d.write("auth.log.1.gz", string(zip(t, test.text)))
		f := newFiles([]string{d.path("auth.log.1"), d.path("auth.log.2")})
		f.most = int64(len(whole))
		got, ok, warnings, err := f.last(t.Context(), d.now)
		who := got.User + got.Time.Format(" 15:04")
		if err != nil || !ok || who != test.want || len(warnings) != test.warnings {
			t.Errorf("%q: %s, %v, %q, want %s", test.text, who, err, warnings, test.want)
		}
	}
}

// A damaged archive counts up to the damage, is read once, and is read again when it has
// changed.
func TestDamagedArchive(t *testing.T) {
	whole := zip(t, in("07:40", "alice")+strings.Repeat(noise("07:41"), 2000)+in("07:50", "bob"))
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	for _, test := range []struct {
		name     string
		text     []byte
		user, at string
		why      string
	}{
		{"truncated", whole[:len(whole)/2], "alice", "07:40", "unexpected EOF after "},
		{"no end", whole[:len(whole)-1], "bob", "07:50", "unexpected EOF after "},
		{"wrong checksum", flipped, "bob", "07:50", "gzip: invalid checksum after "},
		{"garbage behind", append(bytes.Clone(whole), "garbage behind"...), "bob", "07:50", "gzip: invalid header after "},
		{"no archive", []byte(in("07:50", "bob")), "", "", "gzip: invalid header after 0 bytes of text: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLogDir(t)
			d.write("auth.log", noise("07:55"))
			d.write("auth.log.1.gz", string(test.text))
			l := d.log("auth.log")
			for look := range 2 {
				before := bytesRead(t)
				last(t, l, test.user, test.at)
				if n := bytesRead(t) - before; look == 1 && n > 2<<10 {
					t.Errorf("the second look read %d bytes", n)
				}
				w := l.Warnings()
				if len(w) != 1 || !strings.HasPrefix(w[0], d.path("auth.log.1.gz")+": "+test.why) ||
					!strings.HasSuffix(w[0], " bytes of text: logins after that do not count; `gzip -t` tells whether the file is damaged") {
					t.Errorf("warnings %q, want %q", w, test.why)
				}
			}
			// The file is repaired in place, perhaps with the same size and time.
			before := d.changed("auth.log.1.gz")
			d.must(os.Truncate(d.path("auth.log.1.gz"), 0))
			d.write("auth.log.1.gz", string(whole))
			for d.changed("auth.log.1.gz").Equal(before) { // the kernel's clock ticks slowly
				d.must(os.Chtimes(d.path("auth.log.1.gz"), d.now, d.now))
			}
			last(t, l, "bob", "07:50")
			quiet(t, l)
		})
	}
}

// An error of the disk does not mean that the archive is damaged.
func TestDiskFails(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log.1.gz", string(zip(t, in("07:50", "bob"))))
	f, err := os.Open(d.path("auth.log.1.gz"))
	d.must(err)
	d.must(f.Close())
	p := &pass{files: newFiles(nil), ctx: t.Context(), now: d.now}
	l := &logFile{pass: p, file: f, size: 100, ref: d.now, pr: &progress{}}
	var disk *fs.PathError
	if err := l.unzip(archiveOf(f.Name())); !errors.As(err, &disk) || l.pr.broken != "" {
		t.Errorf("unzip: %v, remembered %q, want only an error", err, l.pr.broken)
	}
}

// packed returns text, compressed by a program.
func packed(t *testing.T, text string, program string, args ...string) []byte {
	t.Helper()
	nstest.Need(t, program)
	cmd := exec.CommandContext(t.Context(), program, append(args, "-c")...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return out
}

// Archives as the real programs make them can be read: complete, with the last line
// unfinished, in two pieces, or cut off.
func TestOtherArchives(t *testing.T) {
	for _, test := range []struct {
		ending, program string
		args            []string
	}{{".gz", "gzip", nil}, {".zst", "zstd", nil}, {".zst", "zstd", []string{"-19", "--check"}}, {".bz2", "bzip2", nil}} {
		t.Run(strings.Join(append([]string{test.program}, test.args...), " "), func(t *testing.T) {
			d := newLogDir(t)
			first := packed(t, noise("05:00")+in("07:40", "alice")+strings.Repeat(noise("07:41"), 200), test.program, test.args...)
			second := packed(t, strings.Repeat(noise("07:42"), 200)+strings.TrimSuffix(in("07:50", "bob"), "\n"), test.program, test.args...)
			for _, step := range []struct {
				name, user, at string
				text           []byte
				odd            bool
			}{
				{"whole", "alice", "07:40", first, false},
				{"two pieces", "bob", "07:50", append(bytes.Clone(first), second...), false},
				{"cut off", "alice", "07:40", append(bytes.Clone(first), second[:len(second)-8]...), true},
				{"another program's", "", "", []byte("\x5d no archive of these"), true},
			} {
				d.must(os.RemoveAll(d.path("auth.log.1" + test.ending)))
				d.write("auth.log.1"+test.ending, string(step.text))
				for _, names := range [][]string{{"auth.log"}, {"auth.log", "auth.log.1"}} {
					d.write("auth.log", noise("07:55"))
					l := d.log(names...)
					last(t, l, step.user, step.at)
					w := l.Warnings()
					if !step.odd && len(w) > 0 || step.odd && (len(w) != 1 ||
						!strings.HasPrefix(w[0], d.path("auth.log.1"+test.ending)+": ") || !strings.Contains(w[0], "`"+test.program+" -t`")) {
						t.Errorf("%s: warnings %q", step.name, w)
					}
				}
			}
		})
	}
}

// The text of an archive of zstd or bzip2, and the window that it demands, cost no more
// than the limits allow.
func TestOtherBombs(t *testing.T) {
	// Go's encoder writes such a text in a few bytes: blocks of one repeated byte.
	bomb := func(window int) []byte {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			if _, err := z.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	bz2 := packed(t, strings.Repeat("x", 1<<20), "bzip2")
	for _, test := range []struct {
		name, file string
		text       []byte
		most       int64 // bytes of text
		want       string
		memory     uint64
	}{
		{"zstd", "auth.log.1.zst", bytes.Repeat(bomb(maxWindow), maxArchive/(40<<20)+1), maxArchive, "only the first 268435456 bytes of its text are read", 64 << 20},
		{"zstd with a wide window", "auth.log.1.zst", bomb(4 * maxWindow), maxArchive, "window size exceeded after 0 bytes of text", 4 << 20},
		{"bzip2", "auth.log.1.bz2", bytes.Repeat(bz2, 32), 32 << 20, "only the first 4194304 bytes of its text are read", 24 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLogDir(t)
			d.write("auth.log", noise("07:55"))
			d.write(test.file, string(test.text))
			l := d.log("auth.log")
			l.src.(*files).most = test.most
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			last(t, l, "", "")
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > test.memory {
				t.Errorf("%d bytes were allocated, want at most %d", n, test.memory)
			}
			if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], test.want) {
				t.Errorf("warnings %q, want %q", w, test.want)
			}
			read := bytesRead(t)
			last(t, l, "", "")
			if n := bytesRead(t) - read; n > 8<<10 {
				t.Errorf("the second look read %d bytes", n)
			}
		})
	}
}
