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

// inherited is the descriptor of the socket that Start hands on.
const inherited = 3

// Serve is the launcher: it runs calls until the daemon has ended, and then
// returns nil when those under way have been given up. Only what reread, which
// reads the configuration from where the daemon cannot write, names is run, or
// has named to this launcher or one before: see record. What the daemon says is
// no reason, not even of one that has just started.
func Serve(log *slog.Logger, reread func() ([]Spec, error)) error {
	// They are the daemon's, at whose end this one ends. Caught, not ignored:
	// what is ignored stays ignored in the programs that are started, signal(7).
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
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

// hold takes the lock, for which an earlier launcher may have to end first.
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

// remember has what could be run before, as far as the record tells, and what the
// configuration says by now, be run. What the daemon has in use of the former
// stays in the record longest.
func (s *server) remember(used []Spec) error {
	err := s.record.open()
	for _, spec := range s.record.specs {
		s.known[spec.key()] = true
	}
	used = slices.DeleteFunc(slices.Clone(used), func(u Spec) bool { return !s.known[u.key()] })
	return errors.Join(err, s.record.add(used), s.learn())
}

// learn has what the configuration says by now be run.
func (s *server) learn() error {
	specs, err := s.reread()
	if err != nil {
		return fmt.Errorf("the launcher cannot read what may be run: %w", err)
	}
	for _, spec := range specs {
		s.known[spec.key()] = true
	}
	if err := s.record.add(specs); err != nil {
		s.log.Warn("should the configuration be damaged, doors' commands will be refused", "err", err)
	}
	return nil
}

// serve takes in calls until the daemon has ended.
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

// call runs one call and sends its answer. It is given up when the daemon closes
// its end of c, or ctx ends.
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
			err = svc.Watch(ctx, func(now service.Status) { _ = send(c, reply{Status: now}, nil) }) // the daemon's end ends it
		default:
			err = fmt.Errorf("%q is not a call", q.Call)
		}
	}
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

// service returns the service of a spec, if that may be run.
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
