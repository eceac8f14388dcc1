package sealed

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// ledger is what operators and invites have changed about who may knock. It is all in
// marks, of which each has one entry.
type ledger struct {
	keys    map[string]credential.Key // enrolled, by their identity
	locked  map[string]string         // by identity: who locked it, and when; replaced, never changed
	revoked map[string]string         // likewise
	invites map[string]*code          // by the hash, in hexadecimal
	rescues map[string]*code

	counters map[string]uint64 // the highest of each identity's single packets
	horizon  horizon           // of them all

	set *credential.Keys // of keys; nil when that has changed
}

// code is an invite or a rescue code.
type code struct {
	credential.Code
	Made  time.Time
	use   string              // the message of the knock that has used it; "" for none
	since time.Time           // when
	first place               // of the first part of that knock
	parts int                 // of that knock, one for each address family, that are or may still be saved
	undo  func() []knock.Mark // takes back what the use led to, when none of its parts counts; nil: nothing
}

// place is what a part of a knock opens, and to whom.
type place struct {
	door   string
	source netip.Addr
}

// goesWith says whether another part can be of the same use: it is for the same door, over
// the other address family, or from the same address, as behind a translator of addresses
// (RFC 6146).
func (p place) goesWith(other place) bool {
	return p.door == other.door && (p.source == other.source || p.source.Is4() != other.source.Is4())
}

// written is a code as its mark has it.
type written struct {
	Name    string `json:"name,omitempty"`
	Options string `json:"options,omitempty"`
	Expires int64  `json:"expires,omitempty"` // seconds since 1970
	Made    int64  `json:"made"`
	Key     string `json:"key,omitempty"` // the one that it is for
}

// What a mark's key begins with, and goes on with an identity or a hash.
const (
	keyMark     = "key "
	lockMark    = "lock "
	revokedMark = "revoked "
	inviteMark  = "invite "
	rescueMark  = "rescue "
	counterMark = "counter " // of all doors, since a packet may name none
)

// newLedger reads the marks. One that cannot be read is of a later doorward, and is left
// alone.
func newLedger(marks []knock.Mark) ledger {
	l := ledger{keys: make(map[string]credential.Key), locked: make(map[string]string), revoked: make(map[string]string),
		invites: make(map[string]*code), rescues: make(map[string]*code), counters: make(map[string]uint64)}
	for _, m := range marks {
		what, of, _ := strings.Cut(m.Key, " ")
		switch what + " " {
		case keyMark:
			if list, _ := credential.Parse(m.Value, "enrolled"); len(list) == 1 && list[0].Fingerprint.String() == of {
				l.keys[of] = list[0]
			}
		case lockMark:
			l.locked[of] = string(m.Value)
		case revokedMark:
			l.revoked[of] = string(m.Value)
		case inviteMark:
			l.read(l.invites, of, m.Value)
		case rescueMark:
			l.read(l.rescues, of, m.Value)
		case horizonMark + " ":
			l.horizon.read(m.Value)
		case counterMark:
			if len(m.Value) == 8 {
				l.counters[of] = binary.BigEndian.Uint64(m.Value)
			}
		}
	}
	return l
}

// read reads a code.
func (l *ledger) read(into map[string]*code, hash string, value []byte) {
	var w written
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != 32 || hex.EncodeToString(b) != hash || json.Unmarshal(value, &w) != nil {
		return // a hash in capitals is nobody's: its mark would be forgotten under another key
	}
	c := &code{Code: credential.Code{Hash: [32]byte(b), Name: w.Name}, Made: time.Unix(w.Made, 0)}
	if w.Expires > 0 {
		c.Expires = time.Unix(w.Expires, 0)
	}
	if w.Options != "" {
		if c.Options, err = credential.ParseOptions(w.Options); err != nil {
			return
		}
	}
	if w.Key != "" {
		f, err := credential.ParseFingerprint(w.Key)
		if err != nil {
			return
		}
		c.Key = &f
	}
	into[hash] = c
}

// mark is the mark of a code.
func (c *code) mark(kind string) knock.Mark {
	w := written{Name: c.Name, Made: c.Made.Unix()}
	if !c.Expires.IsZero() {
		w.Expires = c.Expires.Unix()
	}
	if c.Options != nil {
		w.Options = c.Options.String()
	}
	if c.Key != nil {
		w.Key = c.Key.String()
	}
	value, err := json.Marshal(w)
	if err != nil {
		panic("sealed: internal error: " + err.Error())
	}
	return knock.Mark{Key: kind + hex.EncodeToString(c.Hash[:]), Value: value, Common: true}
}

// sweep forgets codes that were used long enough ago, and with all those whose time is
// past, of which it returns the marks.
func (l *ledger) sweep(now time.Time, all bool) (marks []knock.Mark) {
	for kind, codes := range map[string]map[string]*code{inviteMark: l.invites, rescueMark: l.rescues} {
		for hash, c := range codes {
			switch {
			case c.use != "" && now.Sub(c.since) > seal.HandshakeLife:
				delete(codes, hash) // its mark is gone already
			case all && c.use == "" && !c.Expires.IsZero() && !now.Before(c.Expires):
				delete(codes, hash)
				marks = append(marks, forget(kind, hash))
			}
		}
	}
	return marks
}

// expel removes an enrolled key.
func (l *ledger) expel(id string) knock.Mark {
	delete(l.keys, id)
	l.set = nil
	return forget(keyMark, id)
}

// forget is the mark that forgets another one.
func forget(kind, of string) knock.Mark { return knock.Mark{Key: kind + of, Common: true} }

// enrol adds a key, and returns its mark.
func (l *ledger) enrol(k credential.Key) knock.Mark {
	id := k.Fingerprint.String()
	l.keys[id], l.set = k, nil
	return knock.Mark{Key: keyMark + id, Value: []byte(k.String()), Common: true}
}

// enrolled is the set of keys that are enrolled.
func (l *ledger) enrolled() *credential.Keys {
	if l.set == nil {
		var list []credential.Key
		for _, id := range slices.Sorted(maps.Keys(l.keys)) {
			list = append(list, l.keys[id])
		}
		l.set = credential.NewKeys(list)
	}
	return l.set
}

// origins are what a ring is made of, besides files.
func (l *ledger) origins() (o credential.Origins) {
	o.Enrolled = l.enrolled()
	for _, c := range l.invites {
		o.Invites = append(o.Invites, c.Code)
	}
	for _, c := range l.rescues {
		o.Rescues = append(o.Rescues, c.Code)
	}
	o.Locked = make(map[string]bool)
	for id := range l.locked {
		o.Locked[id] = true
	}
	var revoked []credential.Fingerprint
	for id := range l.revoked {
		f, err := credential.ParseFingerprint(id)
		if err != nil { // a machine's secret: there is no list of those
			o.Locked[id] = true
			continue
		}
		revoked = append(revoked, f)
	}
	if len(revoked) > 0 {
		o.Revoked = append(o.Revoked, credential.Revoke(revoked...))
	}
	return o
}
