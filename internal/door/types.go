package door

import (
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// State is the state of a door.
type State uint8

// The states of a door, drawn above Door.
const (
	Dark State = iota
	Opening
	Open
	Closing
	Failsafe
)

var stateNames = [...]string{"dark", "opening", "open", "closing", "failsafe"}

// String returns the state's name as status prints it.
func (s State) String() string { return stateNames[s] }

// ParseState is the inverse of State.String. It returns false for any other name.
func ParseState(name string) (State, bool) {
	for s, n := range stateNames {
		if n == name {
			return State(s), true
		}
	}
	return Dark, false
}

// Any is the source that stands for everybody. It has to be named explicitly: it is
// neither the zero Prefix, which is nobody, nor a valid prefix. No address lies in it,
// parsing and masking never produce it, and code that does not expect it refuses it, as
// the fence does.
var Any = netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), -1)

// Somebody reports whether connections can come from a source: it is Any, or a valid
// prefix in canonical form that is neither multicast, unspecified nor IPv4-mapped.
func Somebody(source netip.Prefix) bool {
	a := source.Addr()
	switch {
	case source == Any:
		return true
	case source.Bits() <= 0, source != source.Masked(), a.Is4In6(), a.IsMulticast():
		return false
	}
	return !source.IsSingleIP() || !a.IsUnspecified()
}

// nobody is why a source that is not Somebody is refused.
const nobody = "nobody can come from there"

// Rules are the part of the configuration that the door itself decides by.
type Rules struct {
	Name    string
	OpenFor time.Duration // how long a grant lasts unless its knock says otherwise
	Idle    time.Duration // how long nobody must be in for the door to go dark; 0: never
	ForAll  bool          // a knock may open to everybody until the door goes dark; not with Idle 0
	Service bool          // there is a service to start and stop
	Logins  bool          // logins are read, and having no log data at all is a reason to close
	Shared  bool          // a penalty counts for all knocks of the door, not just for one
	// Who is who somebody is, by what claims are made in the name of: two names for which
	// it is the same are one visitor's, who has one claim to a grant, the latest. It is set once,
	// before anything else, and says the same for ever. nil: every name is somebody else's.
	Who func(by string) string
}

// Saved is the part of a door's state that must survive a restart, besides its
// penalties and grants. After a restart its times are compared by the wall clock.
type Saved struct {
	State    State
	Reason   string
	Since    time.Time
	Opened   time.Time // when the door last went from dark to open
	LastSeen time.Time // when presence was last seen
	Armed    bool      // an operator armed the door despite missing log data
	ForAll   bool      // it is open to everybody until it goes dark
	Ran      bool      // the service ran when the door was first guarded
}

// Knock is a right knock.
type Knock struct {
	Name   string        // which knock of the door it was
	Source netip.Prefix  // Any: the door opens to everybody until it goes dark
	By     string        // the kind of knock: "touch"
	For    time.Duration // how long the grant lasts; 0: as the rules say
	Latest time.Time     // when it ends at the latest, however late it is given; zero: that is not bounded
	Reason string
}

// Wrong is a wrong knock.
type Wrong struct {
	Name    string       // which knock of the door it was
	Source  netip.Prefix // Any: everybody is penalised
	By      string
	Reason  string
	Penalty time.Duration // of a first wrong knock, before it grows; 0: none
	Used    bool          // a connection has used the source's grant, which then stands
	Proven  bool          // the source has shown that it receives packets; one that may be forged is not penalised
}

// Claim is a claim to a grant by one of those who asked for it. A grant lasts until the
// latest of the claims to it ends.
type Claim struct {
	Source netip.Prefix
	By     string
	Until  time.Time
	For    time.Duration // the length it was given for
}

// Held is a claim as status shows it.
type Held struct {
	Claim           // without its length
	Whose string    // on whose behalf it is: By, and by which knock if the door has several of a kind
	Since time.Time // when the source was given the grant
}

// Seen is what a check for presence found.
type Seen struct {
	Login       time.Time // the latest login, zero for none
	Connections int       // live connections to the door's ports, where they count
	NoData      string    // if not "", there is no log data anywhere, and this says where it was looked for
	Unread      bool      // some of the logs could not be read in full; the door ignores this
}

// Effect is something for the gateway to do. The effects of one call are in the order
// in which they must take place.
type Effect interface{ effect() }

// The effects.
type (
	// Start starts the service. The gateway answers with Door.Runs, Door.Failed, or
	// Door.Halted if another order stopped it meanwhile.
	Start struct{}
	// Stop stops the service. The gateway answers with Door.Stopped or Door.Failed.
	Stop struct{}
	// Look checks for presence. The gateway always answers with Door.Seen.
	Look struct{}
	// Give sets a source's grant in the kernel to end at Until.
	Give struct {
		Source netip.Prefix
		Until  time.Time
	}
	// Revoke ends a source's grant in the kernel.
	Revoke struct{ Source netip.Prefix }
	// Clear ends all grants of the door in the kernel and forgets all claims to them.
	Clear struct{}
	// EndFlows ends what the door let a source in for without a connection that
	// ends by itself: its flows over UDP. Any: everybody's.
	EndFlows struct{ Source netip.Prefix }
	// KeepClaim remembers a claim across restarts, until DropClaim or Clear.
	KeepClaim struct{ Claim }
	// DropClaim forgets a claim.
	DropClaim struct {
		Source netip.Prefix
		By     string
	}
	// Penalise remembers a penalty across restarts, even after its end, until Pardon.
	Penalise struct{ Penalty }
	// PenaltyEnded marks a penalty as over, so that no change of the clock revives it.
	// It is remembered because the next one is longer.
	PenaltyEnded struct{ Penalty }
	// Pardon forgets what Penalise and PenaltyEnded remembered about a knock and a
	// source.
	Pardon struct {
		Name   string
		Source netip.Prefix
	}
	// PardonAll forgets all penalties of the door.
	PardonAll struct{}
	// Record is for the audit trail. Whose is on whose behalf that was which it tells of, where
	// its By names something else, "" for nobody's.
	Record struct {
		audit.Record
		Whose string
	}
)

func (Start) effect()        {}
func (Stop) effect()         {}
func (Look) effect()         {}
func (Give) effect()         {}
func (Revoke) effect()       {}
func (Clear) effect()        {}
func (EndFlows) effect()     {}
func (KeepClaim) effect()    {}
func (DropClaim) effect()    {}
func (Penalise) effect()     {}
func (PenaltyEnded) effect() {}
func (Pardon) effect()       {}
func (PardonAll) effect()    {}
func (Record) effect()       {}

// ordered returns the reason for what an operator ordered: "by operator alice (uid
// 1000)".
func ordered(by string) string { return "by " + by }
