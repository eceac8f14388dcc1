//go:build linux

package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// maxRecorded is how many specs are remembered, enough for several configurations.
const maxRecorded = 256

// record is a file of the specs that the configuration file has or has had, the latest
// first. A daemon may have to start with its previous configuration, which it reads from
// its store; but a daemon that was taken over can write to the store, and so could make
// the next one ask for anything. It cannot write to this file, since it is sandboxed and
// the launcher is not.
type record struct {
	path  string
	specs []Spec
}

// open reads the record. At first there is none.
func (r *record) open() error {
	text, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what could be run before: %w", err)
	}
	if err := json.Unmarshal(text, &r.specs); err != nil {
		return fmt.Errorf("read what could be run before: %q: %w", r.path, err)
	}
	return nil
}

// add moves specs to the front, and writes the record if that changes it.
func (r *record) add(specs []Spec) error {
	all := slices.Clone(specs)
	for _, s := range r.specs {
		if !slices.ContainsFunc(specs, func(new Spec) bool { return new.key() == s.key() }) {
			all = append(all, s)
		}
	}
	all = all[:min(len(all), max(maxRecorded, len(specs)))]
	if slices.EqualFunc(all, r.specs, func(a, b Spec) bool { return a.key() == b.key() }) {
		return nil
	}
	r.specs = all
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := replace(r.path, text); err != nil {
		return fmt.Errorf("remember what may be run: %w", err)
	}
	return nil
}

// replace writes a file such that it is complete at every moment.
func replace(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
