//go:build linux

package daemon

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/doorward/doorward/internal/legible"
)

// NewLogger returns the daemon's logger: text on a terminal, JSON otherwise. In
// the journal each line says its priority (sd-daemon(3)), so that `journalctl
// -p err` finds what matters.
func NewLogger(w *os.File, level *slog.LevelVar) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if term.IsTerminal(int(w.Fd())) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	if os.Getenv("JOURNAL_STREAM") != "" { // systemd.exec(5)
		return slog.New(slog.NewJSONHandler(legibleWriter{&journal{w: w}}, opts))
	}
	return slog.New(slog.NewJSONHandler(legibleWriter{w}, opts))
}

// legibleWriter escapes in lines of slog's JSON what does not print; on a terminal
// slog's text quotes it. journalctl would show nothing of a line with controls.
type legibleWriter struct{ w io.Writer }

func (l legibleWriter) Write(line []byte) (int, error) {
	if _, err := l.w.Write(legible.JSON(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// journal writes lines of slog's JSON with a priority in front.
type journal struct {
	mu  sync.Mutex // keeps a line and its priority together
	w   io.Writer
	buf []byte
}

// Write takes one line, as slog's handlers write them.
func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf = append(j.buf[:0], '<')
	j.buf = strconv.AppendInt(j.buf, int64(priority(line)), 10)
	j.buf = append(append(j.buf, '>'), line...)
	if _, err := j.w.Write(j.buf); err != nil {
		return 0, err
	}
	return len(line), nil
}

// priority is the syslog priority (syslog(3)) of a line of slog's JSON, whose
// level stands before all that the caller wrote.
func priority(line []byte) int {
	_, rest, _ := bytes.Cut(line, []byte(`"level":"`))
	switch {
	case bytes.HasPrefix(rest, []byte("ERROR")):
		return 3
	case bytes.HasPrefix(rest, []byte("WARN")):
		return 4
	case bytes.HasPrefix(rest, []byte("DEBUG")):
		return 7
	}
	return 6
}

// monotonicMicroseconds is CLOCK_MONOTONIC, as sd_notify's reload wants it.
func monotonicMicroseconds() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano() / 1000
}
