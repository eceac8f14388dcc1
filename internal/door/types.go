package door

import (
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// State is where a door stands.
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

// ParseState reads what String writes.
func ParseState(name string) (State, bool) {
	for s, n := range stateNames {
		if n == name {
			return State(s), true
		}
	}
	return Dark, false
}

// Any is the source that stands for everybody. It has to be said by its name. It
// is not the zero Prefix, which is nobody, and not a valid one: no address lies in
// it, nothing that is read or masked comes to it, and where it is not asked for it
// is refused, as the fence does.
var Any = netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), -1)

// Somebody says whether a source is one that somebody can come from: everybody,
// said as Any, an address, or a network, in their one form.
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

// nobody is why a source is refused that is not Somebody.
const nobody = "nobody can come from there"

// Rules are what the configuration says that the door itself decides by.
type Rules struct {
	Name    string
	OpenFor time.Duration // how long a grant lasts
	Idle    time.Duration // nobody in for so long: dark; 0: never
	ForAll  bool          // a knock may open to everybody until the door goes dark; not with Idle 0
	Service bool          // there is a service to start and stop
	Logins  bool          // logins are read, and no log data at all is a reason to close
	Shared  bool          // a penalty is the door's: it counts for each of its knocks
}

// Saved is what of a door must survive a restart, beside its penalties and
// grants. Its times are compared by the wall clock after a restart.
type Saved struct {
	State    State
	Reason   string
	Since    time.Time
	Opened   time.Time // when the door last went from dark to open
	LastSeen time.Time // latest presence
	Armed    bool      // an operator armed the door in spite of missing log data
	ForAll   bool      // it stands open to everybody until it goes dark
	Ran      bool      // the service ran when the door was first guarded
}

// Knock is a right knock.
type Knock struct {
	Name   string        // which knock of the door it was
	Source netip.Prefix  // Any: the door opens to everybody until it goes dark
	By     string        // what was right: "touch"
	For    time.Duration // how long the grant lasts; 0: as the rules say
	Reason string
}

// Wrong is a wrong knock.
type Wrong struct {
	Name    string       // which knock of the door it was
	Source  netip.Prefix // Any: everybody is penalised
	By      string
	Reason  string
	Penalty time.Duration // of the first, before it grows; 0: none
	Used    bool          // a connection has used the source's grant, which then stands
	Proven  bool          // the source was seen to receive; one that may be forged is not penalised
}

// Claim is one party's claim to a grant. A grant lives as long as the latest of
// the claims to it.
type Claim struct {
	Source netip.Prefix
	By     string
	Until  time.Time
	For    time.Duration // as it was given
}

// Held is a claim as status tells it.
type Held struct {
	Claim           // without its length
	Whose string    // on whose behalf it is: By, and by which knock where that is to be told apart
	Since time.Time // when the source was given the grant
}

// Seen is what a look for presence found.
type Seen struct {
	Login       time.Time // the latest login, zero for none
	Connections int       // live connections to the door's ports, where they count
	NoData      string    // not "": there is no log data anywhere, and where it was looked for
	Unread      bool      // some of the logs could not be read in full, which is none of the door's business
}

// Effect is something that the gateway carries out. Those of one answer are in
// the order in which they take effect.
type Effect interface{ effect() }

// The effects.
type (
	// Start has the service started; ServiceRuns or ServiceFailed answers.
	Start struct{}
	// Stop has it stopped; ServiceStopped or ServiceFailed answers.
	Stop struct{}
	// Look has presence looked for; Seen answers, whatever happens.
	Look struct{}
	// Give sets a source's grant in the kernel to end at Until.
	Give struct {
		Source netip.Prefix
		Until  time.Time
	}
	// Revoke ends a source's grant in the kernel.
	Revoke struct{ Source netip.Prefix }
	// Clear ends all grants of the door in the kernel, and has all claims to them
	// forgotten.
	Clear struct{}
	// EndFlows ends what the door let a source in for without a connection that
	// ends by itself: its flows over UDP. Any: everybody's.
	EndFlows struct{ Source netip.Prefix }
	// Keep has a claim remembered over a restart; Drop has it forgotten.
	Keep struct{ Claim }
	// Drop forgets what Keep remembered.
	Drop struct {
		Source netip.Prefix
		By     string
	}
	// Punish has a penalty remembered over a restart, and after its end, until
	// Pardon has it forgotten.
	Punish struct{ Penalty }
	// Over has a penalty that is over remembered for the next, so that no clock
	// makes it stand again.
	Over struct{ Penalty }
	// Pardon forgets what Punish and Over remembered of a knock and a source.
	Pardon struct {
		Name   string
		Source netip.Prefix
	}
	// PardonAll forgets all of the door's.
	PardonAll struct{}
	// Record is for the audit trail.
	Record struct{ audit.Record }
)

func (Start) effect()     {}
func (Stop) effect()      {}
func (Look) effect()      {}
func (Give) effect()      {}
func (Revoke) effect()    {}
func (Clear) effect()     {}
func (EndFlows) effect()  {}
func (Keep) effect()      {}
func (Drop) effect()      {}
func (Punish) effect()    {}
func (Over) effect()      {}
func (Pardon) effect()    {}
func (PardonAll) effect() {}
func (Record) effect()    {}
