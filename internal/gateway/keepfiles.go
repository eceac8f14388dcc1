package gateway

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
)

// keepFile is a file that a kind's knocks go by.
type keepFile struct {
	knock.File
	read     bool     // once at least, or tried
	is       string   // what it was when it was read last (stampOf), "" before and where that may have changed since
	hash     [32]byte // of what was fed last; zero for nothing
	problem  string   // why it cannot be used, "" when it can
	warnings []string // about what it has
}

// keepReading is the reading of files in the background, all of them at once: they are
// few. Should a disk not answer, one goroutine waits.
type keepReading struct {
	since time.Time // when the reading under way began, zero for none
	again bool      // another is due after it
	all   bool      // which is to read also what seems unchanged
}

// warning says that a reading takes very long.
func (r *keepReading) warning(now time.Time) []string {
	if took := now.Sub(r.since); !r.since.IsZero() && took >= slowDisk {
		return []string{fmt.Sprintf("the files of the knocks have not been read for %s: what they had before stays in force", took.Round(time.Second))}
	}
	return nil
}

// fileRead is the result of looking at a file.
type fileRead struct {
	keep *keep
	of   *keepFile
	is   string
	hash [32]byte // of the text
	what any      // its digest
	err  error
}

// read reads the file, and has the kind digest it.
func (r *fileRead) read(world *World) {
	text, err := world.KnockFile(r.of.File)
	if r.of.Absent && errors.Is(err, fs.ErrNotExist) {
		text, err = nil, nil
	}
	if r.err = err; err == nil {
		r.hash = sha256.Sum256(text)
		r.what, r.err = r.keep.digest(r.of.File, text)
	}
}

// nameFiles notes which files the rules in use go by, and forgets others.
func (k *keep) nameFiles() {
	old := k.files
	k.files = make(map[string]*keepFile)
	for _, f := range k.of.Files() {
		if k.files[f.Path] = old[f.Path]; old[f.Path] == nil || old[f.Path].File != f {
			k.files[f.Path] = &keepFile{File: f}
		}
	}
}

// filesRead says whether every file was read once, or tried.
func (g *Gateway) filesRead() bool {
	for _, k := range g.keeps {
		for _, f := range k.files {
			if !f.read {
				return false
			}
		}
	}
	return true
}

// readFiles reads the files that have changed, or all of them, in the background.
func (g *Gateway) readFiles(now time.Time, all bool) {
	r := &g.keepReading
	if r.all = r.all || all; !r.since.IsZero() {
		r.again = true
		return
	}
	var looks []fileRead
	for _, k := range g.keeps {
		for _, path := range slices.Sorted(maps.Keys(k.files)) {
			f := k.files[path]
			look := fileRead{keep: k, of: f, is: f.is}
			if r.all || f.problem != "" {
				look.is = ""
			}
			looks = append(looks, look)
		}
	}
	if r.all = false; len(looks) == 0 {
		return
	}
	r.since = now
	g.async(func() event {
		var read []fileRead
		for _, look := range looks {
			if is := g.world.Stamp(look.of.Path); is != look.is || is == "" {
				look.is = is
				look.read(&g.world)
				read = append(read, look)
			}
		}
		return func(now time.Time) { g.filesWereRead(now, read) }
	})
}

// filesWereRead feeds what is new.
func (g *Gateway) filesWereRead(now time.Time, read []fileRead) {
	for _, look := range read {
		if look.keep.files[look.of.Path] == look.of { // else it is no longer gone by
			g.feed(now, look)
		}
	}
	r := &g.keepReading
	if r.since = (time.Time{}); r.again {
		r.again = false
		g.readFiles(now, r.all)
	}
	g.endStrangers(now)
}

// feed hands a file to the knocks that go by it, if it is another than before.
func (g *Gateway) feed(now time.Time, look fileRead) {
	f, before := look.of, look.of.problem
	f.read, f.is, f.problem = true, look.is, ""
	switch {
	case look.err != nil:
		if f.problem = look.err.Error(); f.problem == before {
			return
		}
		const stays = "a file of a knock cannot be used; what it had when it was read last stays in force"
		g.log.Error(stays, "kind", look.keep.kind, "file", f.Path, "err", look.err)
		g.record(now, audit.EventError, "", stays+": "+f.problem)
	case before == "" && look.hash == f.hash:
		return
	default:
		f.hash = look.hash
		if before != "" {
			g.log.Info("a file of a knock can be used again", "kind", look.keep.kind, "file", f.Path)
		}
	}
	c := look.keep.of.Feed(now, f.Path, look.what, look.err)
	f.warnings = c.Warnings
	g.carryOut(now, look.keep, control.Caller{}, c, nil)
}

// fileWarnings returns what operators should know about files.
func (k *keep) fileWarnings() (all []string) {
	for _, path := range slices.Sorted(maps.Keys(k.files)) {
		f := k.files[path]
		if f.problem != "" {
			all = append(all, fmt.Sprintf("%s knocks: %s; what the file had when it was read last stays in force", k.kind, f.problem))
		}
		all = append(all, f.warnings...)
	}
	return all
}

// readKnockFile reads a file that a kind's knocks go by.
func readKnockFile(f knock.File) ([]byte, error) {
	if f.Secret {
		return files.ReadSecret(f.Path, knock.MaxFile)
	}
	return files.Read(f.Path, knock.MaxFile)
}

// settled is how long after a change a second one cannot be mistaken for it: clocks of
// file systems tick as coarsely as that (FAT: every 2 s).
const settled = 2 * time.Second

// stampOf says what a file is, in words that differ when it has changed; "" if it was
// changed so lately that another change may not show.
func stampOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	changed := time.Unix(s.Ctim.Unix())
	if time.Since(changed) < settled {
		return ""
	}
	return fmt.Sprint(s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim, s.Uid, s.Mode&uint32(fs.ModePerm))
}
