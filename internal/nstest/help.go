//go:build linux

package nstest

import (
	"bufio"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/port"
)

// Gate makes a server and a visitor and links them. The server's addresses are
// 192.0.2.1 and 2001:db8::1, the visitor's 192.0.2.2 and 2001:db8::2.
func Gate(t testing.TB) (server, visitor *NS) {
	t.Helper()
	server, visitor = New(t), New(t)
	Link(server, visitor, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	return server, visitor
}

// Ranges parses ranges of ports, such as "22/tcp". One that cannot be parsed fails
// the test.
func Ranges(t testing.TB, list ...string) []port.Range {
	t.Helper()
	var all []port.Range
	for _, s := range list {
		r, err := port.ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// Eventually waits until ok returns true, which another process or the kernel brings
// about. If that takes more than 20 seconds, the test fails.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 seconds: %s", what)
		}
	}
}

// Becomes waits, as Eventually does, until f returns want. If that does not happen,
// the test fails with what f returned last.
func Becomes(t testing.TB, what string, want []string, f func() []string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		d := cmp.Diff(want, f())
		if d == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s (-want +got):\n%s", what, d)
		}
	}
}

// Session starts a program that answers each line with the same line after the prefix
// before, such as a cat over ssh. The function say sends a line, and fails the test if
// it is not answered; end ends the session, and fails the test if the program fails.
// If end is not called, the program is killed when the test ends.
func Session(t testing.TB, program *exec.Cmd, before string) (say func(line string), end func()) {
	t.Helper()
	in, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Process.Kill(); program.Wait() })
	lines := bufio.NewScanner(out)
	say = func(line string) {
		t.Helper()
		if _, err := fmt.Fprintln(in, line); err != nil {
			t.Fatalf("send %q to the session: %v", line, err)
		}
		if !lines.Scan() || lines.Text() != before+line {
			t.Fatalf("the session answers %q with %q: %v", line, lines.Text(), lines.Err())
		}
	}
	return say, func() {
		t.Helper()
		in.Close()
		if err := program.Wait(); err != nil {
			t.Errorf("end the session: %v", err)
		}
	}
}
