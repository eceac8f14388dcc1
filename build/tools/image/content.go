package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// daemonID is the daemon's user and group in the image. It lies in a range that
// systemd gives to nobody (60578 to 61183, systemd.io/UIDS-GIDS), so that no user of
// the machine, and no other container that runs as the customary 65532, has the
// daemon's files.
const daemonID = 60722

// entry is one file or directory of the image. Those of nobody in particular are
// root's.
type entry struct {
	path         string // a directory's ends in a slash
	mode         int64
	owner, group int
	text         []byte
	capabilities []byte // the extended attribute security.capability, nil for none
}

// content is all that is in the image but the licences.
func content(daemon, command []byte) []entry {
	const id = daemonID
	users := fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\ndoorward:x:%d:%d:doorward:/var/lib/doorward:/sbin/nologin\n", id, id)
	groups := fmt.Sprintf("root:x:0:\nadm:x:4:\ndoorward:x:%d:\n", id)
	return []entry{
		{path: "etc/", mode: 0o755},
		{path: "etc/doorward/", mode: 0o750, group: id},
		{path: "etc/group", mode: 0o644, text: []byte(groups)},
		{path: "etc/passwd", mode: 0o644, text: []byte(users)},
		{path: "run/", mode: 0o755},
		{path: "run/doorward/", mode: 0o750, owner: id, group: id},
		{path: "usr/", mode: 0o755},
		{path: "usr/bin/", mode: 0o755},
		{path: "usr/bin/doorward", mode: 0o755, text: command},
		{path: "usr/sbin/", mode: 0o755},
		{path: "usr/sbin/doorwardd", mode: 0o755, text: daemon, capabilities: capabilities(capNetBindService, capNetAdmin)},
		{path: "var/", mode: 0o755},
		{path: "var/lib/", mode: 0o755},
		// A volume that is mounted here for the first time is made like this.
		{path: "var/lib/doorward/", mode: 0o700, owner: id, group: id},
		{path: "var/log/", mode: 0o755},
	}
}

// licenses are the entries for a directory's files.
func licenses(dir string) ([]entry, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	const to = "usr/share/licenses/doorward/"
	all := []entry{{path: "usr/share/", mode: 0o755}, {path: "usr/share/licenses/", mode: 0o755}, {path: to, mode: 0o755}}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, entry{path: to + f.Name(), mode: 0o644, text: text})
	}
	return all, nil
}

// Capabilities' numbers, linux/capability.h.
const (
	capNetBindService = 10
	capNetAdmin       = 12
)

// capabilities is the value of security.capability that makes these permitted and
// effective: struct vfs_cap_data of linux/capability.h in revision 2.
func capabilities(all ...uint) []byte {
	const revision2, effective = 0x02000000, 0x000001
	var permitted uint64
	for _, c := range all {
		permitted |= 1 << c
	}
	b := binary.LittleEndian.AppendUint32(nil, revision2|effective)
	b = binary.LittleEndian.AppendUint32(b, uint32(permitted))
	b = binary.LittleEndian.AppendUint32(b, 0) // inheritable
	b = binary.LittleEndian.AppendUint32(b, uint32(permitted>>32))
	return binary.LittleEndian.AppendUint32(b, 0)
}

// pack makes the layer. Extended attributes are PAX records of the kind SCHILY.xattr,
// as the OCI image specification has them.
func pack(entries []entry, when time.Time) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.path, Mode: e.mode, Uid: e.owner, Gid: e.group, Size: int64(len(e.text)),
			ModTime: when, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if e.path[len(e.path)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if e.capabilities != nil {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(e.capabilities)}
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// isStatic says whether a program is an ELF file that needs no interpreter.
func isStatic(program []byte) (bool, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return false, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}
