//go:build linux

package sandbox

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
)

// Files includes everything that ld.so says it loads, for every kind of program.
func TestFilesAreWhatTheLoaderLoads(t *testing.T) {
	for _, program := range []string{"/usr/bin/journalctl", "/usr/bin/true", "/usr/bin/ssh", "/usr/bin/perl"} {
		t.Run(filepath.Base(program), func(t *testing.T) {
			nstest.Need(t, program, "ldd")
			out, err := exec.CommandContext(t.Context(), "ldd", program).Output()
			if err != nil {
				t.Fatal(err)
			}
			files, lacking := Files(program)
			if len(lacking) > 0 {
				t.Errorf("lacking: %q", lacking)
			}
			if !slices.Contains(files, program) {
				t.Errorf("the program %q is not among the files", program)
			}
			var real []string
			for _, f := range files {
				if path, err := filepath.EvalSymlinks(f); err == nil {
					real = append(real, path)
				}
			}
			loaded := regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1)
			if len(loaded) < 2 {
				t.Fatalf("ldd printed %q", out)
			}
			for _, m := range loaded {
				if path, err := filepath.EvalSymlinks(m[1]); err != nil || !slices.Contains(real, path) {
					t.Errorf("%q (%q, %v) is loaded, but not among %q", m[1], path, err, files)
				}
			}
		})
	}
}

// Files includes only the program itself, its interpreter and libraries: no directory,
// and nothing that the interpreter would run as another program.
func TestFilesAreNoOtherPrograms(t *testing.T) {
	nstest.Need(t, "/usr/bin/journalctl")
	files, _ := Files("/usr/bin/journalctl")
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			continue // there are no preloads here
		}
		library := strings.Contains(filepath.Base(f), ".so")
		if !info.Mode().IsRegular() || !library && f != "/usr/bin/journalctl" {
			t.Errorf("%q (%v) is among the files", f, info.Mode())
		}
	}
	for _, name := range []string{"liblz4.so.1", "liblzma.so.5", "libzstd.so.1"} {
		if !slices.ContainsFunc(files, func(f string) bool { return filepath.Base(f) == name }) {
			t.Errorf("%s, which compressed entries need, is not among %q", name, files)
		}
	}
}

func TestMissingLibrary(t *testing.T) {
	nstest.Need(t, "/usr/bin/true")
	text, err := os.ReadFile("/usr/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, bytes.ReplaceAll(text, []byte("libc.so.6"), []byte("libX.so.6")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, lacking := Files(program)
	if diff := cmp.Diff([]string{"libX.so.6, which " + program + " needs"}, lacking); diff != "" {
		t.Errorf("lacking (-want +got):\n%s", diff)
	}
	if _, lacking := Files(os.DevNull); len(lacking) != 1 {
		t.Errorf("a file that is not a program: lacking %q", lacking)
	}
}

// The cache is read as ldconfig reads it.
func TestCacheIsReadAsByLdconfig(t *testing.T) {
	nstest.Need(t, "/sbin/ldconfig")
	cache := filepath.Join(t.TempDir(), "cache")
	if out, err := exec.CommandContext(t.Context(), "/sbin/ldconfig", "-X", "-C", cache).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), "/sbin/ldconfig", "-C", cache, "-p").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) \(.*\) => (\S+)$`).FindAllStringSubmatch(string(out), -1) {
		if !slices.Contains(want[m[1]], m[2]) {
			want[m[1]] = append(want[m[1]], m[2])
		}
	}
	if diff := cmp.Diff(want, cached(cache)); diff != "" || len(want) < 5 {
		t.Errorf("%d libraries (-ldconfig +cached):\n%s", len(want), diff)
	}
	if got := cached("/nowhere"); got != nil {
		t.Errorf("without a cache: %v", got)
	}
}

// cacheOf returns a cache with one entry, after a cache of the older format.
func cacheOf(before, name, path string) []byte {
	b := append([]byte("glibc-ld.so.cache1.1"), make([]byte, 28)...)
	binary.NativeEndian.PutUint32(b[20:], 1)
	b = append(b, make([]byte, 24)...)
	binary.NativeEndian.PutUint32(b[52:], 72)
	binary.NativeEndian.PutUint32(b[56:], uint32(72+len(name)+1))
	return append(append([]byte(before), b...), name+"\x00"+path+"\x00"...)
}

func TestCacheBehindAnOlderOne(t *testing.T) {
	want := map[string][]string{"libx.so.1": {"/lib/libx.so.1"}}
	if diff := cmp.Diff(want, parseCache(cacheOf("ld.so-1.7.0\x00\x00\x00\x00\x00", "libx.so.1", "/lib/libx.so.1"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// FuzzCache checks that what is read from a cache is in it, that paths are absolute, and
// that a damaged cache can be read without a panic.
func FuzzCache(f *testing.F) {
	f.Add(cacheOf("", "libx.so.1", "/lib/libx.so.1"))
	f.Add(cacheOf("ld.so-1.7.0", "libx.so.1", "relative"))
	f.Add([]byte("glibc-ld.so.cache1.1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for name, paths := range parseCache(text) {
			for _, p := range paths {
				if !filepath.IsAbs(p) || !bytes.Contains(text, []byte(p)) || !bytes.Contains(text, []byte(name)) {
					t.Errorf("%q at %q is not in the cache", name, p)
				}
			}
		}
	})
}

// note returns an ELF note as systemd's build makes them.
func note(text string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 4)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	b = binary.LittleEndian.AppendUint32(b, 0x407c0c0a)
	b = append(b, "FDO\x00"+text...)
	return append(b, make([]byte, (4-len(text)%4)%4)...)
}

func TestNotesOnWhatIsLoadedLater(t *testing.T) {
	notes := slices.Concat(
		note(`[{"feature":"lz4","description":"Support lz4","priority":"suggested","soname":["liblz4.so.2","liblz4.so.1"]}]`),
		note(`[{"feature":"tpm","description":"Support for TPM","priority":"suggested","soname":["libtss2-esys.so.0"]}]`),
		note("no JSON"),
		note(`[{"feature":"zstd","soname":["libzstd.so.1"]}]`+"\x00"))
	if diff := cmp.Diff([]string{"liblz4.so.2", "liblz4.so.1", "libzstd.so.1"}, dlopens(notes, binary.LittleEndian)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// FuzzNotes checks that the names read from notes are in them, and that damaged notes
// can be read without a panic.
func FuzzNotes(f *testing.F) {
	f.Add(note(`[{"feature":"lz4","soname":["liblz4.so.1"]}]`))
	f.Add(append(note("[]"), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, text []byte) {
		escaped := bytes.ContainsAny(text, "\\\xff") || !utf8.Valid(text) // JSON may then write a name differently
		for _, name := range dlopens(text, binary.LittleEndian) {
			if !escaped && !bytes.Contains(text, []byte(name)) {
				t.Errorf("%q is not in the notes", name)
			}
		}
	})
}
