//go:build linux

package presence

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxRotations is how many older files belong to a log that is named alone, as in the
// article: "or .1 to .4 if the earlier is empty".
const maxRotations = 4

// places returns the files to look at, newest first: the list as it is, or a
// single log and its rotations.
func places(paths []string) []string {
	if len(paths) != 1 {
		return paths
	}
	older, _ := rotations(paths[0])
	return append([]string{paths[0]}, older...)
}

// isRotated says whether, going by its name, nobody writes the file at path any more: it
// is a rotation of the first of the list.
func isRotated(paths []string, path string) bool {
	if len(paths) == 0 {
		return false
	}
	suffix, ok := strings.CutPrefix(path, paths[0])
	if !ok {
		return false
	}
	_, ok = parseRotation(suffix)
	return ok
}

// rotations lists the older files of a log beside it, newest first, up to maxRotations:
// log.0 or log.1, log.2.gz, or with dates log-20261122, log-20261115.gz. Of a file that
// is there plain and compressed, because it is just being compressed, only the plain one
// is listed. Over are those that also seem to be rotations but are not read, since it is
// not known which is newer, or by which program they were compressed.
func rotations(path string) (names, over []string) {
	// Without permission to list the directory, the log itself still counts.
	entries, _ := os.ReadDir(filepath.Dir(path))
	type old struct {
		name string
		rotation
	}
	var all []old
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok {
			continue
		}
		name := filepath.Join(filepath.Dir(path), e.Name())
		if r, ok := parseRotation(suffix); ok {
			all = append(all, old{name, r})
		} else if unknownRotation.MatchString(suffix) {
			over = append(over, name)
		}
	}
	slices.SortFunc(all, func(a, b old) int {
		return cmp.Or(a.rotation.compare(b.rotation), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	all = slices.CompactFunc(all, func(a, b old) bool { return plainName(a.name) == plainName(b.name) })
	for _, o := range all[:min(len(all), maxRotations)] {
		names = append(names, o.name)
	}
	return names, over
}

// rotation is when a file was rotated, as its name says: counted from now, or a
// date.
type rotation struct {
	number int    // as in log.1
	date   string // digits from the year on, "" for none
}

// compare orders later ones first. Numbers come before dates: if there are both, the
// scheme has changed one way or the other, and in any case the timestamps decide.
func (r rotation) compare(other rotation) int {
	if (r.date == "") != (other.date == "") {
		return cmp.Compare(len(r.date), len(other.date))
	}
	return cmp.Or(cmp.Compare(r.number, other.number), cmp.Compare(other.date, r.date))
}

var (
	// numbered are ".1" of logrotate and ".0" of busybox syslogd, sysklogd and
	// savelog.
	numbered = regexp.MustCompile(`^\.(0|[1-9][0-9]{0,2})$`)
	// dated are logrotate's dateext and dateformat, year first: day, hour, minute
	// and second with or without something between, and perhaps %s behind.
	dated = regexp.MustCompile(`^[-._](20\d\d)([-._]?)(\d\d)([-._]?)(\d\d)(?:[-._T]?(\d\d)(?:[-._:]?(\d\d)(?:[-._:]?(\d\d))?)?)?(?:[-._](\d{10}))?$`)
	// stamped is %s alone.
	stamped = regexp.MustCompile(`^[-._](\d{10})$`)
	// unknownRotation matches names that rotations might have: beginning with a number,
	// or "old".
	unknownRotation = regexp.MustCompile(`^[-._](?:\d+(?:[-._:T]\w+)*|old(?:\.\w+)?)$`)
)

// parseRotation reads what follows a log's name in that of a rotation.
func parseRotation(suffix string) (rotation, bool) {
	suffix = plainName(suffix)
	if m := numbered.FindStringSubmatch(suffix); m != nil {
		n, err := strconv.Atoi(m[1])
		return rotation{number: n}, err == nil
	}
	if m := dated.FindStringSubmatch(suffix); m != nil && m[2] == m[4] {
		day := m[1] + m[3] + m[5]
		date := (day + m[6] + m[7] + m[8] + "000000")[:len("20060102150405")]
		_, err := time.Parse("20060102150405", date)
		return rotation{date: date + m[9]}, err == nil
	}
	if m := stamped.FindStringSubmatch(suffix); m != nil {
		n, err := strconv.ParseInt(m[1], 10, 64)
		return rotation{date: time.Unix(n, 0).UTC().Format("20060102150405")}, err == nil
	}
	return rotation{}, false
}
