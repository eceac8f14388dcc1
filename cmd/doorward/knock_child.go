package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/doorward/doorward/internal/files"
)

// The exit statuses of a knock with a command that are not the command's, as those
// of env(1) and timeout(1).
const (
	statusOwn       = 125 // what doorward does itself has failed
	statusCannotRun = 126
	statusNotFound  = 127
)

// own gives an error the exit status of doorward's own failures, where a command has
// all others.
func own(err error, command bool) error {
	if _, has := errors.AsType[*statusError](err); err == nil || has || !command {
		return err
	}
	return &statusError{code: statusOwn, err: err}
}

// runCommand runs what the visitor typed after "--". Nothing is left to do then, so
// that the command takes this process's place where the system can do that:
// signals, terminal and exit status are the command's own.
func runCommand(e *env, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err == nil && e.become != nil {
		err = e.become(path, argv)
	} else if err == nil {
		err = runChild(e, path, argv)
	}
	if x, ok := errors.AsType[*exec.ExitError](err); ok && x.Exited() {
		return &statusError{code: x.ExitCode()}
	}
	if err != nil {
		return notRun(argv[0], path, err)
	}
	return nil
}

// runChild runs the command beside this process. An interrupt is the command's to
// deal with: a console sends it there as well.
func runChild(e *env, path string, argv []string) error {
	unheard := make(chan os.Signal, 1)
	signal.Notify(unheard, os.Interrupt)
	defer signal.Stop(unheard)
	c := exec.Command(path, argv[1:]...)
	c.Args[0] = argv[0]
	c.Stdin, c.Stdout, c.Stderr = e.stdin, e.stdout, e.stderr
	return c.Run()
}

// notRun is the error for a command that was not run. path is where it was found, or
// "".
func notRun(name, path string, err error) error {
	told := fmt.Errorf("run %q: %w", name, err)
	if n, ok := errors.AsType[syscall.Errno](err); ok {
		told = fmt.Errorf("run %q: %w", name, n) // without its path twice
	}
	code := statusCannotRun
	switch {
	case errors.Is(err, exec.ErrDot):
		code = statusNotFound
		told = withHint(fmt.Errorf("command %q is found in the working directory alone", name),
			"to run that one, type ./%s", name)
	case errors.Is(err, exec.ErrNotFound):
		if plain := inPath(name); plain != "" {
			told = fmt.Errorf("command %q cannot be run: %s is not executable for you", name, plain)
			break
		}
		code, told = statusNotFound, fmt.Errorf("command %q is not found", name)
	case errors.Is(err, fs.ErrNotExist) && path != "":
		// execve(2): ENOENT, "or a script's or ELF interpreter".
		code = statusNotFound
		told = fmt.Errorf("command %q cannot be run: the interpreter that %s names is not there", name, path)
	case errors.Is(err, fs.ErrNotExist):
		code, told = statusNotFound, fmt.Errorf("command %q is not found", name)
	case errors.Is(err, syscall.ENOEXEC):
		told = withHint(fmt.Errorf("command %q cannot be run: %s is not a program for this system, and has no #! line", name, path),
			"type its interpreter before it, such as sh %s", files.Quoted(path))
	}
	return &statusError{code: code, err: told}
}

// inPath returns the first file of this name in PATH's directories, "" for none.
func inPath(name string) string {
	if strings.ContainsRune(name, filepath.Separator) {
		return ""
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && filepath.IsAbs(path) {
			return path
		}
	}
	return ""
}
