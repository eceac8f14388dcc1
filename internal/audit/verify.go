package audit

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Verification is whether the records of a trail follow one another.
type Verification struct {
	Records   uint64 `json:"records"`   // that were looked at
	Unchained uint64 `json:"unchained"` // how many of these are from versions before the chain
	First     uint64 `json:"first"`     // the lowest ID, 0 without records
	Last      uint64 `json:"last"`
	Sound     bool   `json:"sound"` // there are no faults
	// Faults are the first 100, never null; FaultsTotal is how many there are.
	Faults      []Fault `json:"faults"`
	FaultsTotal uint64  `json:"faults_total"`
	// Decided, Refusals and Visits are the last records of the three chains, null for none.
	// If they agree with what is known from elsewhere, such as the journal of another
	// machine, nobody has changed anything before them.
	Decided  *Link `json:"decided"`
	Refusals *Link `json:"refusals"`
	Visits   *Link `json:"visits"`
}

// Fault is a place at which records do not follow one another.
type Fault struct {
	ID      uint64 `json:"id"` // of a record near it
	Message string `json:"message"`
}

const maxFaults = 100

// Verifier checks the records of a trail, one after the other. The oldest records of
// each chain may be gone, since the trail has no room for them: that is not a fault.
// Its memory does not grow with the trail. The zero Verifier is ready to use.
type Verifier struct {
	v      Verification
	chains [classes]chain
	gone   uint64 // records up to this ID may be missing: they made room meanwhile
}

// chain is what is known of one of the chains.
type chain struct {
	end   Link   // its last record so far
	told  uint64 // ID of its last record so far, according to all chains
	plain uint64 // ID of a record without a hash before its first one with a hash, 0 for none
}

// Add checks the next record, in JSON.
func (w *Verifier) Add(text []byte) {
	var r Record
	hash, err := hashOf(text)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	v := &w.v
	switch {
	case err != nil:
		w.fault(v.Last, "what follows record %d is not a record: %v", v.Last, err)
		return
	case r.ID <= v.Last:
		w.fault(r.ID, "record %d comes after record %d: verify a single trail, in the order of its IDs", r.ID, v.Last)
		return
	}
	if v.Records++; v.First == 0 {
		v.First = r.ID
	}
	v.Last = r.ID
	own := &w.chains[r.Class()]
	switch {
	case r.Hash != "" && r.Prev != nil:
		if r.Hash != hash {
			w.fault(r.ID, "record %d was changed: its hash is %q, but its content has the hash %s", r.ID, r.Hash, hash)
		}
		w.follow(own, r)
		other, third := r.Class().others()
		w.beside(&w.chains[other], r.ID, r.Prev.Other)
		if r.Prev.Third != nil {
			w.beside(&w.chains[third], r.ID, *r.Prev.Third)
		}
	case slices.ContainsFunc(w.chains[:], func(c chain) bool { return c.end.ID > 0 }):
		w.fault(r.ID, "record %d has no hash, although those before it do: %q", r.ID, r.Reason)
	default:
		v.Unchained++
		own.plain = r.ID
	}
}

// follow checks whether a record is the next one of its chain.
func (w *Verifier) follow(own *chain, r Record) {
	prev, end := r.Prev, own.end
	own.end = Link{r.ID, r.Hash}
	switch {
	case end.ID == 0: // all before it may be gone
		if prev.ID > 0 && own.plain > 0 {
			w.fault(own.plain, "record %d has no hash, and record %d after it is not the first that does", own.plain, r.ID)
		}
		if own.told > prev.ID {
			w.missing(own.told, r.ID)
		}
	case prev.ID > end.ID:
		if prev.ID != own.told { // otherwise beside has reported it
			w.missing(prev.ID, r.ID)
		}
	case prev.ID < end.ID:
		w.fault(r.ID, "record %d says that it follows record %d, but record %d is between them", r.ID, prev.ID, end.ID)
	case prev.Hash != end.Hash:
		w.fault(r.ID, "record %d is not the one that record %d follows: it was changed together with its hash", prev.ID, r.ID)
	}
	own.told = r.ID
}

// beside checks whether what a record says of another chain is right.
func (w *Verifier) beside(other *chain, id, told uint64) {
	switch {
	case told < other.told:
		w.fault(id, "record %d says that it comes after record %d, but record %d is between them", id, told, other.told)
	case told > other.told && other.end.ID > 0:
		w.missing(told, id)
		fallthrough
	default:
		other.told = told
	}
}

func (w *Verifier) missing(id, by uint64) {
	if id <= w.gone {
		return
	}
	w.fault(id, "record %d is missing: record %d comes after it", id, by)
}

// Skip notes that the trail has dropped records up to an ID while it was read: of one
// chain or of several. Those that it still has are added as usual.
func (w *Verifier) Skip(id uint64) { w.gone = max(w.gone, id) }

// End returns the result. given is the highest ID that the daemon has assigned, 0 if that
// is not known.
func (w *Verifier) End(given uint64) Verification {
	v := &w.v
	for _, c := range w.chains {
		if c.end.ID == 0 && c.told > 0 { // the trail always keeps the last records of each
			w.missing(c.told, v.Last)
		}
	}
	if given > v.Last {
		w.fault(v.Last, "records from %d on are missing: the daemon has assigned IDs up to %d", v.Last+1, given)
	}
	v.Decided, v.Refusals, v.Visits = end(w.chains[Decided]), end(w.chains[Refused]), end(w.chains[Visits])
	v.Sound = v.FaultsTotal == 0
	if v.Faults == nil {
		v.Faults = []Fault{}
	}
	return *v
}

func end(c chain) *Link {
	if c.end.ID == 0 {
		return nil
	}
	return &c.end
}

func (w *Verifier) fault(id uint64, format string, args ...any) {
	if w.v.FaultsTotal++; len(w.v.Faults) < maxFaults {
		w.v.Faults = append(w.v.Faults, Fault{id, fmt.Sprintf(format, args...)})
	}
}
