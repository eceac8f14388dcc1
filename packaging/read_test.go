//go:build linux

package packaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pkg is what a package brings.
type pkg struct {
	path  string
	files map[string]file
}

// file is a file or directory of a package.
type file struct {
	dir  bool
	mode string // as "644 root:root"
	text []byte
}

func (f file) String() string { return fmt.Sprintf("%s %x", f.mode, sha256.Sum256(f.text)) }

func octal(mode fs.FileMode) string { return fmt.Sprintf("%o", mode.Perm()) }

// without is the package without files that only its distribution has. Of one that
// it has not it keeps the mark, so that the comparison shows it.
func (p pkg) without(mark string, paths ...string) pkg {
	all := maps.Clone(p.files)
	for _, path := range paths {
		if _, ok := all[path]; !ok {
			all[path+" of "+mark+" is missing"] = file{}
		}
		delete(all, path)
	}
	return pkg{path: p.path, files: all}
}

// moved is the package with a file elsewhere.
func (p pkg) moved(from, to string) pkg {
	all := maps.Clone(p.files)
	f, ok := all[from]
	if ok {
		delete(all, from)
		all[to] = f
	}
	return pkg{path: p.path, files: all}
}

// compare compares the files of two packages; of directories only what is doorward's.
func compare(t *testing.T, name, a string, first pkg, b string, second pkg) {
	t.Helper()
	lines := func(p pkg) map[string]string {
		all := map[string]string{}
		for path, f := range p.files {
			if !f.dir || path == "/etc/doorward" {
				all[path] = f.String()
			}
		}
		return all
	}
	if diff := cmp.Diff(lines(first), lines(second)); diff != "" {
		t.Errorf("%s: %s and %s are not the same (-%s +%s):\n%s", name, a, b, a, b, diff)
	}
}

// readTar reads the files of a tar archive.
func readTar(t *testing.T, path string, r io.Reader) pkg {
	t.Helper()
	p := pkg{path: path, files: map[string]file{}}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return p
		}
		text, readErr := io.ReadAll(archive)
		if err := errors.Join(err, readErr); err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
		name := filepath.Join("/", h.Name)
		if strings.HasPrefix(name, "/.") || name == "/" {
			continue // what an .apk says of itself
		}
		p.files[name] = file{dir: h.Typeflag == tar.TypeDir, text: text,
			mode: fmt.Sprintf("%o %s:%s", h.Mode&0o7777, h.Uname, h.Gname)}
	}
}

func readDeb(t *testing.T, path string) pkg {
	t.Helper()
	return readTar(t, path, strings.NewReader(output(t, "dpkg-deb", "--fsys-tarfile", path)))
}

// readAPK reads an .apk: tar archives one after the other, each compressed with gzip,
// of which only the last has an end (wiki.alpinelinux.org/wiki/Apk_spec).
func readAPK(t *testing.T, path string) pkg {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return readTar(t, path, r)
}

// readRPM has rpm install a package into an empty tree, without its scripts, and say
// what it has.
func readRPM(t *testing.T, path string) pkg {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"passwd": "root:x:0:0::/:/bin/sh\n", "group": "root:x:0:\ndoorward:x:999:\n"} {
		if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+"/etc/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	output(t, "rpm", "--root", root, "--install", "--nodeps", "--noscripts", path)
	p := pkg{path: path, files: map[string]file{}}
	list := output(t, "rpm", "--query", "--package", "--queryformat",
		`[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags}-\n]`, path)
	for line := range strings.Lines(list) {
		var name, mode, owner, flags string
		if _, err := fmt.Sscan(line, &name, &mode, &owner, &flags); err != nil {
			t.Fatalf("rpm says of a file of %s: %q", path, line)
		}
		f := file{dir: strings.HasPrefix(strings.TrimLeft(mode, "0"), "40"), mode: strings.TrimLeft(mode[len(mode)-4:], "0") + " " + owner}
		if !f.dir {
			text, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			f.text = text
		}
		// What an administrator has changed is kept in an upgrade.
		if kept := flags == "cn-"; kept != strings.HasPrefix(name, "/etc/doorward/") {
			t.Errorf("rpm has flags %q for %s", flags, name)
		}
		p.files[name] = f
	}
	return p
}

// readTree reads the files below a directory, as if they were root's.
func readTree(t *testing.T, root string) pkg {
	t.Helper()
	p := pkg{path: root, files: map[string]file{}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		p.files[strings.TrimPrefix(path, root)] = file{mode: octal(info.Mode()) + " root:root", text: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func gunzip(t *testing.T, text []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// unzipped is the path of a copy of a package's compressed file.
func unzipped(t *testing.T, p pkg, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(to, gunzip(t, p.files[path].text), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
