package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// club is a kind of knock that has a Keeper: its members are in a file, an order locks one
// out, and its doors share a port. What is said is "DOOR WORDS... NAME": "ssh open alice".
// With a number, as "#7", it is said once; a "code" opens once, and is struck off first.
type club struct{}

func (club) Name() string       { return "club" }
func (club) Reference() string  { return "" }
func (club) Needs() knock.Needs { return knock.Needs{} }
func (club) Read(t *tables.Table) knock.Rule {
	p, _ := t.At("port").Port(port.UDP)
	members, _ := t.At("members").File(tables.AbsolutePaths("/members"))
	return clubRule{port: p, members: members}
}
func (club) Keep(_ io.Reader, marks []knock.Mark) knock.Kept {
	k := &clubKept{locked: make(map[string]bool), spent: make(map[string]bool), tickets: make(map[string]bool),
		members: make(map[string][]string), used: make(map[string]bool)}
	for _, m := range marks {
		if strings.HasPrefix(m.Key, "ticket") {
			k.tickets[m.Key] = true
			continue
		}
		if name, code := strings.CutPrefix(m.Key, codeMark); code {
			k.spent[name] = true
			continue
		}
		k.locked[m.Key] = true
	}
	return k
}

type clubRule struct {
	knock.Rule
	port    uint16
	members string
}

func (r clubRule) Hears() []knock.Place {
	return []knock.Place{{Medium: knock.Datagrams, Port: r.port}}
}
func (r clubRule) ForAll() bool         { return false }
func (r clubRule) Warnings() []string   { return nil }
func (r clubRule) Lasts() time.Duration { return 0 }
func (r clubRule) Shares(other knock.Rule) error {
	if o := other.(clubRule); o.members != r.members {
		return fmt.Errorf("members = %q: the other has %q", r.members, o.members)
	}
	return nil
}

func (club) Digest(_ knock.File, text []byte) (any, error) { return text, nil }

// Identity is the member, who may have several cards: "alice@old", "alice@new".
func (club) Identity(by string) string {
	member, _, _ := strings.Cut(by, "@")
	return member
}

type clubKept struct {
	knock.Kept
	ahead     *clubAhead // nil: it writes nothing ahead
	rules     []knock.Use
	locked    map[string]bool
	spent     map[string]bool // codes
	tickets   map[string]bool // that were used
	members   map[string][]string
	used      map[string]bool                                     // numbers
	judged    int                                                 // how often Stands was asked
	readAloud []string                                            // what it was told of files
	tells     func(door string, v knock.Verdict, o knock.Outcome) // called with what visitors are told, nil for nothing
}

// Ahead and Leave are of a club that writes ahead.
func (k *clubKept) Ahead(now time.Time) ([]knock.Mark, func(bool)) {
	if k.ahead == nil {
		return nil, nil
	}
	return k.ahead.Ahead(now)
}

func (k *clubKept) Leave() []knock.Mark {
	if k.ahead == nil {
		return nil
	}
	return k.ahead.Leave()
}

// codeMark is how marks of codes that are spent begin.
const codeMark = "spent "

func (k *clubKept) Use(_ time.Time, rules []knock.Use) []string {
	k.rules = rules
	return []string{fmt.Sprintf("the club has %d doors", len(rules))}
}
func (k *clubKept) Opener(port uint16) knock.Opener { return clubOpener(port) }
func (k *clubKept) Files() (all []knock.File) {
	for _, use := range k.rules {
		f := knock.File{Path: use.Rule.(clubRule).members}
		if !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}
func (k *clubKept) Feed(_ time.Time, path string, digest any, err error) (c knock.Change) {
	text, _ := digest.([]byte)
	if err != nil {
		k.readAloud = append(k.readAloud, err.Error())
		return c
	}
	k.readAloud = append(k.readAloud, string(text))
	c.Recheck = k.members[path] != nil // a first reading takes nothing from anybody
	k.members[path] = strings.Fields(string(text))
	c.Notes = []knock.Note{{Event: knock.NoteKeys, Detail: fmt.Sprintf("%d members", len(k.members[path]))}}
	if len(text) == 0 {
		c.Warnings = []string{"the club has no members"}
	}
	return c
}
func (k *clubKept) Stands(_ time.Time, _, by string) knock.Standing {
	k.judged++
	if len(k.members) == 0 && !k.locked[by] {
		return knock.Anywhere // it is not known
	}
	for _, all := range k.members {
		for _, member := range all {
			if m := memberOf(member); m.name == by && !k.locked[by] {
				return m.stands
			}
		}
	}
	return nil
}

// member is one that the file has: NAME, and where and until when they may come:
// "alice=192.0.2.2,2026-11-24T12:00:00Z".
type member struct {
	name  string
	from  string // "": from everywhere
	until time.Time
}

func memberOf(text string) (m member) {
	text, until, _ := strings.Cut(text, ",")
	m.until, _ = time.Parse(time.RFC3339, until)
	m.name, m.from, _ = strings.Cut(text, "=")
	return m
}

func (m member) stands(source netip.Addr) (time.Time, bool) {
	return m.until, m.from == "" || source.String() == m.from
}
func (k *clubKept) Order(_ time.Time, who, order string, args json.RawMessage) (c knock.Change, _ json.RawMessage, err error) {
	var of struct{ Name string }
	if json.Unmarshal(args, &of); order == "unlock" {
		k.locked[of.Name] = false
		return knock.Change{Marks: []knock.Mark{{Key: of.Name}}, Notes: []knock.Note{{Event: knock.NoteKeys, Detail: of.Name + " is let in again"}},
			Undo: func() []knock.Mark {
				k.locked[of.Name] = true
				return []knock.Mark{{Key: of.Name, Value: []byte("locked")}}
			}}, json.RawMessage(`{"locked":false}`), nil
	}
	if order != "lock" {
		return c, nil, &knock.OrderError{Message: "the club knows no " + order, Hint: "lock", Usage: true}
	}
	if of.Name == "" {
		return c, nil, errors.New("nobody is locked out")
	}
	k.locked[of.Name] = true
	return knock.Change{Marks: []knock.Mark{{Key: of.Name, Value: []byte("locked")}}, Recheck: true, Cut: func(by string) bool { return by == of.Name },
		Notes: []knock.Note{{Event: knock.NoteKeys, Detail: of.Name + " is locked out"}}}, json.RawMessage(`{"locked":true}`), nil
}
func (k *clubKept) Recogniser(door string, r knock.Rule, _ time.Time, _ []knock.Mark) knock.Recogniser {
	return &clubRecogniser{kept: k, door: door}
}

type clubOpener uint16

func (clubOpener) Glance(netip.Addr, []byte, bool, []byte) (knock.Rank, int) { return knock.Claimed, 0 }
func (clubOpener) Open(d knock.Datagram) (any, []byte, bool)                 { return clubSaid(d.Payload), nil, true }

type clubSaid string

func (s clubSaid) Door() string {
	door, _, _ := strings.Cut(string(s), " ")
	return door
}

type clubRecogniser struct {
	answering
	kept *clubKept
	door string
}

func (r *clubRecogniser) Follow(knock.Rule) bool { return true }
func (r *clubRecogniser) Hear(h knock.Heard) []knock.Verdict {
	words := strings.Fields(string(h.Said.(clubSaid)))
	if len(r.kept.members) == 0 {
		return nil
	}
	v := knock.Verdict{Source: h.Source, Proven: h.Proven, Time: h.Time, By: words[len(words)-1], Path: h.Path,
		Reason: "is a member", Right: true, First: slices.Contains(words, "first")}
	v.Close, v.Only, v.Extend = slices.Contains(words, "close"), slices.Contains(words, "only"), slices.Contains(words, "extend")
	if slices.Contains(words, "briefly") {
		v.AtMost = briefTime
	}
	if v.First {
		v.Marks = []knock.Mark{{Key: v.By, Value: []byte("seen")}}
	}
	if n := slices.IndexFunc(words, func(w string) bool { return w[0] == '#' }); n >= 0 {
		if r.kept.used[words[n]] {
			return nil
		}
		r.kept.used[words[n]] = true
	}
	if strings.HasPrefix(words[1], "ticket") { // which counts once
		if v.Right = !r.kept.tickets[words[1]]; v.Right {
			r.kept.tickets[words[1]] = true
			v.Marks, v.First = []knock.Mark{{Key: words[1], Value: []byte("used"), Common: true}}, true
			v.Undo = func() []knock.Mark {
				r.kept.tickets[words[1]] = false
				return []knock.Mark{{Key: words[1], Common: true}}
			}
		}
	}
	switch {
	case r.kept.locked[v.By]:
		v.Right, v.Alarm, v.Reason = false, true, "is locked out"
	case slices.Contains(words, "code"):
		r.spend(&v)
	}
	answered := v
	v.Answer = func(o knock.Outcome) []byte {
		if r.kept.tells != nil {
			r.kept.tells(r.door, answered, o)
		}
		return []byte(r.door + ": " + inWords(o))
	}
	return []knock.Verdict{v}
}

// briefTime is how long a grant lasts at most that was asked for briefly.
const briefTime = 4 * time.Second

// spend strikes a code off before it opens.
func (r *clubRecogniser) spend(v *knock.Verdict) {
	if r.kept.spent[v.By] {
		v.Right, v.Reason = false, "was used before"
		return
	}
	r.kept.spent[v.By] = true
	v.First, v.Marks = true, []knock.Mark{{Key: codeMark + v.By, Value: []byte("seen"), Common: true}}
	by := v.By
	v.Undo = func() []knock.Mark {
		delete(r.kept.spent, by)
		return []knock.Mark{{Key: codeMark + by, Common: true}}
	}
}

// inWords returns an outcome in words.
func inWords(o knock.Outcome) string {
	switch {
	case o.Open:
		return "open for " + time.Until(o.Until).Round(time.Second).String()
	case o.Waits:
		return "waits"
	case o.Closed:
		return "closed"
	}
	return "refused: " + string(o.Refused)
}

// clubHouse is a gateway with two doors of the club, on a machine with its file.
type clubHouse struct {
	*running
	files *clubFiles
}

// clubFiles are files that need no disk.
type clubFiles struct {
	m    *machine
	text map[string]string
	err  error
	read int
}

func (f *clubFiles) change(w *World) {
	w.KnockFile = func(of knock.File) ([]byte, error) {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		f.read++
		return []byte(f.text[of.Path]), f.err
	}
	w.Stamp = func(path string) string {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		return fmt.Sprint(f.text[path], f.err)
	}
}

const clubKnock = `
[[door.ssh.knock]]
kind = "club"
port = 5005
members = "/members"
`

// clubDoors are two: ssh has a service, and hears touches as well, and web has none.
var clubDoors = sshDoor + clubKnock + webDoor + strings.ReplaceAll(clubKnock, "ssh", "web")

// openClub starts a gateway with some doors.
func openClub(t *testing.T, m *machine, doors string) *clubHouse {
	t.Helper()
	before := kinds.All
	kinds.All = append(slices.Clone(before), club{})
	t.Cleanup(func() { kinds.All = before })
	f := &clubFiles{m: m, text: map[string]string{"/members": "alice bob"}}
	return &clubHouse{runWith(t, m, configPath(t), doors, f.change), f}
}

// again starts it once more after the gateway has stopped.
func (c *clubHouse) again() {
	c.t.Helper()
	c.stop()
	c.running = restartWith(c.t, c.m, c.path, c.files.change)
}

// says has a visitor say something from an address that is proven, and returns what they
// are told.
func (c *clubHouse) says(from netip.Addr, what string) string { return c.told(from, what, true) }

func (c *clubHouse) told(from netip.Addr, what string, proven bool) string {
	c.t.Helper()
	h := letterFrom(from, "")
	h.Said, h.Proven = clubSaid(what), proven
	c.Hear([]knock.Heard{h})
	synctest.Wait()
	return c.hears()
}

// hears returns what was answered since.
func (c *clubHouse) hears() string {
	var all []string
	for _, a := range c.m.answered() {
		_, said, _ := strings.Cut(a, " ")
		all = append(all, said)
	}
	return strings.Join(all, "; ")
}

// members writes the file, and lets the gateway look.
func (c *clubHouse) members(text string, err error) {
	c.t.Helper()
	c.m.do(func() { c.files.text["/members"], c.files.err = text, err })
	time.Sleep(upkeepInterval)
	synctest.Wait()
}

// in are who has a grant at a door, and by whom.
func (c *clubHouse) in(door string) string {
	c.t.Helper()
	s, _ := c.Status()
	var all []string
	for _, d := range s.Doors {
		for _, g := range d.Grants {
			if d.Name == door {
				all = append(all, g.Source+" "+strings.Join(g.For, "+"))
			}
		}
	}
	return strings.Join(all, ", ")
}

// events are the records of one kind, each as source, party and reason.
func (c *clubHouse) events(event string) (all []string) {
	c.m.do(func() {
		for _, r := range c.m.trail {
			if r.Event == event {
				all = append(all, string(bytes.TrimSpace(fmt.Appendf(nil, "%s %s: %s", r.Source, r.By, r.Reason))))
			}
		}
	})
	return all
}
