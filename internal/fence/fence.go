//go:build linux

// Package fence keeps the nftables table `inet doorward`: what makes a door
// dark. It decides nothing; it is told which doors to guard and whom to let in.
package fence

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/port"
)

// ErrBusy means that another live process owns the table.
var ErrBusy = errors.New("another running process owns the nftables table inet doorward")

// Door is what the fence must know of one door.
type Door struct {
	Name      string         // a-z 0-9 - _, 1 to 24 characters
	Ports     []port.Range   // guarded; the ranges of all doors are disjoint
	Reject    bool           // strangers are told (TCP reset, ICMP unreachable) instead of met with silence
	SingleUse bool           // a grant is spent by the first new connection
	Always    []netip.Prefix // sources that need no grant
}

// Grant is leave for a source to open new connections to a door.
type Grant struct {
	Door   string
	Source netip.Prefix
	For    time.Duration // from now on; in answers, what is left
}

// Session is a TCP connection that stands when the fence rises.
type Session struct {
	Proto         port.Proto
	Local, Remote netip.AddrPort
}

// Fence is the kernel's table, reached over one lasting netlink connection.
type Fence struct{ log *slog.Logger }

// Open connects to the kernel and makes or adopts the table.
func Open(log *slog.Logger) (*Fence, error) { return &Fence{log: log}, errors.ErrUnsupported }

// Owned says whether the kernel protects the table from other processes.
func (f *Fence) Owned() bool { return false }

// Guard makes the kernel's table equal to doors, in one transaction.
func (f *Fence) Guard(doors []Door, sessions []Session) error { return errors.ErrUnsupported }

// Admit makes the standing sessions equal to sessions.
func (f *Fence) Admit(sessions []Session) error { return errors.ErrUnsupported }

// Change gives and revokes grants, in one transaction.
func (f *Fence) Change(give, revoke []Grant) error { return errors.ErrUnsupported }

// Grants reads all live grants from the kernel.
func (f *Fence) Grants() ([]Grant, error) { return nil, errors.ErrUnsupported }

// Check returns nil when the kernel's table is what Guard put there.
func (f *Fence) Check() error { return errors.ErrUnsupported }

// Watch signals when somebody else changed the table.
func (f *Fence) Watch(ctx context.Context) (<-chan struct{}, error) {
	return nil, errors.ErrUnsupported
}

// Refused reads how many packets were refused, by door.
func (f *Fence) Refused() (map[string]uint64, error) { return nil, errors.ErrUnsupported }

// Close ends the connection; the table stays.
func (f *Fence) Close() error { return nil }

// Cleanup removes the table; it is fine when there is none.
func Cleanup() error { return errors.ErrUnsupported }
