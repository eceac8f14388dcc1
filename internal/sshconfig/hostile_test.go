package sshconfig

import (
	"os/exec"
	"strings"
	"testing"
)

// ssh asks for what it is to do by a name: it goes to the gateway's first host for the
// names that are the user's, and to each other host of a profile as it is typed, whose key
// it checks then. A profile's author could name any machine among its hosts.
func TestOtherHosts(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("needs OpenSSH's client")
	}
	h := Host{Names: []string{"gate", "fe80::1%eth0"}, HostName: "fe80::1%eth0", Others: []string{"git.example.org"}, Port: 2222,
		Proxy: "doorward connect %h %p --profile gate"}
	path := t.TempDir() + "/config"
	if _, err := Edit(path, func(text string) (string, error) { return Install(text, "gate", h.Text()) }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"gate":             "fe80::1%eth0",
		"fe80::1%eth0":     "fe80::1%eth0",
		"git.example.org":  "git.example.org",
		"else.example.org": "",
	} {
		out, err := exec.Command(ssh, "-F", path, "-G", name).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh -G %s: %v\n%s", name, err, out)
		}
		got := map[string]string{}
		for line := range strings.Lines(string(out)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			got[key] = value
		}
		proxied := got["proxycommand"] != "" && got["port"] == "2222"
		if want != "" && got["hostname"] != want || proxied != (want != "") {
			t.Errorf("ssh %s goes to %q by %q, port %s; want %q, and by doorward: %v", name, got["hostname"], got["proxycommand"], got["port"], want, want != "")
		}
	}
}
