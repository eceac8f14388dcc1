//go:build linux

package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/nstest"
)

// What doctor makes of LogLevel is what the real sshd makes of it.
func TestSSHDLogLevel(t *testing.T) {
	nstest.Need(t, "sshd", "ssh-keygen")
	const loud = "ok: /etc/ssh/sshd_config: has sshd listen on 22, which is guarded > "
	silent := func(verdict, level, whose string) string {
		return fmt.Sprintf("%s: /etc/ssh/sshd_config: has LogLevel %s, at which sshd logs no login%s: door ssh does not see them >"+
			" set LogLevel INFO\nsystemctl try-reload-or-restart ssh.service", verdict, level, whose)
	}
	for _, tt := range []struct {
		name, text string
		want       []string
		git, x, me string // what the real sshd makes of it for these users
	}{
		{"none", "Port 22\n", nil, "INFO", "INFO", "INFO"},
		{"those that log", "LogLevel INFO\nMatch user git\nLogLevel VERBOSE\nMatch user x\nLogLevel DEBUG3\n", nil, "VERBOSE", "DEBUG3", "INFO"},
		{"quiet", "LogLevel QUIET\n", []string{silent("problem", "QUIET", "")}, "SILENT", "SILENT", "SILENT"},
		{"fatal, spelt otherwise", "loglevel = \"fatal\"\n", []string{silent("problem", "FATAL", "")}, "FATAL", "FATAL", "FATAL"},
		{"error in an include", "Include sshd_config.d/e.conf\nLogLevel INFO\n", []string{silent("problem", "ERROR", "")}, "ERROR", "ERROR", "ERROR"},
		{"the first counts", "LogLevel INFO\nLogLevel QUIET\n", nil, "INFO", "INFO", "INFO"},
		{"for some", "Match User git Address 192.0.2.0/24\n LogLevel ERROR\n LogLevel INFO\n",
			[]string{silent("warning", "ERROR", ` that matches "User git Address 192.0.2.0/24"`)}, "ERROR", "INFO", "INFO"},
		{"for all but some", "LogLevel INFO\nMatch User git\n LogLevel INFO\nMatch All\nLogLevel QUIET\n",
			[]string{silent("problem", "QUIET", "")}, "INFO", "SILENT", "SILENT"},
		{"for all, in vain", "LogLevel QUIET\nMatch all\nLogLevel INFO\n", nil, "INFO", "INFO", "INFO"},
		{"a block ends with its file", "Include sshd_config.d/m.conf\nLogLevel QUIET\n",
			[]string{silent("warning", "ERROR", ` that matches "user x"`), silent("problem", "QUIET", "")}, "SILENT", "ERROR", "SILENT"},
		{"an include within a block", "Match user x\nInclude sshd_config.d/e.conf\n",
			[]string{silent("warning", "ERROR", ` that matches "user x"`)}, "INFO", "ERROR", "INFO"},
		{"a comment", "#LogLevel QUIET\n", nil, "INFO", "INFO", "INFO"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := machine(t, map[string]string{
				"/etc/ssh/sshd_config":          tt.text,
				"/etc/ssh/sshd_config.d/e.conf": "LogLevel ERROR\n",
				"/etc/ssh/sshd_config.d/m.conf": "Match user x\nLogLevel ERROR\n",
			})
			for user, level := range map[string]string{"git": tt.git, "x": tt.x, "me": tt.me} {
				if got := realLogLevel(t, p, user); got != level {
					t.Errorf("sshd's LogLevel for %s is %s, want %s", user, got, level)
				}
			}
			c := sshDoor(t)
			c.Doors[0].Presence = config.Presence{Logins: config.LoginsAuto}
			want(t, p.sshdConfig(c), append([]string{loud}, tt.want...)...)
			c.Doors[0].Presence.Connections = true // they show who is in, too
			for i := range tt.want {
				tt.want[i] = strings.Replace(tt.want[i], "problem", "warning", 1)
			}
			want(t, p.sshdConfig(c), append([]string{loud}, tt.want...)...)
			c.Doors[0].Presence.Logins = config.LoginsOff
			want(t, p.sshdConfig(c), loud)
		})
	}
}

// realLogLevel returns what the real sshd reads for a user in the host's files.
func realLogLevel(t *testing.T, p *Host, user string) string {
	t.Helper()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's privilege separation directory
		t.Fatal(err)
	}
	key := filepath.Join(p.Root, "key")
	if _, err := os.Stat(key); err != nil {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	sshd, err := exec.LookPath("sshd") // it insists on being run by an absolute path
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(p.read(sshdConfigPath), "Include ", "Include "+p.path("/etc/ssh")+"/")
	write(t, p.path("/etc/ssh/absolute"), text)
	out, err := exec.Command(sshd, "-T", "-f", p.path("/etc/ssh/absolute"), "-h", key, "-C", "user="+user+",host=h,addr=192.0.2.1").CombinedOutput()
	if err != nil {
		t.Fatalf("sshd refuses %q: %v: %s", text, err, out)
	}
	_, level, _ := strings.Cut(string(out), "\nloglevel ")
	level, _, _ = strings.Cut(level, "\n")
	return level
}
