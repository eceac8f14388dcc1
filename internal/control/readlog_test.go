package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/doorward/doorward/internal/audit"
)

// trail is a backend with an audit trail and a daemon that comes and goes.
type trail struct {
	stub
	mu      sync.Mutex
	ends    audit.Ends
	records []audit.Record
	gone    uint64
	cut     int // the most records of a page, 0 for as many as are asked for
	newest  chan struct{}
	pages   int // how many were asked for

	question LogQuery // the latest

	p    *pipes
	stop func()
}

func (b *trail) Newer() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.newest
}

func (b *trail) Log(q LogQuery) (LogPage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages, b.question = b.pages+1, q
	p := LogPage{Through: q.After}
	for _, r := range b.records {
		p.Last = r.ID
		if r.ID > q.After && r.ID > b.gone && (q.Door == "" || r.Door == q.Door) {
			p.Records = append(p.Records, r)
		}
	}
	p.Through = max(p.Through, p.Last)
	if q.Oldest && q.After < b.gone {
		p.Gone = b.gone
	}
	if b.cut > 0 {
		q.Limit = min(q.Limit, b.cut)
	}
	if n := len(p.Records) - q.Limit; n > 0 && q.Oldest {
		p.Records = p.Records[:q.Limit]
		p.Through = p.Records[q.Limit-1].ID
	} else {
		p.Records = p.Records[max(0, n):]
	}
	return p, nil
}

// add adds records at two doors in turn.
func (b *trail) add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range n {
		id := uint64(len(b.records) + 1)
		r, _, err := b.ends.Chain(audit.Record{ID: id, Door: []string{"db", "ssh"}[id%2], Event: audit.EventGranted})
		if err != nil {
			panic(err)
		}
		b.records = append(b.records, r)
	}
	close(b.newest)
	b.newest = make(chan struct{})
}

func (b *trail) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	p, ended := newPipes(), make(chan error)
	s := NewServer(b, quiet)
	s.peerAt = func(net.Conn) (audit.Operator, error) { return audit.Operator{}, nil }
	go func() { ended <- s.Serve(ctx, p) }()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.p = p
	b.stop = func() {
		b.mu.Lock()
		b.p = nil
		b.mu.Unlock()
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
	}
}

// client returns a client of the daemon.
func (b *trail) client() *Client {
	c := NewClient("/run/control.sock")
	c.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		b.mu.Lock()
		p := b.p
		b.mu.Unlock()
		if p == nil {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		}
		ours, theirs := net.Pipe()
		p.conns <- theirs
		return ours, nil
	}}
	return c
}

// withTrail runs f beside a daemon with an empty trail.
func withTrail(t *testing.T, f func(t *testing.T, b *trail)) {
	synctest.Test(t, func(t *testing.T) {
		b := &trail{newest: make(chan struct{})}
		b.begin()
		f(t, b)
		b.stop()
	})
}

func upTo(n int) (ids []uint64) {
	for id := range n {
		ids = append(ids, uint64(id+1))
	}
	return ids
}

// A long trail is read completely, each record once and in order, in short pages.
func TestReadLogInPages(t *testing.T) {
	withTrail(t, func(t *testing.T, b *trail) {
		b.add(2500)
		for _, tt := range []struct {
			q        LogQuery
			from, to int
			pages    int
		}{
			{LogQuery{Oldest: true}, 1, 2500, 3}, {LogQuery{After: 100}, 101, 2500, 3}, {LogQuery{After: 100, Limit: 1200}, 101, 1300, 2},
			{LogQuery{After: 2500}, 1, 0, 1}, {LogQuery{Oldest: true, Limit: 7}, 1, 7, 1}, {LogQuery{Limit: 30}, 2471, 2500, 1}, {LogQuery{}, 2401, 2500, 1},
			{LogQuery{Oldest: true, Limit: 1000}, 1, 1000, 1},
		} {
			var got []uint64
			b.pages = 0
			last, err := b.client().ReadLog(t.Context(), LogReader{Query: tt.q, Each: func(r audit.Record) error {
				got = append(got, r.ID)
				return nil
			}, Gone: func(after, until uint64) { t.Errorf("%+v: records behind %d to %d are gone", tt.q, after, until) }})
			if err != nil || last != 2500 || b.pages != tt.pages {
				t.Errorf("%+v: %v, the last is %d, in %d pages, want 2500 in %d", tt.q, err, last, b.pages, tt.pages)
			}
			if d := cmp.Diff(upTo(2500)[tt.from-1:max(tt.from-1, tt.to)], got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("%+v (-want +got):\n%s", tt.q, d)
			}
		}
		// What one page leaves out is in the next; and the end is reached even if records
		// keep coming.
		b.cut = 7
		var got []uint64
		if _, err := b.client().ReadLog(t.Context(), LogReader{Query: LogQuery{Oldest: true, Door: "ssh"}, Each: func(r audit.Record) error {
			got = append(got, r.ID)
			b.add(1)
			return nil
		}}); err != nil || len(got) < 1250 || len(got) > 1257 {
			t.Errorf("%d records, %v, want 1250 and the rest of a page", len(got), err)
		}
		_, err := b.client().ReadLog(t.Context(), LogReader{Query: LogQuery{After: 9999}, Each: func(audit.Record) error { return nil }})
		want := fmt.Sprintf("the audit trail has no record 9999 as it was read before: the trail ends with record %d; the trail was started over, or its end was lost", len(b.records))
		if err == nil || err.Error() != want {
			t.Errorf("behind the end: %v, want %s", err, want)
		}
	})
}

// Records that are dropped while the trail is read, or were dropped before, are reported
// once.
func TestReadLogSaysWhatIsGone(t *testing.T) {
	withTrail(t, func(t *testing.T, b *trail) {
		b.add(5000)
		b.gone = 1000
		var said []string
		read := func(q LogQuery, each func(audit.Record) error) {
			said = nil
			_, err := b.client().ReadLog(t.Context(), LogReader{Query: q, Each: each,
				Gone: func(after, until uint64) { said = append(said, fmt.Sprint(after, "-", until)) }})
			if err != nil {
				t.Error(err)
			}
		}
		nothing := func(audit.Record) error { return nil }
		for _, tt := range []struct {
			q    LogQuery
			want []string
		}{
			{LogQuery{Oldest: true}, nil}, {LogQuery{After: 700}, []string{"700-1000"}}, {LogQuery{After: 1000}, nil}, {LogQuery{After: 1200}, nil}, {LogQuery{}, nil},
		} {
			if read(tt.q, nothing); !slices.Equal(said, tt.want) {
				t.Errorf("%+v: says %q, want %q", tt.q, said, tt.want)
			}
		}
		if read(LogQuery{Oldest: true}, func(r audit.Record) error {
			if r.ID == 1500 {
				b.gone = 3000
			}
			return nil
		}); !slices.Equal(said, []string{"2000-3000"}) {
			t.Errorf("says %q, want that the records after 2000, up to 3000, are gone", said)
		}
	})
}

// A follow continues over restarts of the daemon, and loses and repeats nothing, whenever
// they happen.
func TestFollowOverRestarts(t *testing.T) {
	for _, q := range []LogQuery{{Follow: true, Limit: 5}, {Follow: true, Oldest: true}, {Follow: true, After: 3}, {Follow: true, Oldest: true, Door: "ssh"}} {
		withTrail(t, func(t *testing.T, b *trail) {
			b.add(10)
			ctx, cancel := context.WithCancel(t.Context())
			var got []uint64
			var said []string
			ended := make(chan error)
			go func() {
				_, err := b.client().ReadLog(ctx, LogReader{Query: q,
					Each: func(r audit.Record) error { got = append(got, r.ID); return nil },
					Away: func(err error) { said = append(said, err.Error()) },
					Back: func() { said = append(said, "back") }})
				ended <- err
			}()
			synctest.Wait()
			random := rand.New(rand.NewPCG(7, uint64(q.Limit)+q.After))
			for range 60 {
				switch random.IntN(4) {
				case 0:
					b.stop()
					b.add(random.IntN(3))
					time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
					b.add(random.IntN(2) * 1500)
					b.begin()
				case 1:
					time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
				default:
					b.add(random.IntN(4))
				}
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			cancel()
			if err := <-ended; err != context.Canceled {
				t.Errorf("%+v: ends with %v, want %v", q, err, context.Canceled)
			}
			var want []uint64
			for _, r := range b.records {
				if r.ID > q.After && (q.Door == "" || r.Door == q.Door) && (q.Limit == 0 || r.ID > 5) {
					want = append(want, r.ID)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%+v (-want +got):\n%s", q, d)
			}
			away := 0
			for i, s := range said {
				if (i%2 == 0) != strings.HasPrefix(s, "no daemon answers at /run/control.sock") {
					t.Errorf("%+v: says %q", q, said)
					break
				}
				away += i % 2
			}
			if away == 0 {
				t.Errorf("%+v: does not say that the daemon was away: %q", q, said)
			}
		})
	}
}

// A follow ends with an error if the trail is started over.
func TestFollowOfATrailThatIsStartedOver(t *testing.T) {
	for _, tt := range []struct {
		before, after int
		why           string
	}{
		{10, 3, "the trail ends with record 3"}, {10, 10, "another one is there"}, {10, 20, "another one is there"}, {2, 0, "the trail ends with record 0"},
	} {
		withTrail(t, func(t *testing.T, b *trail) {
			b.add(tt.before)
			ended := make(chan error)
			go func() {
				_, err := b.client().ReadLog(t.Context(), LogReader{Query: LogQuery{Follow: true}, Each: func(audit.Record) error { return nil }})
				ended <- err
			}()
			synctest.Wait()
			b.stop()
			b.records, b.ends = nil, audit.Ends{{Hash: "another"}}
			b.add(tt.after)
			b.begin()
			err := <-ended
			want := fmt.Sprintf("the audit trail has no record %d as it was read before: %s; the trail was started over, or its end was lost", tt.before, tt.why)
			if err == nil || err.Error() != want {
				t.Errorf("%d records and then %d: %v, want %s", tt.before, tt.after, err, want)
			}
		})
	}
}

// A follow that is left behind reports what it has missed, and continues.
func TestFollowThatIsLeftBehind(t *testing.T) {
	withTrail(t, func(t *testing.T, b *trail) {
		b.add(10)
		ctx, cancel := context.WithCancel(t.Context())
		var got []uint64
		var said []string
		ended := make(chan error)
		go func() {
			_, err := b.client().ReadLog(ctx, LogReader{Query: LogQuery{Follow: true, Oldest: true},
				Each: func(r audit.Record) error { got = append(got, r.ID); return nil },
				Gone: func(after, until uint64) { said = append(said, fmt.Sprint(after, "-", until)) },
				Away: func(err error) { said = append(said, err.Error()) }})
			ended <- err
		}()
		synctest.Wait()
		for n := range 2 { // first while the daemon runs, then while it is away
			if n == 1 {
				b.stop()
			}
			b.mu.Lock()
			b.gone = uint64(len(b.records) + 20)
			b.mu.Unlock()
			b.add(30)
			if n == 1 {
				b.begin()
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		cancel()
		<-ended
		want := slices.Concat(upTo(10), upTo(40)[30:], upTo(70)[60:])
		if d := cmp.Diff(want, got); d != "" || !slices.Equal(said, []string{"10-30", "40-60"}) {
			t.Errorf("says %q; (-want +got):\n%s", said, d)
		}
	})
}

// A follower for which there are no new records does not make the daemon search the whole
// trail again.
func TestAFollowerSearchesWhatIsNew(t *testing.T) {
	withTrail(t, func(t *testing.T, b *trail) {
		b.add(1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- b.client().Log(ctx, LogQuery{Follow: true, Door: "none"}, func(audit.Record) error { return errors.New("there is one") })
		}()
		synctest.Wait()
		for range 10 {
			b.add(100)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if b.pages != 11 {
			t.Errorf("the trail was asked %d times, want 11", b.pages)
		}
		if q := b.question; q.After != 901 || !q.Oldest {
			t.Errorf("the last query was %+v, want it to ask for what comes after 901", q)
		}
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Error(err)
		}
	})
}
