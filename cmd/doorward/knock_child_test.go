//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestCommandStatus: the exit status of a knock with a command is the command's, and
// what is doorward's own can be told from it, as with env(1).
func TestCommandStatus(t *testing.T) {
	n := newKnockNet(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"plain": "words", "words": "no program", "lost": "#!/nonexistent/sh\n"} {
		mode := os.FileMode(0o755)
		if name == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	const knocked = "knocked on 192.0.2.2: 59000\n"
	tests := []struct {
		name   string
		args   []string // "DIR" is the directory of the files
		code   int      // 128+n for the signal n
		stderr string
	}{
		{"done", []string{"--", "true"}, 0, knocked},
		{"its own", []string{"--", "sh", "-c", "exit 7"}, 7, knocked},
		{"killed", []string{"--", "sh", "-c", "kill -KILL $$"}, 128 + 9, knocked},
		{"terminated", []string{"--", "sh", "-c", "kill -TERM $$"}, 128 + 15, knocked},
		{"not found", []string{"--", "no-such-program"}, 127,
			knocked + "doorward: error: command \"no-such-program\" is not found\n"},
		{"not found by its path", []string{"--", "DIR/none"}, 127,
			knocked + "doorward: error: command \"DIR/none\" is not found\n"},
		{"not found elsewhere", []string{"--", "here"}, 127,
			knocked + "doorward: error: command \"here\" is found in the working directory alone\n" +
				"doorward: hint: to run that one, type ./here\n"},
		{"not executable", []string{"--", "DIR/plain"}, 126,
			knocked + "doorward: error: run \"DIR/plain\": permission denied\n"},
		{"not executable, on the path", []string{"--", "plain"}, 126,
			knocked + "doorward: error: command \"plain\" cannot be run: DIR/plain is not executable for you\n"},
		{"a directory", []string{"--", "DIR"}, 126, knocked + "doorward: error: run \"DIR\": is a directory\n"},
		{"no program", []string{"--", "words"}, 126,
			knocked + "doorward: error: command \"words\" cannot be run: DIR/words is not a program for this system, and has no #! line\n" +
				"doorward: hint: type its interpreter before it, such as sh DIR/words\n"},
		{"no interpreter", []string{"--", "lost"}, 127,
			knocked + "doorward: error: command \"lost\" cannot be run: the interpreter that DIR/lost names is not there\n"},
		{"no knock", []string{"--touch", "59009", "--", "true"}, 125,
			"doorward: error: 59009/tcp on 192.0.2.2 refuses connections, after 59000 had been touched\n" +
				"doorward: hint: a wrong host or port, a gateway that is not running, or one that ignores you for a while after a wrong knock; " +
				"a knock left unfinished counts as a wrong one, so wait until the penalty is over (5m by default) before the next\n"},
		{"a wrong port", []string{"--touch", "x", "--", "true"}, 125,
			"doorward: error: --touch: port \"x\": allowed are 1 to 65535\ndoorward: hint: doorward knock --help\n"},
		{"a wrong flag", []string{"--touched", "1", "--", "true"}, 125,
			"doorward: error: unknown flag: --touched\ndoorward: hint: doorward knock --help\n"},
		{"a wrong flag alone", []string{"--touched", "1"}, 2,
			"doorward: error: unknown flag: --touched\ndoorward: hint: doorward knock --help\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := n.visitor.Command(t.Context(), "doorward", "knock", "192.0.2.2", "--touch", "59000")
			for _, a := range tt.args {
				c.Args = append(c.Args, strings.Replace(a, "DIR", dir, 1))
			}
			c.Dir = t.TempDir()
			if err := os.WriteFile(filepath.Join(c.Dir, "here"), []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			c.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), "PATH="+os.Getenv("PATH")+":"+dir+":.")
			var stderr bytes.Buffer
			c.Stderr = &stderr
			err := c.Run()
			if _, ok := err.(*exec.ExitError); err != nil && !ok {
				t.Fatal(err)
			}
			status := c.ProcessState.Sys().(syscall.WaitStatus)
			code := status.ExitStatus()
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
			if code != tt.code {
				t.Errorf("status %d, want %d", code, tt.code)
			}
			if want := strings.ReplaceAll(tt.stderr, "DIR", dir); stderr.String() != want {
				t.Errorf("it said:\n%s\nwant:\n%s", &stderr, want)
			}
		})
	}
}

// TestCommandTakesOver: the command has the process, and with it all signals, and
// what the caller ignores, blocks and limits.
func TestCommandTakesOver(t *testing.T) {
	n := newKnockNet(t)
	const show = `grep -E "^Sig(Blk|Ign)" /proc/self/status; ulimit -Sn; echo`
	run := func(before string) (lines []string, pid int) {
		c := n.visitor.Command(t.Context(), "env", "--default-signal", "sh", "-c", before+`; exec doorward knock 192.0.2.2 --touch 59000 -- sh -c '`+show+` $$'`)
		c.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v after %q", err, out)
		}
		return strings.Fields(string(out)), c.Process.Pid
	}
	for before, ignored := range map[string]uint64{
		"ulimit -Sn 99":                  0,
		"ulimit -Sn 99; trap '' HUP":     1 << (syscall.SIGHUP - 1),
		"ulimit -Sn 99; trap '' HUP INT": 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1),
	} {
		got, pid := run(before)
		if len(got) != 6 {
			t.Fatalf("%s: got %q", before, got)
		}
		// What make starts has the C library's own two signals ignored, 32 and 33 (glibc's
		// spawni.c).
		const standard = 1<<31 - 1
		if n, err := strconv.ParseUint(got[3], 16, 64); n&standard != ignored || err != nil {
			t.Errorf("%s: signals ignored are %s, want %x", before, got[3], ignored)
		}
		if n, err := strconv.ParseUint(got[1], 16, 64); n != 0 || err != nil {
			t.Errorf("%s: signals blocked are %s, want none", before, got[1])
		}
		if got[4] != "99" || got[5] != strconv.Itoa(pid) {
			t.Errorf("%s: limit of files and process are %s and %s, want 99 and %d", before, got[4], got[5], pid)
		}
	}
}
