//go:build linux

package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/pages"
	"github.com/doorward/doorward/internal/systemdtest"
)

// TestUnitsAsDebianHasThem guards Debian's sshd by its other name, with a daemon that
// has no permission at first, and beside a second sshd.
func TestUnitsAsDebianHasThem(t *testing.T) {
	t.Parallel()
	ns, visitor := nstest.New(t), nstest.New(t)
	nstest.Need(t, "ssh-keygen")
	nstest.Link(ns, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	m := systemdtest.Boot(t, ns, build(t, "cmd/doorwardd")+":/stub", build(t, "cmd/doorward")+":/usr/bin/doorward")
	install(t, m)
	m.Write("/etc/doorward/doorward.toml", strings.Replace(sshDoor, "ssh.service", "sshd.service", 1), 0o640)
	login := localLogin(t, m)
	m.Run("systemctl", "start", "doorward.service")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Run("journalctl", "--no-pager", "--unit=doorward.service"))
		}
	})

	// Without the rule: said by the daemon before anybody knocks, and by doctor.
	const refused = "door ssh: the daemon may not start and stop sshd.service (ssh.service), so right knocks fail: " +
		`not allowed to stop unit "ssh.service": Interactive authentication required.; "sudo doorward polkit --install" allows it`
	nstest.Eventually(t, "status says that the daemon has no permission", func() bool { return slices.Contains(warnings(t, m), refused) })
	denied := diagnose(t, m, "door ssh", doctor.Problem)
	if len(denied) != 1 || !strings.HasSuffix(denied[0], " start ssh.service, stop ssh.service, reset-failed ssh.service,"+
		" so that right knocks fail or the service is never stopped > sudo doorward polkit --install") {
		t.Errorf("doctor's problems without the rule: %q", denied)
	}
	notes := strings.Join(diagnose(t, m, "door ssh", doctor.Note), "\n")
	for _, want := range []string{`sshd.service is another name of ssh.service, and may go when that is disabled > write unit = "ssh.service"`,
		"stopping ssh.service removes /run/sshd, without which no sshd lets anybody in; that would affect a second one"} {
		if !strings.Contains(notes, want) {
			t.Errorf("doctor's notes lack %q:\n%s", want, notes)
		}
	}

	// With the rule, made by the other name: the door works.
	said := m.Run("doorward", "polkit", "--install")
	for _, want := range []string{"sshd.service is another name of ssh.service", "lets doorward start and stop ssh.service\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("polkit --install does not say %q: %s", want, said)
		}
	}
	m.Run("systemctl", "restart", "polkit.service") // by itself it rereads rules only at some later moment
	if found := diagnose(t, m, "door ssh", doctor.Problem); len(found) > 0 {
		t.Errorf("doctor's problems with the rule: %q", found)
	}
	m.Run("systemctl", "stop", "ssh.service") // the daemon, too, tries again in a while
	knocks(t, visitor)
	nstest.Eventually(t, "the door opens", func() bool { return reaches(visitor, "192.0.2.1:22", time.Second) })

	secondServer(t, m, visitor, login)
	nstest.Eventually(t, "the daemon asks again, and no longer warns", func() bool { return !slices.Contains(warnings(t, m), refused) })
}

// secondServer runs a second sshd, as the documentation has it: without the drop-in
// it lets nobody in once the first one has been stopped, with it it does. The door
// is open at first.
func secondServer(t *testing.T, m *systemdtest.Machine, visitor *nstest.NS, login func() error) {
	t.Helper()
	for path, text := range documented(t) {
		m.Write(path, text, 0o644)
	}
	m.Run("systemctl", "daemon-reload")
	m.Run("systemctl", "start", "sshd-fallback.service")
	if err := login(); err != nil {
		t.Fatalf("nobody gets in at the second sshd: %v", err)
	}
	warned := strings.Join(diagnose(t, m, "door ssh", doctor.Warning), "\n")
	if !strings.Contains(warned, "/run/sshd") || !strings.Contains(warned, "sshd-fallback.service would not either") {
		t.Errorf("doctor does not warn for the second sshd: %s", warned)
	}
	goDark := func() {
		m.Run("doorward", "close", "ssh")
		nstest.Eventually(t, "ssh.service is stopped", func() bool { return show(t, m, "ssh.service", "ActiveState") == "inactive" })
	}
	goDark()
	if err := login(); err == nil {
		t.Error("without the drop-in somebody gets in at the second sshd, so that the warning is needless")
	}
	m.Write("/etc/systemd/system/ssh.service.d/override.conf", "[Service]\nRuntimeDirectoryPreserve=yes\n", 0o644)
	m.Run("systemctl", "daemon-reload")
	knocks(t, visitor)
	nstest.Eventually(t, "the door opens again", func() bool { return reaches(visitor, "192.0.2.1:22", time.Second) })
	goDark()
	if err := login(); err != nil {
		t.Errorf("with the drop-in nobody gets in at the second sshd: %v", err)
	}
	if warned := strings.Join(diagnose(t, m, "door ssh", doctor.Warning), "\n"); strings.Contains(warned, "/run/sshd") {
		t.Errorf("doctor warns with the drop-in: %s", warned)
	}
}

// documented are the files that docs/howto/fallback.md writes down for a second
// sshd, but for the drop-in of the first one.
func documented(t *testing.T) map[string]string {
	t.Helper()
	all, err := pages.Read("..", "docs/howto/fallback.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := all[0].Blocks()
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, b := range blocks {
		if strings.HasPrefix(b.Title, "/etc/") && !strings.Contains(b.Title, "ssh.service.d") {
			files[b.Title] = b.Text
		}
	}
	if len(files) != 2 {
		t.Fatalf("docs/howto/fallback.md has %d files, want the configuration of the second sshd and its unit", len(files))
	}
	return files
}

// localLogin lets root in by key, and returns a login at the second sshd.
func localLogin(t *testing.T, m *systemdtest.Machine) func() error {
	t.Helper()
	key := t.TempDir() + "/key"
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	for name, path := range map[string]string{key: "/root/.ssh/id_ed25519", key + ".pub": "/root/.ssh/authorized_keys"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m.Write(path, string(text), 0o600)
	}
	m.Run("chmod", "700", "/root/.ssh")
	return func() error {
		_, err := m.System.Run(t.Context(), "ssh", "-p", "2222", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
			"root@127.0.0.1", "true")
		return err
	}
}

// warnings are what the daemon's status warns of.
func warnings(t *testing.T, m *systemdtest.Machine) []string {
	t.Helper()
	var s control.Status
	if err := json.Unmarshal([]byte(m.Run("doorward", "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s.Warnings
}

// diagnose returns what doctor finds somewhere, of one verdict.
func diagnose(t *testing.T, m *systemdtest.Machine, where string, verdict doctor.Verdict) (all []string) {
	t.Helper()
	for _, f := range findings(t, m) {
		if f.Where == where && f.Verdict == verdict {
			all = append(all, f.What+" > "+f.Do)
		}
	}
	return all
}

// findings are what doctor finds.
func findings(t *testing.T, m *systemdtest.Machine) []doctor.Finding {
	t.Helper()
	// It exits with 1 when there is any problem.
	out, err := m.Command(t.Context(), "doorward", "doctor", "--json").Output()
	var found struct{ Findings []doctor.Finding }
	if json.Unmarshal(out, &found) != nil || len(found.Findings) == 0 {
		t.Fatalf("doctor: %v: %s", err, out)
	}
	return found.Findings
}
