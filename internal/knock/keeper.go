package knock

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"
)

// Keeper is a Kind whose knocks have something in common on a gateway: whom they let in,
// and what they must not forget. The gateway makes one Kept of it and asks that instead
// of the rules for recognisers and openers. Its rules may share a place (Sharer).
type Keeper interface {
	Kind
	// Keep returns what the knocks of a gateway are to have in common, of which nothing is
	// in use yet. Marks are those that it left before, in no order.
	Keep(random io.Reader, marks []Mark) Kept
	// Digest makes of a file's text what Feed is given, or says why it cannot be used. It
	// may take long, and any goroutine may call it.
	Digest(f File, text []byte) (any, error)
	// Identity returns who it is that knocked in a name (Verdict.By). One visitor may have
	// several names, as with certificates that are renewed; their grants are one's: a knock
	// in one name closes, extends and moves what was earned in another. It depends on the name
	// alone, and any goroutine may call it.
	Identity(by string) string
}

// Kept is what all knocks of a Keeper have in common. It lives as long as the daemon, and
// its marks as long as the store, whatever the configuration. All methods are called from
// one goroutine and take little time; the Openers run anywhere, and go by what was in
// force when they were last told.
type Kept interface {
	// Use goes by these rules from now on, all that the kind has in the configuration in
	// use, in the order of the file. What was fed of files that are still gone by stays. It
	// returns warnings, as Rule.Warnings does.
	Use(now time.Time, rules []Use) []string
	// Recogniser is Rule.Recogniser for a rule of a door in use. Marks are those that
	// verdicts left at the door.
	Recogniser(door string, r Rule, armed time.Time, marks []Mark) Recogniser
	// Opener is the one of a port that rules in use hear datagrams at. A later Use may give
	// it another.
	Opener(port uint16) Opener
	// Files are those that the rules in use go by, each once. They are also among the
	// rules' Needs. Until one is fed the knocks that depend on it open nothing.
	Files() []File
	// Feed takes in what a file has (Keeper.Digest), when that is read first, and when it has
	// changed. With an error it cannot be read, relied on or understood, and what it had
	// before stays in force. It may be of a file that is no longer gone by.
	Feed(now time.Time, path string, digest any, err error) Change
	// Stands says what who knocked under that name (Verdict.By) may still have of what that
	// led to at a door. It is asked of all who have a grant from before a restart, when every file
	// was fed once, and whenever who may knock has changed. Where that is not known, they may
	// have all (Anywhere). nil: nothing.
	Stands(now time.Time, door, by string) Standing
	// Order carries out an order of an operator's, whose name is for the trail. The reply
	// goes back when what the change has is on disk. An error is best an *OrderError; with
	// one nothing has changed.
	Order(now time.Time, who, order string, args json.RawMessage) (Change, json.RawMessage, error)
}

// Standing says whether somebody's grant to a source may stand, and until when at the
// latest; the zero Time: that is not bounded.
type Standing func(source netip.Addr) (until time.Time, stands bool)

// Anywhere is the Standing of those whose grants stand.
func Anywhere(netip.Addr) (until time.Time, stands bool) { return time.Time{}, true }

// Forgetter is a Kept with keys whose time ends also while nothing is heard. It is called
// every few seconds.
type Forgetter interface {
	Kept
	Forget(now time.Time)
}

// MarksAhead is a Kept that has marks on disk before they are needed, so that knocks need
// not wait for marks of their own. Commits have marks in the order in which the gateway was
// given them.
type MarksAhead interface {
	Kept
	// Ahead returns marks that are to be on disk soon, nil where none is due. done is called
	// once, on the goroutine that Hear is called on: with true when they are on disk, or with
	// false when nobody waits for that any more; then they may be there, may come there
	// later, or never. Ahead is called every few seconds, and after each knock for whose
	// marks the disk was waited for; not any more when a mark of a verdict was lost, since
	// too many waited for the disk.
	Ahead(now time.Time) (marks []Mark, done func(saved bool))
	// Leave returns marks for the last commit before the daemon ends, which has, or follows,
	// all marks of verdicts. It is not called when one of them was lost. Nothing is heard
	// afterwards.
	Leave() []Mark
}

// Use is a rule in use, at a door.
type Use struct {
	Door string
	Rule Rule
}

// Sharer is a Rule that may hear at a place where a rule of its kind, a Keeper, hears at
// another door. The gateway hands what is heard there to the door that it names
// (Heard.Door).
type Sharer interface {
	Rule
	// Shares says why this rule cannot hear where another of its kind does, as what is wrong
	// with this one: "carriers = [\"udp\"]: door \"web\" has [\"udp\", \"tcp\"]". It is nil if it can.
	Shares(other Rule) error
}

// ToDoor is what an Opener may say of a datagram: which of the doors that share the place
// it is for.
type ToDoor interface {
	// Door is the name that the visitor gave, of which nothing is known; "" for none.
	Door() string
}

// File is one that a Kept goes by. It is read if it belongs to root or the daemon's user
// and nobody else can change it, and if it has at most MaxFile bytes.
type File struct {
	Path   string // absolute
	As     string // what it is to the kind, in a word of the kind's own
	Absent bool   // it need not be there, and is empty then
	Secret bool   // others than its owner and group may not read it either
}

// MaxFile is the largest file that is read, in bytes: room for 100,000 SSH keys with options.
// Files belong to root or the daemon's user, and are read in the background all the same:
// the worst that 16 MiB can have costs two seconds of one core, half a gigabyte of
// allocations of which little is held at once, and a hundred megabytes for as long as it is
// in force.
const MaxFile = 16 << 20

// Change is what follows from a file or an order.
type Change struct {
	Marks []Mark // kept under no door
	// Recheck says that some may not have any more what they have: Stands is asked of all
	// who have a grant, and those of which nobody knows whose they are end at the kind's doors.
	Recheck bool
	// Cut says of a name (Verdict.By) whether the connections that its grants let in end,
	// too, be these grants over or not; nil for nobody's. It may be called from anywhere.
	Cut func(by string) bool
	// Undo takes back an order's change that cannot be saved, and returns the marks that say
	// so, in case that Marks reach the disk all the same. It is called on the goroutine that
	// Order is called on. With nil the change stays in force, and is saved when the disk
	// takes it: one that takes a right from somebody, so that they do not have it meanwhile.
	Undo  func() []Mark
	Notes []Note // for the audit trail
	// Reply makes the reply to an order, instead of the one that came with the change, where
	// that may take long. It may be called from anywhere.
	Reply func() (json.RawMessage, error)
	// Warnings are what operators should know, a sentence each. Those of a file are shown
	// until it is fed again; those of an order are logged.
	Warnings []string
}

// Note is a record of the audit trail. It has no secret.
type Note struct {
	Event  string // NoteKeys, NoteAlarm or NoteError
	Detail string // for people
}

// The events that a Note may have.
const (
	NoteKeys  = "keys"  // who may knock has changed
	NoteAlarm = "alarm" // somebody has used what must not be used any more
	NoteError = "error" // something that an operator must know went wrong
)

// OrderError is why an order was not carried out.
type OrderError struct {
	Message string
	Hint    string // what to type next, "" for nothing
	Usage   bool   // the order cannot be understood
}

// Error returns the message.
func (e *OrderError) Error() string { return e.Message }
