//go:build linux

package presence

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

const (
	// localtime is the machine's time zone, localtime(5).
	localtime = "/etc/localtime"
	// maxZone limits the size of a tzfile(5), of which the largest have a few KB.
	maxZone = 1 << 20
	// farOff is how far a clock is off that was not set.
	farOff = time.Hour
	// manyBeyond is how many timestamps far beyond now are not a coincidence.
	manyBeyond = 3
)

// born is before any moment at which this program could run.
var born = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// unset says, for people, that the clock was not set, "" if it may be right.
func unset(now time.Time) string {
	if !now.Before(born) {
		return ""
	}
	return fmt.Sprintf("the clock was not set: it says %s, so the age of a login is unknown; set it (`timedatectl`), "+
		"and start doorward after time-sync.target", now.Format(time.DateOnly))
}

// zone is the machine's time zone as it is now, as localtime(3) follows it. Go
// reads it once, when a process starts.
type zone struct {
	path string
	of   zoneID
	loc  *time.Location // nil before the first look
	odd  []string       // why it is not that of the file
}

// zoneID is a file with a time zone, whether it is a link or not.
type zoneID struct {
	link     string
	file     fileID
	size     int64
	modified syscall.Timespec
}

// in returns t in the zone, and oddities about that, for people. A clock with a zone of
// its own keeps it, and so does a process with one (TZ, tzset(3)).
func (z *zone) in(t time.Time) (time.Time, []string) {
	if _, set := os.LookupEnv("TZ"); set || t.Location() != time.Local {
		return t, nil
	}
	if of := z.now(); z.loc == nil || of != z.of {
		z.of = of
		z.load()
	}
	return t.In(z.loc), z.odd
}

func (z *zone) now() (of zoneID) {
	of.link, _ = os.Readlink(z.path) // no link if it is a file
	var st syscall.Stat_t
	if err := syscall.Stat(z.path, &st); err != nil {
		return of
	}
	of.file, of.size, of.modified = fileID{uint64(st.Dev), st.Ino}, st.Size, st.Mtim
	return of
}

// load reads the zone. If it cannot be read, the previous one stays.
func (z *zone) load() {
	loc, err := readZone(z.path)
	if err == nil {
		z.loc, z.odd = loc, nil
		return
	}
	if z.loc == nil {
		z.loc = time.Local
	}
	z.odd = []string{fmt.Sprintf("the time zone cannot be read, so logins are read with the previous one: %v; "+
		"`systemctl restart doorward` reads it again", plain(err))}
}

// readZone reads a time zone; one that is not there is UTC, as tzset(3) has it.
func readZone(path string) (*time.Location, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return time.UTC, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxZone))
	if err != nil {
		return nil, err
	}
	loc, err := time.LoadLocationFromTZData(path, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return loc, nil
}

const (
	// quarter is what the offsets of time zones are multiples of.
	quarter = 15 * time.Minute
	// freshSpan is how long ago the previous check may be, for a line that was written
	// since then to show the offset of its writer's clock.
	freshSpan = 2 * time.Minute
	// freshSlack is how long lines are held before they are written, and how much
	// clocks differ.
	freshSlack = 30 * time.Second
	// freshKept, freshPerLook and freshNeeded are how many lines are compared, how many
	// in one check, and how many must agree, so that neither a single line nor those of
	// another host decide.
	freshKept    = 16
	freshPerLook = 3
	freshNeeded  = 8
)

// fresh compares the stamps of lines that were just written with the clock.
type fresh struct {
	since, now time.Time // the look before, and this one
	taken      int       // lines in this look
	kept       []int     // how many quarters the latest lines are off
}

// look begins a look.
func (f *fresh) look(now time.Time) {
	f.since, f.now, f.taken = f.now, now, 0
}

// line looks at a line that was written since the look before.
func (f *fresh) line(line []byte, now time.Time) {
	if f.taken == freshPerLook || f.since.IsZero() || now.Sub(f.since) > freshSpan || now.Before(f.since) {
		return
	}
	t, _, ok := cutStamp(string(line[:min(len(line), 64)]), now)
	if !ok || !t.yearless {
		return
	}
	f.taken++
	// A timestamp that is off by some quarters is that far from the middle of the time
	// between the checks, give or take half of that time.
	between := f.since.Add(now.Sub(f.since) / 2)
	off := t.Sub(between).Round(quarter)
	if t.Sub(between.Add(off)).Abs() > now.Sub(f.since)/2+freshSlack {
		return // not by quarters: an odd clock, but not a zone
	}
	f.kept = append(f.kept, int(off/quarter))
	f.kept = f.kept[max(0, len(f.kept)-freshKept):]
}

// warning says that lines regularly have timestamps of another zone, "" if not.
func (f *fresh) warning() string {
	off, n := 0, 0
	times := map[int]int{}
	for _, k := range f.kept {
		if times[k]++; times[k] > n {
			off, n = k, times[k]
		}
	}
	if off == 0 || n < freshNeeded || 4*n < 3*len(f.kept) {
		return ""
	}
	by, which := time.Duration(off)*quarter, "ahead of"
	if off < 0 {
		by, which = -by, "behind"
	}
	return fmt.Sprintf("its lines are stamped %s %s the clock, so logins look too old or too new: the syslog daemon still uses "+
		"the previous time zone; restart it (`systemctl restart rsyslog`)", shortDuration(by), which)
}

// shortDuration is "5h30m" for 5h30m0s.
func shortDuration(d time.Duration) string {
	if m := int(d/time.Minute) % 60; m != 0 {
		return fmt.Sprintf("%dh%02dm", int(d/time.Hour), m)
	}
	return fmt.Sprintf("%dh", int(d/time.Hour))
}
