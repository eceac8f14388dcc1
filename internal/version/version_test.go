package version

import (
	"runtime/debug"
	"testing"
)

func TestNumber(t *testing.T) {
	of := func(v string) *debug.BuildInfo { return &debug.BuildInfo{Main: debug.Module{Version: v}} }
	for _, tt := range []struct {
		name, said string
		info       *debug.BuildInfo
		want       string
	}{
		{"the build says it", "1.2.3", of("v9.9.9"), "1.2.3"},
		{"go install", "", of("v1.2.3"), "1.2.3"},
		{"a test", "", of("(devel)"), "unknown"},
		{"no version", "", of(""), "unknown"},
		{"no build information", "", nil, "unknown"},
	} {
		if got := numberOf(tt.said, tt.info); got != tt.want {
			t.Errorf("%s: version %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCommit(t *testing.T) {
	of := func(kv ...string) *debug.BuildInfo {
		info := new(debug.BuildInfo)
		for i := 0; i < len(kv); i += 2 {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return info
	}
	for _, tt := range []struct {
		name, said string
		info       *debug.BuildInfo
		want       string
	}{
		{"the build says it", "abc", of("vcs.revision", "def"), "abc"},
		{"go build", "", of("vcs.modified", "false", "vcs.revision", "def"), "def"},
		{"go build with changes", "", of("vcs.modified", "true", "vcs.revision", "def"), "def-modified"},
		{"no repository", "", of("GOOS", "linux"), "unknown"},
		{"no build information", "", nil, "unknown"},
	} {
		if got := commitOf(tt.said, tt.info); got != tt.want {
			t.Errorf("%s: commit %q, want %q", tt.name, got, tt.want)
		}
	}
}
