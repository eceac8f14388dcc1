//go:build linux

package launcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/service"
)

// inherited is the descriptor of the socket that Start passes.
const inherited = 3

// Serve is the launcher: it runs calls until the daemon has ended, cancels those that
// are under way, and returns nil. It runs only what reread returns, or has returned to
// this launcher or an earlier one (see record); reread must read the configuration from
// a place where the daemon cannot write. What the daemon asks for is never run for that
// reason alone, even if the daemon has just started.
func Serve(log *slog.Logger, reread func() ([]Spec, error)) error {
	// These signals are for the daemon; the launcher ends when the daemon has. They are
	// caught, not ignored, since an ignored signal stays ignored in the programs that are
	// started, signal(7).
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	// Nobody waits for what is started in the way in which visitors wait for the daemon: none
	// of it may raise its priority as the daemon's threads do.
	if err := unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set the limit of nice values: %w", err)
	}
	unix.CloseOnExec(inherited)
	conn, err := connOf(os.NewFile(inherited, "daemon"))
	if err != nil {
		return fmt.Errorf("only doorwardd itself starts a launcher: %w", err)
	}
	defer conn.Close()
	var h hello
	if _, err := receive(conn, &h); err != nil {
		return fmt.Errorf("receive what may be run: %w", err)
	}
	lock, err := hold(filepath.Join(h.Dir, "launcher.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	s := &server{log: log, dir: h.Dir, reread: reread, record: record{path: filepath.Join(h.Dir, "launcher.commands")},
		known: make(map[string]bool), services: make(map[string]*service.Command)}
	if err := s.remember(h.Specs); err != nil {
		log.Warn("doors' commands may be refused", "err", err)
	}
	return s.serve(conn)
}

// hold takes the lock, and waits for it while an earlier launcher is still ending.
func hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the launcher's lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	return f, nil
}

// server runs calls.
type server struct {
	log    *slog.Logger
	dir    string // of pid files
	reread func() ([]Spec, error)

	mu       sync.Mutex // guards what follows
	record   record
	known    map[string]bool
	services map[string]*service.Command
}

// remember allows what the record has, and what the configuration says now. Specs of
// the record that the daemon has in use move to its front, so that they stay longest.
func (s *server) remember(used []Spec) error {
	err := s.record.open()
	for _, spec := range s.record.specs {
		s.known[spec.key()] = true
	}
	used = slices.DeleteFunc(slices.Clone(used), func(u Spec) bool { return !s.known[u.key()] })
	return errors.Join(err, s.record.add(used), s.learn())
}

// learn allows what the configuration says now.
func (s *server) learn() error {
	specs, err := s.reread()
	if err != nil {
		return fmt.Errorf("the launcher cannot read what may be run: %w", err)
	}
	for _, spec := range specs {
		s.known[spec.key()] = true
	}
	if err := s.record.add(specs); err != nil {
		s.log.Warn("doors' commands will be refused if the configuration file becomes unusable", "err", err)
	}
	return nil
}

// serve receives and runs calls until the daemon has ended.
func (s *server) serve(conn *net.UnixConn) error {
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	for {
		var q request
		f, err := receive(conn, &q)
		switch {
		case errors.Is(err, errEnded):
			return nil
		case err != nil:
			return fmt.Errorf("receive from the daemon: %w", err)
		case f == nil:
			return errors.New("the daemon sent a call without a socket for its answer")
		}
		c, err := connOf(f)
		if err != nil {
			return err
		}
		calls.Go(func() {
			defer c.Close()
			s.call(ctx, c, q)
		})
	}
}

// call runs one call and sends its answer. The call is cancelled when the daemon closes
// its end of c, or when ctx ends.
func (s *server) call(ctx context.Context, c *net.UnixConn, q request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with c
		var none struct{}
		if f, err := receive(c, &none); err == nil && f != nil {
			f.Close()
		}
		cancel()
	}()
	if q.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, q.Timeout)
		defer stop()
	}
	r := s.run(ctx, c, q)
	if err := send(c, r, nil); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot answer the daemon", "call", q.Call, "err", err)
	}
}

// run runs a call and returns its last answer.
func (s *server) run(ctx context.Context, c *net.UnixConn, q request) (r reply) {
	svc, err := s.service(q.Spec)
	if err == nil {
		switch q.Call {
		case callStart:
			err = svc.Start(ctx)
		case callStop:
			err = svc.Stop(ctx)
		case callStatus:
			r.Status, err = svc.Status(ctx)
		case callWatch:
			err = svc.Watch(ctx, func(now service.Status) { _ = send(c, reply{Status: now}, nil) }) // ctx ends if the daemon's end is closed
		default:
			err = fmt.Errorf("%q is not a call", q.Call)
		}
	}
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

// service returns the service of a spec, or an error if the spec may not be run.
func (s *server) service(spec Spec) (*service.Command, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := spec.key()
	if svc := s.services[key]; svc != nil {
		return svc, nil
	}
	if !s.known[key] {
		if err := s.learn(); err != nil {
			return nil, err
		}
	}
	if !s.known[key] {
		return nil, fmt.Errorf("the launcher was asked to run %q for door %q, which is not in the configuration", spec.Start, spec.Door)
	}
	svc := service.NewCommand(spec.Start, spec.Stop, spec.Status, filepath.Join(s.dir, spec.Door+".pid"),
		s.log.With("door", spec.Door))
	s.services[key] = svc
	return svc, nil
}
