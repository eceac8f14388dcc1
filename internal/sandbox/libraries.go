//go:build linux

package sandbox

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cacheFile is ld.so's, ld.so(8); preloadFile names libraries that all programs load.
const (
	cacheFile   = "/etc/ld.so.cache"
	preloadFile = "/etc/ld.so.preload"
)

// libraryDirs are where libraries are found without the cache: ld.so(8), and Debian's
// multiarch directories.
var libraryDirs = [...]string{"/lib64", "/usr/lib64", "/lib", "/usr/lib", "/lib/*-linux-gnu*", "/usr/lib/*-linux-gnu*"}

// Files returns the files that a program needs to start: itself, its interpreter, its
// libraries and theirs, those that systemd's programs load when an entry of the journal
// needs them (dlopen(3)), and those of ld.so itself. They are files, not directories,
// since the interpreter runs any program that it can read, and there are programs among
// the libraries (/usr/lib/git-core). If a library exists in several forms, among which
// the interpreter chooses by the type of processor, all of them are returned. Lacking
// are the libraries that the program needs and that were not found.
func Files(program string) (files, lacking []string) {
	main, err := elf.Open(program)
	if err != nil {
		return nil, []string{err.Error()}
	}
	defer main.Close()
	l := &linker{machine: main.Machine, class: main.Class, dirs: make(map[string]bool), cached: cached(cacheFile),
		found: map[string]bool{program: true, cacheFile: true, preloadFile: true}}
	l.interpreter = interpreter(main)
	if l.interpreter != "" {
		l.found[l.interpreter] = true
	}
	l.load(program, main)
	preloads, _ := os.ReadFile(preloadFile) // there is none, usually
	for _, name := range strings.FieldsFunc(string(preloads), func(r rune) bool { return strings.ContainsRune(" \t\n:", r) }) {
		l.want(name)
	}
	return slices.Sorted(maps.Keys(l.found)), l.lacking
}

// interpreter returns the ELF interpreter that a program names (elf(5), PT_INTERP), or
// "" if there is none. A policy must let it be executed, too, since the kernel opens it
// for execution (load_elf_binary in fs/binfmt_elf.c), which Landlock checks.
func interpreter(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > unix.PathMax {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return ""
		}
		return string(bytes.TrimRight(name, "\x00"))
	}
	return ""
}

// linker looks for libraries as ld.so(8) does. For a name it may find more files than
// ld.so would load, but never fewer.
type linker struct {
	machine     elf.Machine
	class       elf.Class
	interpreter string
	dirs        map[string]bool     // of all RPATHs and RUNPATHs
	cached      map[string][]string // paths, by name
	found       map[string]bool
	lacking     []string
	asked       []string // names that were looked for
}

// load looks for what a program or library needs.
func (l *linker) load(path string, f *elf.File) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, _ := f.DynString(tag) // none in a static program
		for _, p := range paths {
			for dir := range strings.SplitSeq(p, ":") {
				dir = strings.NewReplacer("$ORIGIN", filepath.Dir(path), "${ORIGIN}", filepath.Dir(path)).Replace(dir)
				if filepath.IsAbs(dir) {
					l.dirs[dir] = true
				}
			}
		}
	}
	needed, _ := f.ImportedLibraries()
	for _, name := range needed {
		if !l.want(name) {
			l.lacking = append(l.lacking, fmt.Sprintf("%s, which %s needs", name, path))
		}
	}
	for _, name := range loadsLater(f) {
		l.want(name) // the program works without it
	}
}

// want looks for a library and for what that needs, and reports whether it was found.
func (l *linker) want(name string) bool {
	if slices.Contains(l.asked, name) || name == filepath.Base(l.interpreter) {
		return true
	}
	l.asked = append(l.asked, name)
	ok := false
	for _, path := range l.candidates(name) {
		ok = l.take(path) || ok
	}
	return ok
}

// candidates returns the paths at which a library may be.
func (l *linker) candidates(name string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var paths []string
	for _, dir := range slices.Concat(slices.Sorted(maps.Keys(l.dirs)), libraryDirs[:]) {
		for _, pattern := range []string{dir, filepath.Join(dir, "glibc-hwcaps", "*")} {
			matches, _ := filepath.Glob(filepath.Join(pattern, name)) // the only error is a bad pattern
			paths = append(paths, matches...)
		}
	}
	return append(paths, l.cached[name]...)
}

// take adds a file, and what it needs, if it is a library for this machine.
func (l *linker) take(path string) bool {
	if l.found[path] {
		return true
	}
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	if f.Type != elf.ET_DYN || f.Machine != l.machine || f.Class != l.class {
		return false
	}
	l.found[path] = true
	l.load(path, f)
	return true
}

// later are the libraries that a reader of the journal may load when it finds compressed
// or sealed entries, or has to match a pattern.
var later = [...]string{"liblz4.so.1", "liblzma.so.5", "libzstd.so.1", "libgcrypt.so.20", "libpcre2-8.so.0"}

// features are the names of the same libraries in ELF notes on dlopen
// (https://uapi-group.org/specifications/specs/elf_dlopen_metadata/). Libraries that are
// not for journals, such as those for TPMs and USB keys, are not needed.
var features = [...]string{"lz4", "lzma", "xz", "zstd", "gcrypt", "pcre2"}

// loadsLater returns the names of libraries that a program or library of systemd loads
// when it needs them to read journals.
func loadsLater(f *elf.File) []string {
	names, _ := f.ImportedLibraries()
	ours := slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "libsystemd") })
	if !ours && f.Section(".note.dlopen") == nil {
		return nil
	}
	names = slices.Clone(later[:])
	if s := f.Section(".note.dlopen"); s != nil {
		if notes, err := s.Data(); err == nil {
			names = append(names, dlopens(notes, f.ByteOrder)...)
		}
	}
	return names
}

// dlopens reads a section of ELF notes, elf(5): the lengths of name and text, and a
// type, 4 bytes each; then name and text, each padded to a multiple of 4 bytes.
func dlopens(notes []byte, order binary.ByteOrder) (names []string) {
	pad := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		name, text := order.Uint32(notes), order.Uint32(notes[4:])
		begin, end := 12+pad(name), 12+pad(name)+uint64(text)
		if end > uint64(len(notes)) {
			return names
		}
		var wanted []struct {
			Feature string
			Soname  []string
		}
		if json.Unmarshal(bytes.TrimRight(notes[begin:end], "\x00"), &wanted) == nil {
			for _, w := range wanted {
				if slices.Contains(features[:], w.Feature) {
					names = append(names, w.Soname...)
				}
			}
		}
		notes = notes[min(uint64(len(notes)), begin+pad(text)):]
	}
	return names
}

// cached reads ld.so's cache, which has the paths of libraries by name.
func cached(path string) map[string][]string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // ld.so does not need it either
	}
	return parseCache(text)
}

// parseCache reads the format of glibc 2.2 and later, sysdeps/generic/dl-cache.h: a
// header of 48 bytes with the number of entries at 20, and entries of 24 bytes with the
// offsets of name and path at 4 and 8. Before glibc 2.32, a cache of an older format may
// precede it; offsets are then counted from the end of that.
func parseCache(text []byte) map[string][]string {
	const magic, header, entry = "glibc-ld.so.cache1.1", 48, 24
	begin := bytes.Index(text, []byte(magic))
	if begin < 0 || len(text)-begin < header {
		return nil
	}
	text = text[begin:]
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(text[at:]) }
	at := func(offset uint32) string {
		if uint64(offset) >= uint64(len(text)) {
			return ""
		}
		s, _, _ := bytes.Cut(text[offset:min(len(text), int(offset)+unix.PathMax)], []byte{0})
		return string(s)
	}
	all := make(map[string][]string)
	for i := range int(min(word(20), uint32((len(text)-header)/entry))) {
		name, path := at(word(header+i*entry+4)), at(word(header+i*entry+8))
		if filepath.IsAbs(path) && !slices.Contains(all[name], path) {
			all[name] = append(all[name], path)
		}
	}
	return all
}
