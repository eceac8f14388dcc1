//go:build linux

// Command demo tells the story of a door as it happens: real programs (sshd,
// ssh, nmap, telnet, nft) meet a real doorwardd on three hosts that are network
// namespaces, and each step is checked as it is told. It exits with 0 only when
// every step happened. Nothing outside its namespaces is touched.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/output"
)

func main() {
	bin := flag.String("bin", "bin", "directory of the programs doorwardd and doorward")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *bin); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: error: %v\n", err)
		os.Exit(1)
	}
}

// run tells the whole story to out.
func run(ctx context.Context, out io.Writer, bin string) (err error) {
	network, err := lab.New()
	if err != nil {
		return err
	}
	defer func() {
		if e := network.Close(); err == nil {
			err = e
		}
	}()
	t := &teller{out: out, begun: time.Now()}
	s := &story{teller: t, lab: network, bin: bin}
	defer func() {
		if s.wire != nil {
			s.wire.close()
		}
	}()
	for n, c := range s.chapters() {
		t.say("\n%d. %s", n+1, c.title)
		err := c.tell(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted in step %d; all is cleaned up", n+1)
		}
		if err != nil {
			t.say("   ✗ this did not happen")
			if s.gate != nil {
				t.say("\nWhat the daemon said last:\n%s", lastLines(s.gate.Output(), 15))
			}
			return fmt.Errorf("step %d, %q: %w", n+1, c.title, err)
		}
	}
	t.say("\nAll %d steps happened, in %.0f s.", len(s.chapters()), time.Since(t.begun).Seconds())
	return nil
}

// teller prints the story.
type teller struct {
	out   io.Writer
	begun time.Time
}

// say prints a line of the story.
func (t *teller) say(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// tick prints what was just seen to be so.
func (t *teller) tick(format string, args ...any) {
	t.say("   ✓ %s  (%.0f s)", fmt.Sprintf(format, args...), time.Since(t.begun).Seconds())
}

// typed prints a command as a person on the host would have typed it.
func (t *teller) typed(host string, argv ...string) {
	t.say("   %s$ %s", host, strings.Join(argv, " "))
}

// described is a line of a list: a word, at least two blanks, and what it is about.
var described = regexp.MustCompile(`^ *\S+ {2,}`)

// quote prints lines of a program's output, the long ones broken as a terminal has them.
func (t *teller) quote(text string) {
	const most = output.PlainWidth - len("     | ")
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		broken := []string{line}
		if utf8.RuneCountInString(line) > most {
			begin := described.FindString(line)
			broken = output.Hang(begin, line[len(begin):], most)
		}
		for _, line := range broken {
			t.say("     │ %s", line)
		}
	}
}

// lastLines is the end of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
