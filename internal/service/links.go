package service

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// UnitDirs are the directories of unit files; the first that has a name wins; see
// systemd.unit(5), "Unit File Load Path". Both spellings of the last are there, since not
// every /lib is a link. Generators write no aliases that a door would use.
var UnitDirs = [...]string{
	"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
	"/usr/lib/systemd/system", "/lib/systemd/system",
}

// LocalUnitDirs are those of UnitDirs that no package writes to.
var LocalUnitDirs = UnitDirs[:3]

// maxAliases bounds a chain of links; systemd follows 8 of a unit's
// (FOLLOW_MAX in basic/unit-file.c).
const maxAliases = 8

// NamesByLinks returns a unit's names according to the links between unit files, for use
// where there is no systemd to ask. root is prepended to the directories, "" for the
// machine's own. A name without a file is returned as it is. A socket is assumed to feed
// the service of its name, which is the default.
func NamesByLinks(root, unit string) Names {
	n := Names{ID: follow(root, unit)}
	if base, ok := strings.CutSuffix(n.ID, ".socket"); ok {
		n.Feeds = []string{follow(root, base+".service")}
	}
	return n
}

// follow returns the name at the end of a chain of links. An instance without a link of
// its own follows its template's: where web@.service is a link to site@.service,
// web@a.service is site@a.service.
func follow(root, unit string) string {
	for range maxAliases {
		template, instance := cutInstance(unit)
		to, ok := linked(root, unit)
		if !ok && instance != "" {
			to, ok = linked(root, template)
		}
		if ok {
			to, ok = aliased(unit, to)
		}
		if !ok {
			return unit
		}
		unit = to
	}
	return unit
}

// aliased returns the name of a unit that is linked to a file of another name, if that is
// a valid alias: a plain name is an alias only of a plain one, an instance only of the
// same instance of the other template, and the suffix is the same; see the description of
// aliases in systemd.unit(5).
func aliased(unit, to string) (string, bool) {
	suffix := filepath.Ext(unit)
	_, instance := cutInstance(unit)
	template, toInstance := cutInstance(to)
	if to == template && instance != "" {
		to, toInstance = strings.TrimSuffix(to, suffix)+instance+suffix, instance
	}
	plain, toPlain := !strings.Contains(unit, "@"), !strings.Contains(to, "@")
	return to, filepath.Ext(to) == suffix && to != unit && plain == toPlain && instance == toInstance
}

// linked returns the name of the file that the first unit file of a name is a link to. A
// link that leads out of the directories gives the location of the file, and not another
// name of the unit ("systemctl link"); one to /dev/null masks it.
func linked(root, unit string) (to string, ok bool) {
	for _, dir := range UnitDirs {
		path := filepath.Join(root, dir, unit)
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		target, err := os.Readlink(path)
		if err != nil {
			return "", false // a file
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		return filepath.Base(target), slices.Contains(UnitDirs[:], filepath.Dir(target))
	}
	return "", false
}

// cutInstance cuts "web@a.service" into "web@.service" and "a"; instance is "" for
// a name that has none.
func cutInstance(unit string) (template, instance string) {
	suffix := filepath.Ext(unit)
	name, instance, _ := strings.Cut(strings.TrimSuffix(unit, suffix), "@")
	return name + "@" + suffix, instance
}
