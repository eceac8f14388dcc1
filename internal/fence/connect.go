//go:build linux

package fence

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/nfnetlink"
	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// connect dials unless there is a connection, and takes the table. It waits a little for
// an owner to go: the socket of a process that just ended, or of this fence's broken
// connection, is closed a moment later if a program was being started meanwhile, which
// holds a copy until it runs.
func (f *Fence) connect() error {
	if f.closed {
		return errClosed
	}
	if f.conn != nil {
		return nil
	}
	c, err := f.dial(nft.Dial)
	if err != nil {
		return err
	}
	if err := patiently(func() error { return f.take(c) }); err != nil {
		c.Close()
		return err
	}
	f.conn = c
	f.origin.Store(c.PortID)
	return nil
}

// reader is a connection for queries, separate from everything that changes the table.
type reader struct {
	turn sync.Mutex // held while it is used

	mu     sync.Mutex // guards the fields below
	conn   *nft.Conn  // nil: to be dialled
	closed bool
}

// connectReader returns a connection for queries, and dials unless there is one.
func (f *Fence) connectReader(r *reader) (c *nft.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed
	}
	if r.conn == nil {
		r.conn, err = f.dial(nft.Connect)
	}
	return r.conn, err
}

// hangUp closes the connection: the next query dials.
func (r *reader) hangUp() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.conn
	if r.conn = nil; c == nil {
		return nil
	}
	return c.Close()
}

// close ends the use of the reader, and a query that is under way.
func (r *reader) close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.hangUp()
}

// ask runs queries about what is guarded over one of the connections for them.
func (f *Fence) ask(r *reader, questions func(*nft.Conn) error) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	c, err := f.connectReader(r)
	if err == nil {
		_, err = f.guarded()
	}
	if err != nil {
		return err
	}
	if err = questions(c); errors.Is(err, nfnetlink.ErrBroken) {
		_ = r.hangUp()
	}
	return err
}

// patiently tries again for up to a second while another socket owns the table.
func patiently(try func() error) error {
	const tries = 50
	for i := 0; ; i++ {
		err := try()
		if !errors.Is(err, ErrBusy) || i == tries {
			return err
		}
		time.Sleep(time.Second / tries)
	}
}

// dial connects, and refuses another network namespace than the first connection's: a
// thread may be in another, and a fence must never be put up elsewhere by mistake.
func (f *Fence) dial(connect func(table string) (*nft.Conn, error)) (*nft.Conn, error) {
	c, err := connect(tableName)
	if err != nil {
		return nil, err
	}
	if !f.netns.CompareAndSwap(0, c.NetNS) && f.netns.Load() != c.NetNS {
		c.Close()
		return nil, errors.New("this thread is in another network namespace than the table")
	}
	return c, nil
}

// take creates or adopts the table. A table without persist cannot be given it; it is
// left for Guard to replace.
func (f *Fence) take(c *nft.Conn) error {
	f.manner.flags = 0
	f.owned.Store(false)
	if !f.plain {
		ok, err := c.Ownership()
		if err != nil {
			return err
		}
		if ok {
			f.manner.flags = nft.TableFlagOwner | nft.TableFlagPersist
		}
	}
	t, err := c.ReadTable()
	if err != nil {
		return err
	}
	if t != nil && t.Owner != 0 {
		return ErrBusy
	}
	if replaces(&nft.Table{Flags: f.manner.flags, Comment: layoutVersion}, t) {
		return nil
	}
	b := c.Batch()
	b.MakeTable(f.manner.flags, layoutVersion)
	if err := c.Commit(b); err != nil {
		return busy(err)
	}
	f.owned.Store(f.manner.flags != 0)
	return nil
}

// busy translates the kernel's EPERM, which after a successful dial has only one reason.
func busy(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (%w)", ErrBusy, err)
	}
	return err
}

// do runs one call over the connection. After an error that is not the kernel's
// plain refusal the connection's state is unknown, and the next call makes
// another and takes the table again.
func (f *Fence) do(what string, call func(*nft.Conn) error) error {
	if err := f.try(call); err != nil {
		return fmt.Errorf("fence: %s: %w", what, err)
	}
	return nil
}

// try is do without wrapping the error.
func (f *Fence) try(call func(*nft.Conn) error) error {
	err := f.connect()
	if err == nil {
		err = call(f.conn)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, nfnetlink.ErrBroken) && f.conn != nil {
		f.conn.Close()
		f.conn = nil
		f.owned.Store(false)
	}
	return err
}
