package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// elfFile is the smallest ELF file, with an interpreter if it is to be dynamic.
func elfFile(t *testing.T, dynamic bool, rest string) []byte {
	t.Helper()
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var interpreter []elf.Prog64
	if dynamic {
		h.Phoff, h.Phentsize, h.Phnum = 64, 56, 1
		interpreter = []elf.Prog64{{Type: uint32(elf.PT_INTERP)}}
	}
	var b bytes.Buffer
	for _, part := range []any{h, interpreter, []byte(rest)} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// programs writes a directory with the two programs.
func programs(t *testing.T, daemon, command []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string][]byte{"doorwardd": daemon, "doorward": command} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// testOptions are those of an image in a directory that does not exist.
func testOptions(t *testing.T) options {
	t.Helper()
	licenses := t.TempDir()
	if err := os.WriteFile(filepath.Join(licenses, "LICENSE"), []byte("as is"), 0o644); err != nil {
		t.Fatal(err)
	}
	return options{dir: filepath.Join(t.TempDir(), "image"), version: "1.2.3+git1", licenses: licenses, when: time.Unix(1700000000, 0).UTC()}
}

// files are the names and contents of a directory's files.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, p))
		all[p] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The same programs give the same bytes, whenever and wherever they are packed.
func TestReproducible(t *testing.T) {
	daemon, command := elfFile(t, false, "daemon"), elfFile(t, false, "command")
	var all [2]map[string]string
	for i := range all {
		o := testOptions(t)
		dir := programs(t, daemon, command)
		if err := write(o, []string{"linux/amd64=" + dir, "linux/arm/v7=" + dir}); err != nil {
			t.Fatal(err)
		}
		all[i] = files(t, o.dir)
	}
	if d := cmp.Diff(all[0], all[1]); d != "" {
		t.Errorf("two images of the same programs (-first +second):\n%s", d)
	}
}

// images are the images of a layout by their platforms.
func images(t *testing.T, dir string) map[string]v1.Image {
	t.Helper()
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(manifest.Manifests); n != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.2.3-git1" {
		t.Fatalf("the layout has %d images, want one, called 1.2.3-git1: %+v", n, manifest)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("the index is not valid: %v", err)
	}
	inner, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]v1.Image{}
	for _, m := range inner.Manifests {
		if m.ArtifactType != "" || m.MediaType != types.OCIManifestSchema1 {
			t.Errorf("the index calls the image for %s a %s of type %q", m.Platform, m.MediaType, m.ArtifactType)
		}
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		all[m.Platform.String()] = image
	}
	return all
}

// Nothing is in the image but what is listed here: no shell, no library, nothing that
// anybody but root could change, save for the daemon's own directories.
func TestContent(t *testing.T) {
	o := testOptions(t)
	dir := programs(t, elfFile(t, false, "daemon"), elfFile(t, false, "command"))
	if err := write(o, []string{"linux/amd64=" + dir, "linux/arm/v7=" + dir}); err != nil {
		t.Fatal(err)
	}
	all := images(t, o.dir)
	if len(all) != 2 || all["linux/amd64"] == nil || all["linux/arm/v7"] == nil {
		t.Fatalf("the image is for %v", all)
	}
	config, err := all["linux/arm/v7"].ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(config.OS, "/", config.Architecture, "/", config.Variant, " ", config.Config.User, " ", config.Config.Cmd); got !=
		"linux/arm/v7 60722:60722 [/usr/sbin/doorwardd]" {
		t.Errorf("it is for, runs as, and runs: %s", got)
	}
	stream := mutate.Extract(all["linux/amd64"])
	defer stream.Close()
	var got []string
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d:%d %s %x", h.FileInfo().Mode(), h.Uid, h.Gid, h.Name,
			h.PAXRecords["SCHILY.xattr.security.capability"]))
		if !h.ModTime.Equal(o.when) {
			t.Errorf("%s is of %s, want %s", h.Name, h.ModTime, o.when)
		}
	}
	want := []string{
		"drwxr-xr-x 0:0 etc ",
		"drwxr-x--- 0:60722 etc/doorward ",
		"-rw-r--r-- 0:0 etc/group ",
		"-rw-r--r-- 0:0 etc/passwd ",
		"drwxr-xr-x 0:0 run ",
		"drwxr-x--- 60722:60722 run/doorward ",
		"drwxr-xr-x 0:0 usr ",
		"drwxr-xr-x 0:0 usr/bin ",
		"-rwxr-xr-x 0:0 usr/bin/doorward ",
		"drwxr-xr-x 0:0 usr/sbin ",
		// cap_net_bind_service,cap_net_admin=ep, as setcap(8) writes it.
		"-rwxr-xr-x 0:0 usr/sbin/doorwardd 0100000200140000000000000000000000000000",
		"drwxr-xr-x 0:0 var ",
		"drwxr-xr-x 0:0 var/lib ",
		"drwx------ 60722:60722 var/lib/doorward ",
		"drwxr-xr-x 0:0 var/log ",
		"drwxr-xr-x 0:0 usr/share ",
		"drwxr-xr-x 0:0 usr/share/licenses ",
		"drwxr-xr-x 0:0 usr/share/licenses/doorward ",
		"-rw-r--r-- 0:0 usr/share/licenses/doorward/LICENSE ",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files of the image (-want +got):\n%s", d)
	}
}

func TestMistakes(t *testing.T) {
	static := elfFile(t, false, "")
	for _, tt := range []struct {
		name, platform, want string
		daemon               []byte
		before               func(o *options)
	}{
		{"a dynamic program", "linux/amd64", "doorwardd is linked dynamically: build it with CGO_ENABLED=0", elfFile(t, true, ""), nil},
		{"no program", "linux/amd64", "bad magic number", []byte("#!/bin/sh\nthe daemon, later"), nil},
		{"a platform with too many parts", "linux/arm/v7/x", "platform \"linux/arm/v7/x\": ", static, nil},
		{"a directory that exists", "linux/amd64", "exists: remove it, or name another directory", static,
			func(o *options) { o.dir = filepath.Dir(o.dir) }},
		{"no licences", "linux/amd64", "licences: no such file or directory", static, func(o *options) { o.licenses = o.dir + "/licences" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := testOptions(t)
			if tt.before != nil {
				tt.before(&o)
			}
			err := write(o, []string{tt.platform + "=" + programs(t, tt.daemon, static)})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if err := write(testOptions(t), []string{"linux/amd64"}); err == nil || !strings.Contains(err.Error(), "want PLATFORM=PROGRAMS") {
		t.Errorf("got %v for an argument without programs", err)
	}
}
