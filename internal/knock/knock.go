// Package knock declares the interfaces that a kind of knock implements. A kind is a
// package of its own that has a Kind, and a line in the list of internal/kinds: nothing
// else knows its name. Its Kind reads a [[door.NAME.knock]] table into a Rule, which says
// where the knock is heard and makes a Recogniser, which judges what was heard. What a
// verdict leads to is up to the door.
//
// The package is pure, and so are kinds: they have no sockets, files, goroutines or
// clock of their own.
package knock

import (
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// Kind is one kind of knock.
type Kind interface {
	// Name is the kind's word in the configuration and in the audit trail.
	Name() string
	// Read reads and checks a knock's table and notes all its mistakes there. It asks
	// for every key that the kind has, whatever the others say; the key "kind" has been
	// asked for already. After a mistake it returns nil, or a Rule with the places that
	// could be read.
	Read(table *tables.Table) Rule
	// Reference is the kind's part of reference.toml: its table's keys, each with its
	// meaning, what is allowed, and its default as its value where it has one.
	Reference() string
	// Needs is the most that any rule of the kind needs of the machine.
	Needs() Needs
}

// Rule is one knock as it is configured. It does not change, and goroutines may
// share it.
type Rule interface {
	// Hears are the places where the knock is heard, each once. No other knock hears
	// anything there.
	Hears() []Place
	// Recogniser returns a Recogniser that has heard nothing since armed. Marks are those
	// that earlier verdicts left, of all knocks of the kind at the same door, in no order:
	// a mark's key says whose it is.
	Recogniser(armed time.Time, marks []Mark) Recogniser
	// Lasts is the longest time from what is heard first of a knock to its verdict.
	Lasts() time.Duration
	// ForAll reports whether a right knock opens to everybody until the door goes dark.
	ForAll() bool
	// Needs is what this rule needs of the machine while it is in use.
	Needs() Needs
	// Warnings say what is allowed but probably not meant, one sentence each.
	Warnings() []string
	// Words say what a visitor does, for the operator alone: they are the secret.
	Words() string
}

// Opener is a Rule that hears datagrams, each in one of UDP or over a Stream.
type Opener interface {
	// Glance judges at almost no cost whether a datagram from a source may wait to be
	// opened. It is called for each that comes, from several goroutines at once, and
	// takes no memory. Payload and answer are its own until it returns. Busy says that
	// there is more to open than is opened at once, from sources that may be forged. If
	// the datagram is Junk, the first n bytes of answer, which Glance has written, go
	// back to the sender at once: answer has the room for what may be sent, which is no
	// more than came. Of another rank, n means nothing.
	Glance(from netip.Addr, payload []byte, busy bool, answer []byte) (rank Rank, n int)
	// Open makes of a datagram that is not Junk what a Recogniser is to hear; ok is false
	// when that is nothing. It may take long: a bounded pool calls it, from several
	// goroutines at once. What it answers, if not nil, goes back to the sender at once,
	// who need not be there: it is not longer than the datagram.
	Open(d Datagram) (said any, answer []byte, ok bool)
}

// Rank is what a glance at a datagram says of it.
type Rank uint8

// Junk is not opened. Claimed waits to be opened, and its source may be forged. Shown is
// opened before those, and its source has shown that it receives: the datagram contains
// what was sent there and nowhere else, and cannot be guessed.
const (
	Junk Rank = iota
	Claimed
	Shown
)

// Medium is how a knock is heard.
type Medium uint8

// Connections are completed handshakes with an open TCP port, so that their sources are
// proven; nothing is read from them. Datagrams come to a UDP port from sources that may
// be forged. Streams carry datagrams over connections to an open TCP port, each after its
// length as two bytes, most significant first: their sources are proven, and all of their
// datagrams that are not Junk are Shown.
const (
	Connections Medium = iota + 1
	Datagrams
	Streams
)

// Place is where a knock is heard.
type Place struct {
	Medium Medium
	Port   uint16
}

// AsPort is the place as a port of its protocol.
func (p Place) AsPort() port.Port {
	if p.Medium == Datagrams {
		return port.Port{Proto: port.UDP, Number: p.Port}
	}
	return port.Port{Proto: port.TCP, Number: p.Port}
}

// Range is the place as a range of one port.
func (p Place) Range() port.Range {
	return port.Range{Proto: p.AsPort().Proto, First: p.Port, Last: p.Port}
}

// Path is the way that a datagram came, and that an answer goes back. The zone of a
// link-local address is the number of its interface.
type Path struct {
	From netip.AddrPort // the sender, never IPv4-mapped, with its zone
	To   netip.AddrPort // the address of this machine that was asked
	If   int            // the index of the interface that it came in by; 0 for a stream's
	// Stream is the number of the connection that it came by, which no other has while
	// the listener lives; 0 for one of UDP.
	Stream uint64
}

// Datagram is one datagram as it came. Payload is the receiver's to keep.
type Datagram struct {
	Path    Path
	Payload []byte
	Time    time.Time // when it was received; keeps its monotonic reading
}

// Heard is one thing that was heard: a connection, or what an Opener made of a
// datagram.
type Heard struct {
	Source netip.Addr // valid, never IPv4-mapped, never with a zone
	Place  Place
	Time   time.Time // when it was heard; keeps its monotonic reading
	Proven bool      // the source can receive at its address: a connection, or a datagram that is Shown
	// Said is by an Opener; nil for a connection. After a reload what the rule before has
	// opened may still come: so that a Recogniser has to check its type.
	Said any
	Path Path // zero for a connection
	// Door is what Said names (ToDoor), "" for none. Of the doors that share the place it
	// goes to the one of that name, and to the first of them if none has it.
	Door string
}

// Recogniser follows what is heard by one Rule. It is not safe for concurrent use.
type Recogniser interface {
	// Hear follows what was heard at one of the rule's places, in the order of its time,
	// and returns the verdicts that are due by then, in the order in which they fell.
	// That time may be before the latest Look, if the listener had it in hand while the
	// process did not run; this alone does not make it too late.
	Hear(h Heard) []Verdict
	// Look returns the verdicts that are due by now, with nothing more heard.
	Look(now time.Time) []Verdict
	// Next is when Look has something to do; false: nothing is under way.
	Next() (time.Time, bool)
	// Gap notes that nobody could be heard between two moments: nobody is judged for that
	// time.
	Gap(from, to time.Time)
	// Follow switches to another rule, if what is under way can go on under it, and
	// reports whether it did. If not, nothing has changed.
	Follow(rule Rule) bool
	// GiveUp forgets what a source has under way, or what everybody has if source is the
	// zero Addr or the rule is ForAll, and reports whether there was anything.
	GiveUp(source netip.Addr) bool
	// Rearm forgets what is under way, as if the recogniser were new.
	Rearm(now time.Time)
	// Closed returns those of the rule's places that are to be closed for now.
	Closed() []Place
}

// Verdict is what a knock came to.
type Verdict struct {
	Right bool
	// Close makes a right one take back what By has at the source instead of opening. With
	// Only it opens, and takes back what By has elsewhere, at other sources of the same
	// address family. Neither is for Everybody.
	Close     bool
	Only      bool
	Alarm     bool       // a wrong one that an operator is to be told of, as a knock by a key that is locked
	Source    netip.Addr // whose knock it was; means nothing with Everybody
	Everybody bool       // the knock was everybody's, and so is what follows from it
	Proven    bool       // all that was heard of it came from sources that were proven
	Time      time.Time  // when it was decided
	// By is who knocked, besides the kind's name, as "alice SHA256:..."; "" for nobody
	// in particular.
	By string
	// Reason is for people. It does not give the knock away, since logs are read by more
	// people than those who may knock.
	Reason  string
	Code    string        // why a wrong one is wrong, in one of the words that metrics count by
	Penalty time.Duration // of a wrong one; 0: none
	OpenFor time.Duration // how long the grant of a right one lasts; 0: as the door says
	AtMost  time.Duration // it lasts no longer than this; 0: no limit
	// Extend makes a right one open only if By has the source a grant already.
	Extend bool
	Notes  []Note // for the audit trail, of a right one
	// Marks are to be remembered over a restart. With First they are on disk before
	// the door hears of a right knock, and one whose marks cannot be saved is refused.
	Marks []Mark
	First bool
	// Undo is called, on the goroutine that Hear is called on, when nothing comes of a right
	// knock with marks that are to be First: they cannot be saved, or the door opens to nobody.
	// It takes back what the kind has noted of the knock, and returns the marks that say so,
	// in case that Marks reach the disk all the same. With nil what was noted stays, and a
	// door that opens to nobody remembers Marks, so that the knock is not right again later.
	Undo func() []Mark
	// Answer makes the answer to a knock, which goes the way of Path, when what that led
	// to has happened; nil for silence. It is called from another goroutine than the
	// Recogniser; of those that are not Proven, so many are answered in a second and no
	// more. It is called once, or twice, one after the other, for a grant that waits for the
	// service: when it waits, and when it is given or never will be. A wrong knock, and one that is refused, is
	// answered only where Proven, and then with no more than came: else anybody could have
	// the gateway send something to anybody.
	Answer func(Outcome) []byte
	Path   Path
}

// Mark is something that a kind remembers over a restart, under a key of its own. A
// later mark replaces an earlier one with the same key; one without a value removes it.
// The kind bounds how many it has: all of them are in memory.
type Mark struct {
	Key   string // 1 to 128 bytes
	Value []byte // at most 1024 bytes
	// Common makes it one of those that a Kept has, which are kept under no door.
	Common bool
}

// Outcome is what a verdict led to, when it has happened. One of Open, Waits, Closed and
// Refused is set.
type Outcome struct {
	Open    bool          // the visitor has a grant, which the kernel knows
	Until   time.Time     // when that ends
	Left    time.Duration // until then, when the answer is made
	Waits   bool          // a grant comes when the service runs, which is starting
	Closed  bool          // By has no grant at the source any more
	Refused Refusal       // why there is no grant, nor will be one
	Ports   []port.Range  // that the door guards
}

// Refusal is why a right knock opens nothing.
type Refusal string

// The refusals.
const (
	RefusedWrong    Refusal = "wrong"    // it was not right: the recogniser knows why
	RefusedPenalty  Refusal = "penalty"  // the source, or everybody, is penalised at the door
	RefusedFailsafe Refusal = "failsafe" // the door has no log data at all
	RefusedEarly    Refusal = "early"    // the daemon has just started, and the door has not looked for log data yet
	RefusedCrowded  Refusal = "crowded"  // too many wait for the service already
	RefusedMany     Refusal = "many"     // By has as many grants at the door as one may have
	RefusedUnsaved  Refusal = "unsaved"  // what must be remembered of the knock is not on disk
	RefusedFailed   Refusal = "failed"   // the service did not start
	RefusedEnded    Refusal = "ended"    // it was taken back before it could be given
	RefusedNothing  Refusal = "nothing"  // there is no grant to extend
	RefusedKernel   Refusal = "kernel"   // the kernel does not have the grant yet
)

// Needs is what a knock needs of the machine, besides its places.
type Needs struct {
	Capabilities []string // as capabilities(7) names them: "CAP_NET_RAW"
	Files        []string // absolute paths that are read while it is in use
	SystemCalls  []string // besides those that every daemon makes, by name
}
