package signer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/term"
)

// ErrNobody says that there is nobody to ask: no terminal, and no SSH_ASKPASS.
var ErrNobody = errors.New("there is no terminal to ask on, and no SSH_ASKPASS")

// Terminal returns the function that asks as ssh does: on the terminal of the process,
// whatever standard input is; where there is none but a display, or SSH_ASKPASS_REQUIRE
// says so, by the program SSH_ASKPASS (ssh(1), ENVIRONMENT).
func Terminal(getenv func(string) string) Ask {
	return func(ctx context.Context, prompt string, shown bool) ([]byte, error) {
		program := getenv("SSH_ASKPASS")
		require := getenv("SSH_ASKPASS_REQUIRE")
		display := getenv("DISPLAY") != "" || getenv("WAYLAND_DISPLAY") != ""
		if program != "" && (require == "force" || require == "prefer" && display) {
			return askProgram(ctx, program, prompt)
		}
		answer, err := askTerminal(ctx, prompt, shown)
		if errors.Is(err, ErrNobody) && program != "" && display && require != "never" {
			return askProgram(ctx, program, prompt)
		}
		return answer, err
	}
}

func askProgram(ctx context.Context, program, prompt string) ([]byte, error) {
	c := exec.CommandContext(ctx, program, prompt)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("SSH_ASKPASS %q: %w", program, err)
	}
	return bytes.TrimRight(out, "\r\n"), nil
}

// askTerminal asks on the terminal of the process.
func askTerminal(ctx context.Context, prompt string, shown bool) ([]byte, error) {
	in, out, err := terminal()
	if err != nil {
		return nil, ErrNobody
	}
	fd := int(in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, ErrNobody
	}
	fmt.Fprint(out, prompt)
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	// A read of a terminal cannot be ended. If ctx ends first, this goes on until the
	// process ends, which then is soon.
	go func() {
		var a answer
		if shown {
			a.text, a.err = bufio.NewReader(in).ReadBytes('\n')
			a.text = bytes.TrimRight(a.text, "\r\n")
		} else {
			a.text, a.err = term.ReadPassword(fd)
			fmt.Fprintln(out)
		}
		answers <- a
	}()
	select {
	case <-ctx.Done():
		term.Restore(fd, before)
		fmt.Fprintln(out)
		return nil, ctx.Err()
	case a := <-answers:
		in.Close()
		out.Close()
		if a.err != nil {
			return nil, fmt.Errorf("read the terminal: %w", a.err)
		}
		return a.text, nil
	}
}
