// Package version says which doorward this is: one answer for the daemon, the
// command and the metrics.
package version

import (
	"runtime/debug"
	"strings"
)

// What the build says, by -ldflags "-X …": see build/version.sh. Both are empty in a
// program that was built without that, as by go install.
var (
	number string
	commit string
)

// unknown stands for either where nothing says it.
const unknown = "unknown"

// Number returns the version without a leading v, such as "1.2.3", or
// "1.2.3+git20270102150405.0123abcd" for a commit after that release; "unknown" where
// the build did not say.
func Number() string {
	info, _ := debug.ReadBuildInfo()
	return numberOf(number, info)
}

// Commit returns the commit that the program was built from, followed by "-modified" where
// files differed from it; "unknown" where the build did not say.
func Commit() string {
	info, _ := debug.ReadBuildInfo()
	return commitOf(commit, info)
}

// numberOf prefers what the build says to what the go command recorded: the module's
// version after go install, a pseudo-version after go build.
func numberOf(said string, info *debug.BuildInfo) string {
	switch {
	case said != "":
		return said
	case info == nil || info.Main.Version == "" || info.Main.Version == "(devel)":
		return unknown
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

func commitOf(said string, info *debug.BuildInfo) string {
	if said != "" {
		return said
	}
	commit, modified := "", ""
	if info != nil {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				modified = "-modified"
			}
		}
	}
	if commit == "" {
		return unknown
	}
	return commit + modified
}
