// Package word is a kind of knock for tests, and an example for whoever writes one:
// one datagram says a word, and is silent otherwise. It shows all that a kind can ask
// for, and nothing outside it knows of it.
package word

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// Kind is the knock of a word, as a knock.Kind.
type Kind struct{}

// Name is "word".
func (Kind) Name() string { return "word" }

// Reference documents the keys.
func (Kind) Reference() string {
	return `kind = "word"

# The UDP port where the word is said (example).
port = 59010

# The word (example): 8 to 64 characters.
word = "open sesame"

# Whether the word may be said over a connection to the same TCP port, too.
tcp = false

# A file whose lines are words that are good no more (example).
withdrawn = "/etc/doorward/withdrawn"

# A file of more words, each line a name and a word (example).
words = "/etc/doorward/words"
`
}

// Needs is what no other kind needs.
func (Kind) Needs() knock.Needs {
	return knock.Needs{Capabilities: []string{"CAP_NET_RAW"}, SystemCalls: []string{"sysinfo"}}
}

// Rule is one such knock as it is configured.
type Rule struct {
	Port      uint16
	Word      string
	TCP       bool
	Withdrawn string // "" for no file
	Book      string // the file of more words, "" for none
}

const words = "words of 8 to 64 characters"

// Read reads a table of the kind into a Rule.
func (Kind) Read(t *tables.Table) knock.Rule {
	var r Rule
	r.Port, _ = t.At("port").Port(port.UDP)
	word := t.At("word")
	if s, ok := word.Text(words); ok {
		r.Word = s
		if n := len([]rune(s)); n < 8 || n > 64 {
			word.Wrong(fmt.Sprintf("%d characters", n), words).Value = ""
		}
	}
	r.TCP = t.At("tcp").Bool(false)
	r.Withdrawn = path(t.At("withdrawn"), "/etc/doorward/withdrawn")
	r.Book = path(t.At("words"), "/etc/doorward/words")
	if r.Port == 0 {
		return nil
	}
	return r
}

// path reads the path of a file, "" for none.
func path(v tables.Value, example string) (p string) {
	if v.Given() {
		p, _ = v.File(tables.AbsolutePaths(example))
	}
	return p
}

// Hears returns the one port, over UDP and perhaps over TCP.
func (r Rule) Hears() []knock.Place {
	all := []knock.Place{{Medium: knock.Datagrams, Port: r.Port}}
	if r.TCP {
		all = append(all, knock.Place{Medium: knock.Streams, Port: r.Port})
	}
	return all
}

// Lasts returns 0: one datagram is the knock.
func (r Rule) Lasts() time.Duration { return 0 }

// ForAll returns false.
func (r Rule) ForAll() bool { return false }

// Needs adds the file to the kind's needs.
func (r Rule) Needs() knock.Needs {
	needs := Kind{}.Needs()
	for _, f := range r.files() {
		needs.Files = append(needs.Files, f.Path)
	}
	return needs
}

func (r Rule) files() (all []knock.File) {
	if r.Withdrawn != "" {
		all = append(all, knock.File{Path: r.Withdrawn})
	}
	if r.Book != "" {
		all = append(all, knock.File{Path: r.Book, Secret: true})
	}
	return all
}

// Shares lets doors share a port if they share the words in a file.
func (r Rule) Shares(other knock.Rule) error {
	if o, ok := other.(Rule); !ok || o.Book != r.Book {
		return fmt.Errorf("words = %q: the other has %q", r.Book, o.Book)
	}
	return nil
}

// Warnings returns none.
func (r Rule) Warnings() []string { return nil }

// Words say what to send.
func (r Rule) Words() string { return fmt.Sprintf("say %q to %d/udp", r.Word, r.Port) }

// What a datagram asks for.
const (
	ToOpen     = iota
	ToClose    // take back what the word has opened
	ToOpenHere // and take back what it has opened elsewhere
)

// doorLen is the room for a door's name.
const doorLen = 24

// Say returns the datagram with a word and a number, which has to be higher than the
// one before, for the first of the doors at the port.
func Say(word string, number uint64) []byte { return SayTo("", ToOpen, word, number) }

// SayTo is Say for a door, and for what is asked for: 8 bytes of the number, 1 of that, 24
// of the door's name, and 32 that only somebody who knows the word can make.
func SayTo(door string, what byte, word string, number uint64) []byte {
	d := append(binary.BigEndian.AppendUint64(nil, number), what)
	d = append(d, door...)
	d = append(d, make([]byte, 8+1+doorLen-len(d))...)
	return append(d, proof(word, d)...)
}

const rounds = 20_000 // some milliseconds, so that guessing takes long

func proof(word string, asked []byte) []byte {
	sum := sha256.Sum256(append(bytes.Clone(asked), word...))
	for range rounds {
		sum = sha256.Sum256(sum[:])
	}
	return sum[:]
}

// Recogniser returns one that goes by the rule alone.
func (r Rule) Recogniser(armed time.Time, marks []knock.Mark) knock.Recogniser {
	k := Kind{}.Keep(nil, nil)
	k.Use(armed, []knock.Use{{Rule: r}})
	return k.Recogniser("", r, armed, marks)
}

type recogniser struct {
	rule Rule
	kept *kept
	last map[string]uint64 // by the key of the word's mark
}

func (r *recogniser) hear(h knock.Heard, s said) (v knock.Verdict) {
	v = knock.Verdict{Source: h.Source, Proven: h.Proven, Time: h.Time, By: s.name, Reason: "said the word", Code: "order",
		OpenFor: 20 * time.Second, Answer: answer, Path: h.Path}
	if v.By == "" {
		v.By = fmt.Sprint("number ", s.number)
	}
	if r.kept.isWithdrawn(s.name) {
		v.Alarm, v.Reason = true, "said a word that was withdrawn"
		return v
	}
	v.Right, v.First = true, true
	v.Close, v.Only = s.what == ToClose, s.what == ToOpenHere
	r.last[s.key] = s.number
	v.Marks = []knock.Mark{{Key: s.key, Value: binary.BigEndian.AppendUint64(nil, s.number)}}
	return v
}

// Hear recognises a number that is higher than the last.
func (r *recogniser) Hear(h knock.Heard) []knock.Verdict {
	s, ok := h.Said.(said)
	if !ok || s.number <= r.last[s.key] || s.name == "" && s.word != r.rule.Word {
		return nil
	}
	return []knock.Verdict{r.hear(h, s)}
}

func answer(o knock.Outcome) []byte {
	switch {
	case o.Open:
		return []byte("open until " + o.Until.UTC().Format(time.RFC3339))
	case o.Waits:
		return []byte("open in a moment")
	case o.Closed:
		return []byte("closed")
	}
	return []byte("not opened: " + o.Refused)
}

// Look returns no verdicts: nothing is ever under way.
func (r *recogniser) Look(time.Time) []knock.Verdict { return nil }

// Next returns false: Look has nothing to do.
func (r *recogniser) Next() (time.Time, bool) { return time.Time{}, false }

// Gap has nothing to excuse.
func (r *recogniser) Gap(_, _ time.Time) {}

// Follow goes on with the same word alone.
func (r *recogniser) Follow(rule knock.Rule) bool {
	next, ok := rule.(Rule)
	if ok = ok && next.Word == r.rule.Word; ok {
		r.rule = next
	}
	return ok
}

// GiveUp has nothing to forget.
func (r *recogniser) GiveUp(netip.Addr) bool { return false }

// Rearm has nothing to forget either: a number that was said stays said.
func (r *recogniser) Rearm(time.Time) {}

// Closed returns none.
func (r *recogniser) Closed() []knock.Place { return nil }
