//go:build linux

package packaging

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/nstest"
)

// The version as which the packages of these tests are built, so that they do not
// depend on the tags that a clone of the repository has.
var version = []string{"VERSION=" + number, "COMMIT=0123abcd", "SOURCE_DATE_EPOCH=1798859045"}

// runBuild runs one of the build scripts of the sources in dir.
func runBuild(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = slices.Concat(os.Environ(), version, env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// output is what a program prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, &errs)
	}
	return string(out)
}

// copySources makes a second directory of the sources.
func copySources(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	list := output(t, "git", "-C", "..", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for path := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		from := filepath.Join("..", path)
		info, err := os.Lstat(from)
		if err != nil || !info.Mode().IsRegular() {
			continue // deleted, and not committed yet
		}
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, path)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, path), text, info.Mode().Perm()&0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// contents are the files of a directory, by their names.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	names, err := filepath.Glob(dir + "/*")
	if err != nil || len(names) == 0 {
		t.Fatalf("there is nothing in %s: %v", dir, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(name)] = text
	}
	return all
}

func TestPackages(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "git", "dpkg-deb", "rpm", "lintian")
	out := t.TempDir()
	runBuild(t, "..", nil, "build/packages.sh", out, "amd64")
	got := slices.Sorted(maps.Keys(contents(t, out)))
	want := []string{
		"doorward-1.2.3+git20270102030405.0123abcd-1.x86_64.rpm",
		"doorward-client-1.2.3+git20270102030405.0123abcd-1.x86_64.rpm",
		"doorward-client_1.2.3+git20270102030405.0123abcd_amd64.deb",
		"doorward-client_1.2.3_git20270102030405-r0_x86_64.apk",
		"doorward_1.2.3+git20270102030405.0123abcd_amd64.deb",
		"doorward_1.2.3_git20270102030405-r0_x86_64.apk",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("packages are not those that were wanted (-want +got):\n%s", diff)
	}
	one := func(format string) (daemon, client pkg) {
		read := map[string]func(*testing.T, string) pkg{"deb": readDeb, "rpm": readRPM, "apk": readAPK}[format]
		for _, name := range want {
			switch path := filepath.Join(out, name); {
			case !strings.HasSuffix(name, format):
			case strings.HasPrefix(name, "doorward-client"):
				client = read(t, path)
			default:
				daemon = read(t, path)
			}
		}
		return daemon, client
	}
	deb, debClient := one("deb")
	rpm, rpmClient := one("rpm")
	apk, apkClient := one("apk")

	t.Run("control", func(t *testing.T) { testControl(t, deb, debClient) })
	t.Run("same everywhere", func(t *testing.T) {
		testSame(t, "doorward", deb, rpm, apk)
		testSame(t, "doorward-client", debClient, rpmClient, apkClient)
	})
	t.Run("owners and modes", func(t *testing.T) {
		for name, p := range map[string]pkg{"deb": deb, "rpm": rpm, "apk": apk} {
			testModes(t, name, p)
		}
	})
	t.Run("as make install", func(t *testing.T) { testInstalled(t, deb, debClient) })
	t.Run("as the tests install", func(t *testing.T) { testTestsInstall(t, deb) })
	t.Run("lintian", func(t *testing.T) {
		// In a program that Go links, strings lie one after the other, and words of two of
		// them may look like a misspelt one.
		args := []string{"lintian", "--allow-root", "--display-info", "--fail-on", "error,warning,info",
			"--suppress-tags", "spelling-error-in-binary"}
		debs, _ := filepath.Glob(out + "/*.deb")
		if text := output(t, append(args, debs...)...); text != "" {
			t.Errorf("lintian has found something:\n%s", text)
		}
	})
	t.Run("reproducible", func(t *testing.T) {
		again := t.TempDir()
		// Of what may differ: directory, umask, time zone, language, and the files' times.
		runBuild(t, copySources(t), []string{"TZ=Asia/Kolkata", "LANG=de_DE.UTF-8", "TMPDIR=" + t.TempDir()},
			"sh", "-c", `umask 077; exec build/packages.sh "$1" amd64`, "sh", again)
		was, is := contents(t, out), contents(t, again)
		for name := range was {
			if !bytes.Equal(was[name], is[name]) {
				t.Errorf("%s is not the same when it is built in another directory", name)
			}
		}
	})
}

// testControl checks what the packages say of themselves to Debian.
func testControl(t *testing.T, daemon, client pkg) {
	for _, tt := range []struct {
		p    pkg
		want map[string]string
	}{
		{daemon, map[string]string{"Package": "doorward", "Version": number, "Architecture": "amd64",
			"Depends": "doorward-client (= " + number + "), systemd | systemd-standalone-sysusers | systemd-sysusers, " +
				"systemd | systemd-standalone-tmpfiles | systemd-tmpfiles",
			"Recommends": "dbus, polkitd, nftables", "Conflicts": ""}},
		{client, map[string]string{"Package": "doorward-client", "Version": number, "Architecture": "amd64",
			"Depends": "", "Conflicts": ""}},
	} {
		got := map[string]string{}
		for key := range tt.want {
			got[key] = strings.TrimSpace(output(t, "dpkg-deb", "--field", tt.p.path, key))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s says of itself (-want +got):\n%s", filepath.Base(tt.p.path), diff)
		}
	}
	conffiles := output(t, "dpkg-deb", "--info", daemon.path, "conffiles")
	if want := "/etc/doorward/doorward.toml\n/etc/init.d/doorward\n"; conffiles != want {
		t.Errorf("conffiles are %q, want %q", conffiles, want)
	}
	// init would not write over it if it said something.
	if text := daemon.files["/etc/doorward/doorward.toml"].text; !config.Blank(text) {
		t.Errorf("the configuration in the package says something:\n%s", text)
	}
	if got := output(t, "dpkg-parsechangelog", "-S", "Version", "-l", unzipped(t, daemon, "/usr/share/doc/doorward/changelog.gz")); strings.TrimSpace(got) != number {
		t.Errorf("the changelog is of version %q, want %q", got, number)
	}
}

// testSame compares what the formats have: all the same, but for what is where on a
// distribution.
func testSame(t *testing.T, name string, deb, rpm, apk pkg) {
	t.Helper()
	licences := func(p pkg) pkg {
		dir := "/usr/share/licenses/" + name
		return p.without("LICENSE", dir+"/LICENSE").moved(dir+"/THIRD-PARTY-LICENSES.gz", "/usr/share/doc/"+name+"/THIRD-PARTY-LICENSES.gz")
	}
	deb = deb.without("Debian", "/usr/share/lintian/overrides/"+name, "/usr/share/doc/"+name+"/copyright", "/usr/share/doc/"+name+"/changelog.gz")
	rpm, apk = licences(rpm), licences(apk)
	if name == "doorward-client" {
		deb = deb.moved("/usr/share/zsh/vendor-completions/_doorward", "/usr/share/zsh/site-functions/_doorward")
	} else {
		script := "/etc/init.d/doorward"
		deb, apk = deb.without("SysV", script), apk.without("OpenRC", script)
		onAlpine := deb.without("systemd", "/usr/lib/systemd/system/doorward.service", "/usr/lib/sysusers.d/doorward.conf",
			"/usr/lib/tmpfiles.d/doorward.conf", "/usr/share/dbus-1/system.d/doorward.conf")
		compare(t, name, "deb", onAlpine, "apk", apk)
		compare(t, name, "deb", deb, "rpm", rpm)
		return
	}
	compare(t, name, "deb", deb, "apk", apk)
	compare(t, name, "deb", deb, "rpm", rpm)
}

// testModes holds who may read what: the configuration has secrets.
func testModes(t *testing.T, format string, p pkg) {
	special := map[string]string{
		"/etc/doorward":               "750 root:doorward",
		"/etc/doorward/doorward.toml": "640 root:doorward",
		"/etc/init.d/doorward":        "755 root:root",
		"/usr/sbin/doorwardd":         "755 root:root",
		"/usr/bin/doorward":           "755 root:root",
	}
	for _, path := range []string{"/etc/doorward/doorward.toml", "/usr/sbin/doorwardd"} {
		if _, ok := p.files[path]; !ok {
			t.Errorf("%s lacks %s", format, path)
		}
	}
	for path, f := range p.files {
		want := special[path]
		if want == "" {
			want = "644 root:root"
			if f.dir {
				want = "755 root:root"
			}
		}
		if f.mode != want {
			t.Errorf("%s: %s is %s, want %s", format, path, f.mode, want)
		}
	}
}

// testInstalled compares the packages with what make install brings.
func testInstalled(t *testing.T, daemon, client pkg) {
	bin, root := t.TempDir(), t.TempDir()
	write := func(name string, text []byte) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(bin, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bin, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("doorwardd", daemon.files["/usr/sbin/doorwardd"].text)
	for to, from := range map[string]string{"doorward": "/usr/bin/doorward",
		"completions/doorward.bash": "/usr/share/bash-completion/completions/doorward",
		"completions/doorward.zsh":  "/usr/share/zsh/vendor-completions/_doorward",
		"completions/doorward.fish": "/usr/share/fish/vendor_completions.d/doorward.fish"} {
		write(to, client.files[from].text)
	}
	runBuild(t, "..", []string{"BIN=" + bin}, "build/install.sh", root, "/usr")

	packaged := pkg{files: maps.Clone(client.files)}
	for path, f := range daemon.files {
		if _, both := packaged.files[path]; both && !f.dir {
			t.Errorf("%s is in both packages", path)
		}
		packaged.files[path] = f
	}
	packaged = packaged.moved("/usr/share/zsh/vendor-completions/_doorward", "/usr/share/zsh/site-functions/_doorward")
	for path, f := range maps.Clone(packaged.files) {
		switch {
		case f.dir, strings.HasPrefix(path, "/usr/share/doc/"), strings.HasPrefix(path, "/usr/share/lintian/"),
			path == "/etc/doorward/doorward.toml", path == "/etc/init.d/doorward":
			delete(packaged.files, path)
		case strings.HasPrefix(path, "/usr/share/man/"):
			delete(packaged.files, path)
			packaged.files[strings.TrimSuffix(path, ".gz")] = file{mode: f.mode, text: gunzip(t, f.text)}
		}
	}
	compare(t, "doorward", "make install", readTree(t, root), "deb", packaged)
}

// testTestsInstall compares the package with what Install brings.
func testTestsInstall(t *testing.T, daemon pkg) {
	write := func(path, text string, mode fs.FileMode) error {
		if f := daemon.files[path]; string(f.text) != text || !strings.HasPrefix(f.mode, strings.TrimLeft(octal(mode), "0")+" ") {
			t.Errorf("Install writes %s with mode %s, and the package has mode %q there, or another text", path, octal(mode), f.mode)
		}
		return nil
	}
	if err := Install(write, func(...string) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// What rpm is to make before the files are there is what systemd makes at each boot.
func TestRPMMakesTheUser(t *testing.T) {
	script, err := os.ReadFile("scripts/rpm-pre")
	if err != nil {
		t.Fatal(err)
	}
	users, err := files.ReadFile("doorward.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	if want := "<<'END'\n" + string(users) + "END\n"; !strings.Contains(string(script), want) {
		t.Errorf("scripts/rpm-pre has other users than doorward.sysusers:\n%s", script)
	}
}
