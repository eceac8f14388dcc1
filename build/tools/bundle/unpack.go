//go:build linux

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// unpack writes an image's files below root, with their owners, modes and
// capabilities, which takes root.
func unpack(image v1.Image, root string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	files := mutate.Extract(image)
	defer files.Close()
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%q leads out of the image", h.Name)
		}
		if err := place(filepath.Join(root, h.Name), h, r); err != nil {
			return err
		}
	}
}

// place writes one file or directory. The owner comes first: a change of it takes a
// file's capabilities away, chown(2).
func place(path string, h *tar.Header, text io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	case tar.TypeReg:
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, text); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%q is neither a file nor a directory", h.Name)
	}
	if err := os.Chown(path, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := os.Chmod(path, h.FileInfo().Mode()); err != nil {
		return err
	}
	for record, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(record, "SCHILY.xattr."); ok {
			if err := syscall.Setxattr(path, name, []byte(value), 0); err != nil {
				return fmt.Errorf("%s of %q: %w", name, path, err)
			}
		}
	}
	return nil
}

// volume makes a volume as engines do when it is mounted for the first time: like the
// image's directory.
func volume(like, path string) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%q: %w", like, fs.ErrInvalid)
	}
	if err := os.Mkdir(path, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}
