package sshconfig

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/files"
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

// ssh runs the very command that is meant, with what can be in the path of the program.
func TestExecIsQuoted(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil || runtime.GOOS == "windows" {
		t.Skip("needs OpenSSH's client, and a shell")
	}
	for _, name := range []string{"plain", "a b", "per%cent", "$(id);`id`"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		program := filepath.Join(dir, "doorward")
		if err := os.WriteFile(program, []byte("#!/bin/sh\n: >\"$(dirname \"$0\")/ran\"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		h := Host{Names: []string{"gate"}, HostName: "192.0.2.1", Exec: strings.ReplaceAll(files.Quoted(program), "%", "%%") + " knock gate"}
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(h.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(ssh, "-F", path, "-G", "gate").CombinedOutput()
		if _, not := os.Stat(filepath.Join(dir, "ran")); err != nil || not != nil {
			t.Errorf("%s: %v, %v\n%s\n%s", name, err, not, h.Text(), out)
		}
	}
}
