//go:build linux

package packaging

import (
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
)

const number = "1.2.3+git20270102030405.0123abcd"

func TestArchives(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "zip", "tar")
	out := t.TempDir()
	runBuild(t, "..", nil, "build/dist.sh", out, "linux/amd64", "windows/amd64")
	all := contents(t, out)
	want := []string{
		"SHA256SUMS",
		"doorward-client_" + number + "_linux_amd64.tar.gz",
		"doorward-client_" + number + "_windows_amd64.zip",
		"doorward_" + number + "_linux_amd64.cdx.json",
		"doorward_" + number + "_linux_amd64.tar.gz",
		"doorward_" + number + "_windows_amd64.cdx.json",
		"doorwardd_" + number + "_linux_amd64.cdx.json",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(all))); diff != "" {
		t.Fatalf("archives are not those that were wanted (-want +got):\n%s", diff)
	}
	var sums strings.Builder
	for _, name := range want[1:] {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(all[name]), name)
	}
	if diff := cmp.Diff(sums.String(), string(all["SHA256SUMS"])); diff != "" {
		t.Errorf("SHA256SUMS (-want +got):\n%s", diff)
	}
	t.Run("the daemon's installs", func(t *testing.T) { testUnpacked(t, filepath.Join(out, want[4])) })
	t.Run("the visitor's", func(t *testing.T) {
		testClient(t, filepath.Join(out, want[1]), "doorward", "LICENSE", "THIRD-PARTY-LICENSES", "man/doorward-knock.1",
			"man/doorward.1", "completions/doorward.bash", "completions/doorward.zsh", "completions/doorward.fish")
		testClient(t, filepath.Join(out, want[2]), "doorward.exe", "LICENSE", "THIRD-PARTY-LICENSES")
	})
	t.Run("SBOM", func(t *testing.T) {
		testSBOM(t, all[want[3]], "cmd/doorward", "github.com/spf13/cobra")
		testSBOM(t, all[want[6]], "cmd/doorwardd", "github.com/elastic/go-seccomp-bpf")
	})
}

// testUnpacked installs what is in the daemon's archive, and compares it with what is
// installed from the sources.
func testUnpacked(t *testing.T, archive string) {
	dir := t.TempDir()
	output(t, "tar", "-C", dir, "--strip-components=1", "-xzf", archive)
	there, here := t.TempDir(), t.TempDir()
	runBuild(t, dir, nil, "build/install.sh", there)
	runBuild(t, "..", []string{"BIN=" + dir + "/bin"}, "build/install.sh", here)
	compare(t, "make install", "sources", readTree(t, here), "archive", readTree(t, there))
	if got, want := output(t, there+"/usr/local/sbin/doorwardd", "--version"), "doorwardd "+number+"\n"; got != want {
		t.Errorf("doorwardd --version: %q, want %q", got, want)
	}
}

// testClient holds what is in a visitor's archive, below a directory of its name.
func testClient(t *testing.T, archive string, want ...string) {
	t.Helper()
	base := filepath.Base(archive)
	var got []string
	if tree, ok := strings.CutSuffix(base, ".zip"); ok {
		r, err := zip.OpenReader(archive)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for _, f := range r.File {
			got = append(got, strings.TrimPrefix(f.Name, tree+"/"))
		}
	} else {
		f, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		for path, f := range readTar(t, archive, io.Reader(z)).files {
			if !f.dir {
				got = append(got, strings.TrimPrefix(path, "/"+strings.TrimSuffix(base, ".tar.gz")+"/"))
			}
		}
	}
	got = slices.DeleteFunc(got, func(name string) bool { return name == "" })
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", base, diff)
	}
}

// testSBOM holds what an SBOM says: of which program it is, and that it names a
// library with a licence.
func testSBOM(t *testing.T, text []byte, program, library string) {
	t.Helper()
	var sbom struct {
		BomFormat string
		Metadata  struct {
			Component struct{ Purl, Version string }
		}
		Components []struct {
			Name     string
			Evidence struct{ Licenses []any }
		}
	}
	if err := json.Unmarshal(text, &sbom); err != nil {
		t.Fatal(err)
	}
	c := sbom.Metadata.Component
	if sbom.BomFormat != "CycloneDX" || c.Version != "v"+number || !strings.HasSuffix(c.Purl, "#"+program) {
		t.Errorf("it is %s of %s, version %s; want CycloneDX of %s, v%s", sbom.BomFormat, c.Purl, c.Version, program, number)
	}
	for _, c := range sbom.Components {
		if c.Name == library && len(c.Evidence.Licenses) > 0 {
			return
		}
	}
	t.Errorf("the SBOM of %s lacks %s or its licence", program, library)
}

// TestVersion holds which version commits have, and that package managers sort them
// in the order in which they were made.
func TestVersion(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "git", "dpkg", "rpm")
	dir := t.TempDir()
	if err := os.CopyFS(dir+"/build", os.DirFS("../build")); err != nil {
		t.Fatal(err)
	}
	at := ""
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TZ=Asia/Kolkata", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
			"GIT_AUTHOR_DATE=" + at, "GIT_COMMITTER_DATE=" + at}
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	git := func(args ...string) string {
		t.Helper()
		out, err := run(append([]string{"git"}, args...)...)
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return out
	}
	const lacks = "version.sh: no git repository here to take the version from; set VERSION in the environment"
	if out, err := run("sh", "build/version.sh"); err == nil || out != lacks {
		t.Errorf("without a repository: %v, %q, want an error and %q", err, out, lacks)
	}
	if out, err := run("sh", "build/version.sh", "ldflags"); err != nil || out != "-s -w" {
		t.Errorf("ldflags without a repository: %v, %q, want no version and no error", err, out)
	}

	var versions []string
	version := func(want string) {
		t.Helper()
		out, err := run("sh", "build/version.sh")
		if err != nil || out != want {
			t.Errorf("version.sh: %v, %q, want %q", err, out, want)
		}
		versions = append(versions, out)
	}
	git("init", "--quiet")
	git("add", "build")
	commit := func(time, message string) string {
		t.Helper()
		at = time
		git("commit", "--quiet", "--allow-empty", "-m", message)
		return git("rev-parse", "--short=8", "HEAD")
	}
	version("0.0.0+git20270101233000." + commit("2027-01-02T05:00:00+05:30", "one"))
	version("0.0.0+git20270102000000." + commit("2027-01-02T00:00:00Z", "two"))
	git("tag", "v0.9.0")
	version("0.9.0")
	version("0.9.0+git20270103000000." + commit("2027-01-03T00:00:00Z", "three"))
	git("tag", "v0.10.0")
	version("0.10.0")
	if err := os.WriteFile(dir+"/new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	version("0.10.0+git20270103000000." + git("rev-parse", "--short=8", "HEAD") + ".modified")
	for i := range versions[1:] {
		output(t, "dpkg", "--compare-versions", versions[i], "lt", versions[i+1])
		if got := output(t, "rpm", "--eval", fmt.Sprintf("%%{lua:print(rpm.vercmp(%q, %q))}", versions[i], versions[i+1])); got != "-1\n" {
			t.Errorf("rpm compares %s with %s: %q, want -1", versions[i], versions[i+1], got)
		}
	}
}
