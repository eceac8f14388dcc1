//go:build linux

package presence

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxRotations is how many older files stand behind a log that is named alone,
// as in the article: "or .1 to .4 if the earlier is empty".
const maxRotations = 4

// places returns the files to look at, newest first: the list as it is, or a
// single log and its rotations.
func places(paths []string) []string {
	if len(paths) != 1 {
		return paths
	}
	return append([]string{paths[0]}, rotations(paths[0])...)
}

// rotations lists the older files of a log beside it, newest first, as
// logrotate names them: log.1, log.2.gz, or with dateext log-20261122,
// log-20261115.gz. Of a file that is there plain and compressed, because it is
// just being compressed, only the plain one is listed.
func rotations(path string) []string {
	// Without leave to list the directory the log itself still says all.
	entries, _ := os.ReadDir(filepath.Dir(path))
	type old struct {
		name   string
		number int // as in log.1; a date's is negative, so that later comes first
	}
	var all []old
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok {
			continue
		}
		if n, ok := rotation(strings.TrimSuffix(suffix, ".gz")); ok {
			all = append(all, old{filepath.Join(filepath.Dir(path), e.Name()), n})
		}
	}
	slices.SortFunc(all, func(a, b old) int {
		// Numbers before dates: who has both has changed to numbers, or the
		// other way round, and either way the stamps decide.
		if a.number < 0 != (b.number < 0) {
			return cmp.Compare(b.number, a.number)
		}
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.name, b.name))
	})
	all = slices.CompactFunc(all, func(a, b old) bool { return a.number == b.number })
	var names []string
	for _, o := range all[:min(len(all), maxRotations)] {
		names = append(names, o.name)
	}
	return names
}

// rotation reads ".1" as 1 and "-20261122" as -20261122.
func rotation(suffix string) (int, bool) {
	switch {
	case strings.HasPrefix(suffix, ".") && len(suffix) <= len(".999") && isNumber(suffix[1:], 999):
	case strings.HasPrefix(suffix, "-") && len(suffix) == len("-20261122") && isNumber(suffix[1:], 99991231):
	default:
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimPrefix(suffix, "."))
	return n, err == nil
}
