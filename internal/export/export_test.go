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
	"github.com/doorward/doorward/internal/journal"
	"github.com/doorward/doorward/internal/nstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a socket that accepts what is sent, or refuses it.
type receiver struct {
	net.PacketConn // nil: none of its other methods are called

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

// told returns the records from one number to another.
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

// exporting returns an exporter with one target, for which a test stands in, and its log.
func exporting(r net.PacketConn) (*Exporter, *bytes.Buffer) {
	var log bytes.Buffer
	e := newExporter(slog.New(slog.NewTextHandler(&log, nil)))
	e.start(Target{Syslog, "udp", "192.0.2.10:514"}, r, nil, nil)
	return e, &log
}

// What cannot be sent is sent again until it can: nothing is left out, repeated or
// reordered. The log says once that it cannot be sent, and once that it can again.
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
			t.Errorf("%d attempts, want four that fail and four that succeed", r.writes)
		}
		for _, once := range []string{"records cannot be sent; trying again", "records are sent again"} {
			if n := strings.Count(log.String(), once); n != 1 {
				t.Errorf("the log has %q %d times, want once:\n%s", once, n, log)
			}
		}
		if len(e.Troubles()) > 0 {
			t.Errorf("troubles %q although records are sent, want none", e.Troubles())
		}
		e.Tell(told(5, 5)[0]) // does nothing after Close
	})
}

// Tell does not wait. Records for which the queue has no room are left out, and a record
// in their place says how many.
func TestWhatIsTooMuchIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{refuses: errors.New("connection refused")}
		e, log := exporting(r)
		tell(e, told(1, 1))
		synctest.Wait() // until it is no longer in the queue
		begun := time.Now()
		tell(e, told(2, mostWaiting+11))
		if took := time.Since(begun); took != 0 {
			t.Errorf("Tell takes %v, want no time", took)
		}
		r.refuse(nil)
		time.Sleep(pause)
		synctest.Wait()
		if n := len(r.got); n != 1+1+mostWaiting || r.got[0] != "1" || r.got[n-1] != fmt.Sprint(mostWaiting+1) {
			t.Errorf("%d are received, the last is %q; want %d, the last %d", n, r.got[n-1], 1+1+mostWaiting, mostWaiting+1)
		}
		const gap = "records that were not sent: 10; doorward log has them"
		if r.got[1] != gap || !strings.Contains(log.String(), "records=10") {
			t.Errorf("received %q in their place, want %q; log:\n%s", r.got[1], gap, log)
		}
		e.Close(time.Minute)
	})
}

// A record that is too long for a datagram does not hold up the others.
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

// Close waits for a receiver no longer than it may, and logs how many records were left
// out.
func TestTheEndDoesNotWaitForAReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, log := exporting(&receiver{refuses: errors.New("connection refused")})
		e.start(Target{Journal, "unixgram", journal.Socket}, nil, nil, errors.New("too many open files"))
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

// hanging is a socket whose receiver hangs: each attempt to send waits for its deadline.
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

// However much waits for a receiver that hangs, Close waits for one more attempt at most.
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

// received returns what a socket receives until it is closed.
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

// A datagram socket is looked up by its path each time, so that the daemon behind it may
// be restarted.
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

// The socket that sends to a server receives nothing.
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
				t.Errorf("%s: the sender's socket received %d bytes: %v", address, size, err)
			}
			e.Close(time.Minute)
			server.Close()
		}
		return nil
	})
}

func TestTargetsAreCalledAsTheConfigurationDoes(t *testing.T) {
	var got []string
	for _, target := range []Target{{Journal, "unixgram", journal.Socket}, {Syslog, "unixgram", "/dev/log"}, {Syslog, "udp", "[2001:db8::1]:514"}} {
		got = append(got, target.String())
	}
	if want := []string{"the journal", "unix:/dev/log", "udp:[2001:db8::1]:514"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
