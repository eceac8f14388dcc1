package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// What operators can make is bounded, since all of it is in memory.
const (
	mostInvites  = 1000
	mostRescues  = 1000
	mostEnrolled = 10_000
	mostListed   = 1000
	longestLine  = 1024             // of an enrolled key, which is a mark
	mostOptions  = 512              // bytes of an invite's, so that there is room for its key
	mostCounters = 2 * mostEnrolled // of single packets
	mostDenied   = 2 * mostEnrolled // that are locked, or revoked; beyond that, only who is known here
)

// call is an order that is being carried out.
type call struct {
	kept *kept
	now  time.Time
	who  string
	args json.RawMessage
	knock.Change
	undo []func() knock.Mark // what gives somebody a right, taken back
}

// Order carries out an operator's order.
func (k *kept) Order(now time.Time, who, order string, args json.RawMessage) (knock.Change, json.RawMessage, error) {
	k.ledger.sweep(now, false)
	c := &call{kept: k, now: now, who: who, args: args}
	var reply any
	var err error
	switch order {
	case OrderInvite:
		reply, err = ordered(c, c.invite)
	case OrderRescue:
		reply, err = ordered(c, c.rescue)
	case OrderKeys:
		reply, err = ordered(c, c.keys)
	case OrderAdd:
		reply, err = ordered(c, c.add)
	case OrderRevoke:
		reply, err = ordered(c, c.revoke)
	case OrderRestore:
		reply, err = ordered(c, c.restore)
	case OrderLock:
		reply, err = ordered(c, c.lock)
	case OrderUnlock:
		reply, err = ordered(c, c.unlock)
	case OrderWithdraw:
		reply, err = ordered(c, c.withdraw)
	default:
		err = &knock.OrderError{Message: fmt.Sprintf("there is no order %q", order), Usage: true}
	}
	if err != nil {
		return knock.Change{}, nil, err
	}
	var text json.RawMessage
	if c.Reply == nil {
		if text, err = json.Marshal(reply); err != nil {
			return knock.Change{}, nil, err
		}
	}
	if len(c.Marks) > 0 {
		k.publish(now)
	}
	if len(c.undo) > 0 {
		c.Undo = func() (marks []knock.Mark) {
			for _, back := range c.undo {
				marks = append(marks, back())
			}
			k.publish(now)
			return marks
		}
	}
	return c.Change, text, nil
}

// ordered reads the arguments of an order, strictly, and carries it out.
func ordered[A, R any](c *call, do func(A) (R, error)) (any, error) {
	var a A
	if len(c.args) > 0 {
		dec := json.NewDecoder(bytes.NewReader(c.args))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&a); err != nil {
			return nil, &knock.OrderError{Message: "cannot read the order: " + err.Error(), Usage: true}
		}
	}
	return do(a)
}

func (c *call) note(format string, args ...any) {
	c.Notes = append(c.Notes, knock.Note{Event: knock.NoteKeys, Detail: fmt.Sprintf(format, args...)})
}

func wrong(hint, format string, args ...any) error {
	return &knock.OrderError{Message: fmt.Sprintf(format, args...), Hint: hint}
}

// at returns the first rule of a door, or of any for "", or the first of those that takes
// single packets.
func (c *call) at(door string, oneWay bool) (knock.Use, error) {
	var doors []string
	var answers *knock.Use
	for _, u := range c.kept.uses {
		switch is := door == "" || u.Door == door; {
		case is && (rule(u.Rule).OneWay || !oneWay):
			return u, nil
		case is && answers == nil:
			answers = &u
		}
		doors = append(doors, u.Door)
	}
	if answers != nil {
		return knock.Use{}, wrong("one_way = true at the knock in the configuration, and doorward apply; or an invite without --one-way",
			"door %q takes no single packets", answers.Door)
	}
	if len(doors) == 0 {
		return knock.Use{}, wrong("doorward init --knock sealed --force, which keeps the configuration as it is beside the new one", "no door has a sealed knock")
	}
	return knock.Use{}, wrong("", "door %q has no sealed knock: allowed are %s", door, strings.Join(slices.Compact(doors), ", "))
}

// gate is at, with the gateway's key there.
func (c *call) gate(door string, oneWay bool) (u knock.Use, id *identity, err error) {
	if u, err = c.at(door, oneWay); err != nil {
		return u, nil, err
	}
	path := rule(u.Rule).Identity
	if id = c.kept.files[path].identity; id == nil {
		return u, nil, wrong("doorward keys identity "+path, "the gateway has no key: %s cannot be used", path)
	}
	return u, id, nil
}

func (c *call) random(b []byte) error {
	if _, err := io.ReadFull(c.kept.random, b); err != nil {
		return fmt.Errorf("draw a secret: %w", err)
	}
	return nil
}

const (
	inviteLasts = 7 * 24 * time.Hour
	inviteMost  = 366 * 24 * 3600 // in seconds
	sheetLasts  = 20              // years, for which rescue codes may lie in a drawer
)

func (c *call) invite(a InviteArgs) (reply Invite, err error) {
	u, id, err := c.gate(a.Door, a.OneWay)
	if err != nil {
		return reply, err
	}
	lasts := time.Duration(a.Seconds) * time.Second
	if a.Seconds == 0 {
		lasts = inviteLasts
	}
	name := credential.Name(a.For)
	l := &c.kept.ledger
	if len(l.invites) >= mostInvites {
		c.Marks = append(c.Marks, l.sweep(c.now, true)...)
	}
	switch {
	case name == "":
		return reply, wrong("doorward invite --for NAME", "an invite is for somebody: whom, is the name of the key that it enrols")
	case a.Seconds < 0 || a.Seconds > inviteMost || lasts < time.Minute:
		return reply, wrong("", "an invite that lasts %d seconds: allowed are 60 to %d (366 days)", a.Seconds, inviteMost)
	case len(l.invites) >= mostInvites:
		return reply, wrong("doorward keys list", "there are %d invites already: withdraw some", len(l.invites))
	case len(l.keys) >= mostEnrolled:
		return reply, wrong("doorward keys list", "%d keys are enrolled already: revoke some", len(l.keys))
	}
	made := &code{Code: credential.Code{Name: name, Expires: c.now.Add(lasts).Truncate(time.Second)}, Made: c.now}
	if made.Options, err = doorOptions(a.Options, a.Door); err != nil {
		return reply, err
	}
	if len(a.Options) > mostOptions || len(made.mark(inviteMark).Value) > longestLine {
		return reply, wrong("", "the options have %d bytes: allowed are %d, and fewer with many quotation marks; leave out what only sshd reads", len(a.Options), mostOptions)
	}
	reply = id.invite(u, made.Expires)
	reply.OneWay, reply.AnySource = a.OneWay, a.OneWay && rule(u.Rule).AnySource
	if a.Key != "" {
		f, err := credential.ParseFingerprint(a.Key)
		if err != nil {
			return reply, wrong("ssh-keygen -l -f FILE.pub", "%v", err)
		}
		made.Key = &f
		if e, unknown := c.find(f.String()); unknown == nil {
			if a.Options != "" {
				return reply, wrong("doorward keys list --json", "the key %s is known already (%s), and an invite does not change its options: make it without", f, e.Origin)
			}
			reply.Bound = true
			c.note("made an invite for %s, whose key %s is known", name, f)
			return reply, nil
		}
	}
	if err := c.random(reply.Code); err != nil {
		return reply, err
	}
	made.Hash = credential.HashCode([16]byte(reply.Code))
	c.keep(c.kept.ledger.invites, made, inviteMark)
	c.note("made the invite %s for %s, until %s", made.short(), name, made.Expires.UTC().Format(time.RFC3339))
	return reply, nil
}

// invite is one that enrols nobody as yet.
func (id *identity) invite(u knock.Use, expires time.Time) Invite {
	r := rule(u.Rule)
	return Invite{Code: make([]byte, 16), Profile: id.profiles[0][:], Fingerprint: id.keys[0].Fingerprint().String(),
		Port: r.Port, TCP: r.TCP, Door: u.Door, Expires: expires}
}

// keep adds a code to those of its kind.
func (c *call) keep(codes map[string]*code, made *code, kind string) {
	hash := hex.EncodeToString(made.Hash[:])
	codes[hash] = made
	c.Marks = append(c.Marks, made.mark(kind))
	c.undo = append(c.undo, func() knock.Mark {
		delete(codes, hash)
		return forget(kind, hash)
	})
}

// short is what people call a code by.
func (c *code) short() string { return hex.EncodeToString(c.Hash[:4]) }

// doorOptions reads options, to which a door is added unless they name some.
func doorOptions(text, door string) (o *credential.Options, err error) {
	if text != "" {
		if o, err = credential.ParseOptions(text); err != nil {
			return nil, wrong("", "options: %v", err)
		}
	}
	if door == "" || o != nil && o.Doors != nil {
		return o, nil
	}
	if o, err = credential.ParseOptions(strings.TrimPrefix(text+`,doors="`+door+`"`, ",")); err != nil {
		return nil, wrong("", "options: %v", err)
	}
	return o, nil
}

func (c *call) rescue(a RescueArgs) (reply Rescue, err error) {
	l := &c.kept.ledger
	switch {
	case a.Count < 1 || a.Count > 100:
		return reply, wrong("", "%d rescue codes: allowed are 1 to 100", a.Count)
	case len(l.rescues)+a.Count > mostRescues:
		return reply, wrong("doorward keys withdraw --rescues", "there are %d rescue codes already, of %d at most", len(l.rescues), mostRescues)
	}
	u, id, err := c.gate(a.Door, false)
	if err != nil {
		return reply, err
	}
	options, err := doorOptions("", a.Door)
	if err != nil {
		return reply, err
	}
	reply.Invite = id.invite(u, c.now.AddDate(sheetLasts, 0, 0).Truncate(time.Second))
	reply.Invite.Bound = true
	for range a.Count {
		var secret [16]byte
		if err := c.random(secret[:]); err != nil {
			return Rescue{}, err
		}
		made := &code{Code: credential.Code{Hash: credential.HashCode(secret), Name: "rescue", Options: options}, Made: c.now}
		c.keep(l.rescues, made, rescueMark)
		reply.Codes = append(reply.Codes, seal.FormatCode(secret))
	}
	c.note("made %d rescue codes", a.Count)
	return reply, nil
}

func (c *call) add(a AddArgs) (reply Done, err error) {
	text := a.Lines
	if a.Options != "" {
		var b strings.Builder
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				b.WriteString(a.Options + " " + line + "\n")
			}
		}
		text = b.String()
	}
	list, problems := credential.Parse([]byte(text), "the keys")
	if len(problems) > 0 {
		return reply, wrong("", "%s", problems[0])
	}
	if len(list) == 0 {
		return reply, wrong("doorward keys add FILE.pub", "there is no key")
	}
	l := &c.kept.ledger
	if len(l.keys)+len(list) > mostEnrolled {
		return reply, wrong("", "%d keys are enrolled already, of %d at most", len(l.keys), mostEnrolled)
	}
	var names []string
	for i := range list {
		k := &list[i]
		if k.Name == "" {
			k.Name = credential.Name(a.Name)
		}
		id := k.Fingerprint.String()
		switch {
		case k.Authority:
			return reply, wrong("", "an authority is for the file of keys: it is not enrolled")
		case l.revoked[id] != "":
			return reply, wrong("doorward keys restore "+id, "the key %s was revoked %s", id, l.revoked[id])
		case len(k.String()) > longestLine:
			return reply, wrong("", "the line of %s has %d bytes: allowed are %d", id, len(k.String()), longestLine)
		}
		names = append(names, strings.TrimSpace(k.Name+" "+id))
	}
	for _, k := range list {
		id := k.Fingerprint.String()
		before, had := l.keys[id]
		c.Marks = append(c.Marks, l.enrol(k))
		c.undo = append([]func() knock.Mark{func() knock.Mark { // the last first, should one be there twice
			if had && l.revoked[id] == "" {
				return l.enrol(before)
			}
			return l.expel(id)
		}}, c.undo...)
	}
	c.Recheck = true // options may have become narrower
	c.note("added %s", strings.Join(names, ", "))
	return Done{"added " + strings.Join(names, ", ")}, nil
}

func (c *call) withdraw(a WithdrawArgs) (reply Done, err error) {
	l := &c.kept.ledger
	if a.Rescues {
		n := 0
		for hash, r := range l.rescues {
			if r.use == "" {
				n++
				c.Marks = append(c.Marks, forget(rescueMark, hash))
			}
		}
		clear(l.rescues)
		c.note("withdrew all %d rescue codes", n)
		return Done{fmt.Sprintf("withdrew all %d rescue codes", n)}, nil
	}
	var found []string
	for hash, i := range l.invites {
		if a.Invite != "" && i.use == "" && (i.short() == a.Invite || i.Name == a.Invite) {
			found = append(found, hash)
		}
	}
	switch len(found) {
	case 0:
		return reply, wrong("doorward keys list", "there is no invite %q: allowed is an ID or whom it is for", a.Invite)
	case 1:
	default:
		return reply, wrong("doorward keys list", "%d invites are for %q: say the ID of one", len(found), a.Invite)
	}
	i := l.invites[found[0]]
	delete(l.invites, found[0])
	c.Marks = append(c.Marks, forget(inviteMark, found[0]))
	c.note("withdrew the invite %s for %s", i.short(), i.Name)
	return Done{fmt.Sprintf("withdrew the invite %s for %s", i.short(), i.Name)}, nil
}
