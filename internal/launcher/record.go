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

// maxRecorded is how many specs are remembered: those of some configurations.
const maxRecorded = 256

// record is the file of what the configuration file says or has said, the latest
// first. A daemon may have to start with the configuration before, which it
// takes out of its store; but a daemon that was taken over can write its store,
// and would have the next one ask for whatever it likes. This file it can not
// write, since it is locked in and the launcher is not.
type record struct {
	path  string
	specs []Spec
}

// open reads the record; there is none at first.
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

// add puts specs to the front, and writes the record if that changes it.
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

// replace writes a file that is whole at every moment.
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
