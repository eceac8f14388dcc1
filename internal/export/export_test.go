//go:build linux

package export

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/nstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a socket that takes what it is sent, or does not.
type receiver struct {
	net.PacketConn // nil: nothing else is asked of it

	mu      sync.Mutex
	refuses error
	got     []string // reasons
	writes  int
}

func (r *receiver) SetWriteDeadline(time.Time) error { return nil }
func (r *receiver) Close() error                     { return nil }

func (r *receiver) WriteTo(b []byte, _ net.Addr) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
	p, err := parse(b)
	if err != nil {
		return 0, err
	}
	if r.refuses != nil {
		return 0, r.refuses
	}
	if len(p.Params["reason"]) > 400 {
		return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("sendto", unix.EMSGSIZE)}
	}
	r.got = append(r.got, p.Params["reason"])
	return len(b), nil
}

func (r *receiver) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = err
}

// told are the records from one number to another.
func told(from, to int) (all []audit.Record) {
	for n := from; n <= to; n++ {
		all = append(all, audit.Record{ID: uint64(n), Time: at, Event: audit.EventExpired, Reason: fmt.Sprint(n)})
	}
	return all
}

func tell(e *Exporter, records []audit.Record) {
	for _, r := range records {
		e.Tell(r)
	}
}

// exporting returns an exporter with one target that a test plays, and its log.
func exporting(r net.PacketConn) (*Exporter, *bytes.Buffer) {
	var log bytes.Buffer
	e := newExporter(slog.New(slog.NewTextHandler(&log, nil)))
	e.start(Target{Syslog, "udp", "192.0.2.10:514"}, r, nil, nil)
	return e, &log
}

// What a receiver does not take is sent again until it does: nothing is left out, twice
// or in another order. That it does not, and that it does again, is said once.
func TestRecordsWaitForTheirReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{refuses: errors.New("connection refused")}
		e, log := exporting(r)
		tell(e, told(1, 3))
		time.Sleep(3*pause + pause/2)
		want := []string{"cannot send records of the audit trail to udp:192.0.2.10:514; trying again; doorward log has them: connection refused"}
		if d := cmp.Diff(want, e.Troubles()); d != "" {
			t.Errorf("troubles (-want +got):\n%s", d)
		}
		r.refuse(nil)
		time.Sleep(pause)
		tell(e, told(4, 4))
		e.Close(time.Minute)
		if d := cmp.Diff([]string{"1", "2", "3", "4"}, r.got); d != "" {
			t.Errorf("received (-want +got):\n%s", d)
		}
		if r.writes != 4+4 {
			t.Errorf("it was tried %d times, want four times in vain and four that succeed", r.writes)
		}
		for _, once := range []string{"records cannot be sent; trying again", "records are sent again"} {
			if n := strings.Count(log.String(), once); n != 1 {
				t.Errorf("the log says %d times %q, want once:\n%s", n, once, log)
			}
		}
		if len(e.Troubles()) > 0 {
			t.Errorf("it goes well, and troubles are %q", e.Troubles())
		}
		e.Tell(told(5, 5)[0]) // after the end: nothing
	})
}

// Whoever tells does not wait. What is too much to be kept is left out, counted and told
// of in its place.
func TestWhatIsTooMuchIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{refuses: errors.New("connection refused")}
		e, log := exporting(r)
		tell(e, told(1, 1))
		synctest.Wait() // it is not in the queue any more
		begun := time.Now()
		tell(e, told(2, mostWaiting+11))
		if took := time.Since(begun); took != 0 {
			t.Errorf("to tell takes %v", took)
		}
		r.refuse(nil)
		time.Sleep(pause)
		synctest.Wait()
		if n := len(r.got); n != 1+1+mostWaiting || r.got[0] != "1" || r.got[n-1] != fmt.Sprint(mostWaiting+1) {
			t.Errorf("%d are received, the last is %q", n, r.got[n-1])
		}
		const gap = "records that were not sent: 10; doorward log has them"
		if r.got[1] != gap || !strings.Contains(log.String(), "records=10") {
			t.Errorf("received in their place is %q, want %q; log:\n%s", r.got[1], gap, log)
		}
		e.Close(time.Minute)
	})
}

// One that no receiver can take does not hold up the others.
func TestARecordThatIsTooLongIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		e, _ := exporting(r)
		e.Tell(audit.Record{ID: 1, Time: at, Event: audit.EventError, Reason: strings.Repeat("x", 450)})
		tell(e, told(2, 2))
		e.Close(time.Minute)
		if d := cmp.Diff([]string{"2", "records that were not sent: 1; doorward log has them"}, r.got); d != "" {
			t.Errorf("received (-want +got):\n%s", d)
		}
	})
}

// The end waits for a receiver no longer than it is told to, and says what was left out.
func TestTheEndDoesNotWaitForAReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, log := exporting(&receiver{refuses: errors.New("connection refused")})
		e.start(Target{Journal, "unixgram", JournalSocket}, nil, nil, errors.New("too many open files"))
		tell(e, told(1, 5))
		begun := time.Now()
		e.Close(2 * time.Second)
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("the end takes %v", took)
		}
		for _, to := range []string{"to=udp:192.0.2.10:514 records=5", `to="the journal" records=5`} {
			if !strings.Contains(log.String(), to) {
				t.Errorf("the log does not say %s:\n%s", to, log)
			}
		}
	})
}

// hanging is a socket whose receiver takes nothing: what is sent waits for its deadline.
type hanging struct {
	net.PacketConn
	mu  sync.Mutex
	due time.Time
}

func (h *hanging) Close() error { return nil }

func (h *hanging) SetWriteDeadline(due time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.due = due
	return nil
}

func (h *hanging) WriteTo([]byte, net.Addr) (int, error) {
	h.mu.Lock()
	due := h.due
	h.mu.Unlock()
	time.Sleep(time.Until(due))
	return 0, &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
}

// However much waits for a receiver that hangs, the end waits for one attempt more.
func TestTheEndDoesNotWaitForAReceiverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, log := exporting(&hanging{})
		tell(e, told(1, 500))
		begun := time.Now()
		e.Close(2 * time.Second)
		if took := time.Since(begun); took > 2*time.Second+sendTime {
			t.Errorf("the end takes %v", took)
		}
		if want := "records=500"; !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log)
		}
	})
}

// received returns what comes to a socket until it is closed.
func received(conn net.PacketConn) <-chan string {
	c := make(chan string, 100)
	go func() {
		defer close(c)
		for buf := make([]byte, 1<<16); ; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			c <- string(buf[:n])
		}
	}()
	return c
}

// A datagram socket is found by its path each time, so that a daemon behind it may be
// started again.
func TestAReceiverMayBeStartedAgain(t *testing.T) {
	for _, form := range []Form{Journal, Syslog} {
		path := filepath.Join(t.TempDir(), "s")
		listen := func() net.PacketConn {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
		first := listen()
		e := Open([]Target{{form, "unixgram", path}}, slog.New(slog.DiscardHandler))
		tell(e, told(1, 1))
		got := []string{<-received(first)}
		first.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		tell(e, told(2, 2))
		second := listen()
		got = append(got, <-received(second))
		e.Close(time.Minute)
		second.Close()
		var want []string
		for _, r := range told(1, 2) {
			message := journalMessage(r)
			if form == Syslog {
				message = syslogMessage(r, hostname(), os.Getpid())
			}
			want = append(want, string(message))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("form %d (-want +got):\n%s", form, d)
		}
	}
}

// A server is sent to by a socket that hears nothing.
func TestSyslogOverUDP(t *testing.T) {
	n := nstest.New(t)
	n.Do(func() error {
		for _, address := range []string{"127.0.0.1:514", "[::1]:514"} {
			server, err := net.ListenPacket("udp", address)
			if err != nil {
				return err
			}
			e := Open([]Target{{Syslog, "udp", address}}, slog.New(slog.DiscardHandler))
			tell(e, told(1, 1))
			buf := make([]byte, 1<<16)
			size, from, err := server.ReadFrom(buf)
			if err != nil {
				return err
			}
			if p, err := parse(buf[:size]); err != nil || p.Params["id"] != "1" {
				t.Errorf("%s: received %q: %v", address, buf[:size], err)
			}
			if _, err := server.WriteTo([]byte("x"), from); err != nil {
				t.Error(err)
			}
			conn := e.senders[0].conn
			if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				t.Error(err)
			}
			if size, _, err := conn.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the sender's socket hears %d bytes: %v", address, size, err)
			}
			e.Close(time.Minute)
			server.Close()
		}
		return nil
	})
}

func TestTargetsAreCalledAsTheConfigurationDoes(t *testing.T) {
	var got []string
	for _, target := range []Target{{Journal, "unixgram", JournalSocket}, {Syslog, "unixgram", "/dev/log"}, {Syslog, "udp", "[2001:db8::1]:514"}} {
		got = append(got, target.String())
	}
	if want := []string{"the journal", "unix:/dev/log", "udp:[2001:db8::1]:514"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
