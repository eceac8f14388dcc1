package word

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

// Keep returns what all words have in common: the words in files, and which were
// withdrawn by an order. Marks are the names of these.
func (Kind) Keep(_ io.Reader, marks []knock.Mark) knock.Kept {
	k := &kept{gone: make(map[string]bool), texts: make(map[string]string)}
	for _, m := range marks {
		k.gone[m.Key] = true
	}
	k.publish()
	return k
}

// Digest is the text itself.
func (Kind) Digest(_ knock.File, text []byte) (any, error) { return string(text), nil }

// Identity is the name itself.
func (Kind) Identity(by string) string { return by }

type kept struct {
	rules []knock.Use
	gone  map[string]bool   // names whose word was withdrawn by an order
	texts map[string]string // of the files, by path
	now   atomic.Pointer[vocabulary]
}

// vocabulary is what is good at each port. It does not change.
type vocabulary struct {
	at   map[uint16][]good
	book map[string]string // those of files, by name
}

// good is a word that may be said: of a file, or, without a name, of a rule.
type good struct{ name, word string }

// publish has the openers go by what is known now.
func (k *kept) publish() {
	w := &vocabulary{at: make(map[uint16][]good), book: make(map[string]string)}
	for _, use := range k.rules {
		r := use.Rule.(Rule)
		if withdrawn, fed := k.texts[r.Withdrawn]; r.Withdrawn == "" || fed && !slices.Contains(strings.Split(withdrawn, "\n"), r.Word) {
			w.at[r.Port] = append(w.at[r.Port], good{"", r.Word})
		}
		for line := range strings.Lines(k.texts[r.Book]) {
			if name, word, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				w.book[name] = word
				w.at[r.Port] = append(w.at[r.Port], good{name, word})
			}
		}
	}
	k.now.Store(w)
}

// Use goes by other rules.
func (k *kept) Use(_ time.Time, rules []knock.Use) []string {
	k.rules = rules
	k.publish()
	return nil
}

// Recogniser goes on from the numbers that the words' marks have.
func (k *kept) Recogniser(_ string, r knock.Rule, _ time.Time, marks []knock.Mark) knock.Recogniser {
	rec := &recogniser{rule: r.(Rule), kept: k, last: make(map[string]uint64)}
	for _, m := range marks {
		if len(m.Value) == 8 {
			rec.last[m.Key] = binary.BigEndian.Uint64(m.Value)
		}
	}
	return rec
}

// Files are those of the rules.
func (k *kept) Files() (all []knock.File) {
	for _, use := range k.rules {
		for _, f := range use.Rule.(Rule).files() {
			if !slices.Contains(all, f) {
				all = append(all, f)
			}
		}
	}
	return all
}

// Feed takes in the words of a file. Who had one that is gone has its grants no more.
func (k *kept) Feed(_ time.Time, path string, digest any, err error) (c knock.Change) {
	if err != nil {
		return c
	}
	before := k.now.Load().book
	text, _ := digest.(string)
	k.texts[path] = text
	k.publish()
	for name, word := range before {
		if k.now.Load().book[name] != word {
			c.Recheck = true
			c.Notes = append(c.Notes, knock.Note{Event: knock.NoteKeys, Detail: "the word of " + name + " is not the same any more"})
		}
	}
	if len(text) == 0 {
		c.Warnings = []string{path + " is empty"}
	}
	return c
}

func (k *kept) isWithdrawn(name string) bool { return name != "" && k.gone[name] }

// Stands says whether a name has a word.
func (k *kept) Stands(_ time.Time, _, by string) knock.Standing {
	if strings.HasPrefix(by, "number ") || k.now.Load().book[by] != "" && !k.gone[by] {
		return knock.Anywhere
	}
	return nil
}

// Order withdraws the word of a name: {"name": "alice", "cut": true}.
func (k *kept) Order(_ time.Time, who, order string, args json.RawMessage) (c knock.Change, result json.RawMessage, err error) {
	var of struct {
		Name string
		Cut  bool
	}
	if order != "withdraw" {
		return c, nil, &knock.OrderError{Message: fmt.Sprintf("order %q: allowed is \"withdraw\"", order), Usage: true}
	}
	if err := json.Unmarshal(args, &of); err != nil || k.now.Load().book[of.Name] == "" {
		return c, nil, &knock.OrderError{Message: fmt.Sprintf("nobody by the name of %q has a word", of.Name), Hint: "look into the file"}
	}
	k.gone[of.Name] = true
	c = knock.Change{Marks: []knock.Mark{{Key: of.Name, Value: []byte("gone")}}, Recheck: true,
		Notes: []knock.Note{{Event: knock.NoteKeys, Detail: who + " has withdrawn the word of " + of.Name}}}
	if of.Cut {
		c.Cut = func(by string) bool { return by == of.Name }
	}
	return c, json.RawMessage(fmt.Sprintf(`{"withdrawn":%d}`, len(k.gone))), nil
}

// Opener returns the one of a port.
func (k *kept) Opener(port uint16) knock.Opener { return opener{k, port} }

type opener struct {
	*kept
	port uint16
}

// said is what a datagram says.
type said struct {
	door       string
	what       byte
	number     uint64
	name, word string
	key        string // of the word's mark
}

// Door is the door that it is for.
func (s said) Door() string { return s.door }

// Glance looks only at the length. A word is said once, so that nobody can show where
// they are.
func (o opener) Glance(_ netip.Addr, payload []byte, _ bool, _ []byte) (knock.Rank, int) {
	if len(payload) != 8+1+doorLen+sha256.Size {
		return knock.Junk, 0
	}
	return knock.Claimed, 0
}

// Open returns what a datagram says that has a word.
func (o opener) Open(d knock.Datagram) (any, []byte, bool) {
	asked, rest := d.Payload[:8+1+doorLen], d.Payload[8+1+doorLen:]
	var machine unix.Sysinfo_t
	if unix.Sysinfo(&machine) != nil {
		return nil, nil, false
	}
	for _, w := range o.now.Load().at[o.port] {
		if subtle.ConstantTimeCompare(proof(w.word, asked), rest) == 1 {
			return said{door: string(bytes.TrimRight(asked[9:], "\x00")), what: asked[8], number: binary.BigEndian.Uint64(asked),
				name: w.name, word: w.word, key: fmt.Sprintf("number %x", sha256.Sum256([]byte("a mark of "+w.name+w.word)))}, nil, true
		}
	}
	return nil, nil, false
}
