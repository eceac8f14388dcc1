// Package word is a kind of knock for tests, and an example for whoever writes one:
// one datagram says a word, and is silent otherwise. It shows all that a kind can ask
// for, and nothing outside it knows of it.
package word

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

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
	if file := t.At("withdrawn"); file.Given() {
		r.Withdrawn, _ = file.File(tables.AbsolutePaths("/etc/doorward/withdrawn"))
	}
	if r.Port == 0 {
		return nil
	}
	return r
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
	if r.Withdrawn != "" {
		needs.Files = []string{r.Withdrawn}
	}
	return needs
}

// Warnings returns none.
func (r Rule) Warnings() []string { return nil }

// Words say what to send.
func (r Rule) Words() string { return fmt.Sprintf("say %q to %d/udp", r.Word, r.Port) }

// Say returns the datagram with a word and a number, which has to be higher than the
// one before: 8 bytes of the number, and 32 that only somebody who knows the word can
// make.
func Say(word string, number uint64) []byte {
	d := binary.BigEndian.AppendUint64(nil, number)
	return append(d, proof(word, d)...)
}

const rounds = 20_000 // some milliseconds, so that guessing takes long

func proof(word string, number []byte) []byte {
	sum := sha256.Sum256(append(bytes.Clone(number), word...))
	for range rounds {
		sum = sha256.Sum256(sum[:])
	}
	return sum[:]
}

// Glance looks only at the length. A word is said once, so that nobody can show where
// they are.
func (r Rule) Glance(_ netip.Addr, payload []byte, _ bool, _ []byte) (knock.Rank, int) {
	if len(payload) != 8+sha256.Size {
		return knock.Junk, 0
	}
	return knock.Claimed, 0
}

// Open returns the number of a datagram that has the word.
func (r Rule) Open(d knock.Datagram) (any, []byte, bool) {
	number, rest := d.Payload[:8], d.Payload[8:]
	var machine unix.Sysinfo_t
	if subtle.ConstantTimeCompare(proof(r.Word, number), rest) != 1 || unix.Sysinfo(&machine) != nil {
		return nil, nil, false
	}
	if r.Withdrawn != "" {
		gone, err := os.ReadFile(r.Withdrawn)
		if err != nil || bytes.Contains(append(gone, '\n'), []byte(r.Word+"\n")) {
			return nil, nil, false
		}
	}
	return binary.BigEndian.Uint64(number), nil, true
}

// Recogniser goes on from the number that the word's mark has.
func (r Rule) Recogniser(_ time.Time, marks []knock.Mark) knock.Recogniser {
	rec := &recogniser{rule: r, key: fmt.Sprintf("number %x", sha256.Sum256([]byte("a mark of "+r.Word)))}
	for _, m := range marks {
		if m.Key == rec.key && len(m.Value) == 8 {
			rec.last = binary.BigEndian.Uint64(m.Value)
		}
	}
	return rec
}

type recogniser struct {
	rule Rule
	key  string // of its mark
	last uint64
}

// Hear recognises a number that is higher than the last.
func (r *recogniser) Hear(h knock.Heard) []knock.Verdict {
	number, ok := h.Said.(uint64)
	if !ok || number <= r.last {
		return nil
	}
	r.last = number
	return []knock.Verdict{{
		Right: true, Source: h.Source, Proven: h.Proven, Time: h.Time, By: fmt.Sprint("number ", number), Reason: "said the word",
		Marks: []knock.Mark{{Key: r.key, Value: binary.BigEndian.AppendUint64(nil, number)}}, First: true,
		OpenFor: 20 * time.Second, Answer: answer, Path: h.Path,
	}}
}

func answer(o knock.Outcome) []byte {
	switch {
	case o.Open:
		return []byte("open until " + o.Until.UTC().Format(time.RFC3339))
	case o.Waits:
		return []byte("open in a moment")
	}
	return nil
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
