package sealed

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
)

// census is who may knock, as of a moment. It does not change, so that a list of very many
// is made elsewhere than where knocks are judged.
type census struct {
	files           []censusFile // in the order of the rules
	enrolled        *credential.Keys
	every           []string // doors
	locked, revoked map[string]string
}

// censusFile is what a file has, and the doors whose knocks go by it.
type censusFile struct {
	digest
	doors []string
}

// census looks at no key.
func (k *kept) census() *census {
	c := &census{enrolled: k.ledger.enrolled(), locked: k.ledger.locked, revoked: k.ledger.revoked}
	at := make(map[string]int)
	for _, u := range k.uses {
		r := rule(u.Rule)
		c.every = appendNew(c.every, u.Door)
		for _, f := range []string{r.Keys, r.Secrets} {
			if f == "" {
				continue
			}
			i, known := at[f]
			if !known {
				i = len(c.files)
				at[f] = i
				c.files = append(c.files, censusFile{digest: k.files[f].digest})
			}
			c.files[i].doors = appendNew(c.files[i].doors, u.Door)
		}
	}
	return c
}

// entries are all who may knock and match, each once, in the order of files and then of
// identities. However many doors there are, it looks at each once.
func (c *census) entries(matches func(KeyEntry) bool) (all []KeyEntry, more int) {
	all = []KeyEntry{}
	add := func(doors []string, e KeyEntry) {
		switch {
		case !matches(e):
		case len(all) >= mostListed:
			more++
		default:
			e.Doors = slices.Clone(doors)
			e.Locked, e.Revoked = c.locked[e.ID], c.revoked[e.ID]
			all = append(all, e)
		}
	}
	for _, f := range c.files {
		for i := range f.size() {
			add(f.doors, f.entry(i))
		}
	}
	for _, key := range c.enrolled.All() {
		add(c.every, entryOf(key, "enrolled"))
	}
	return all, more
}

// appendNew appends a door unless it is the last one already: the knocks of a door stand
// together.
func appendNew(doors []string, door string) []string {
	if len(doors) > 0 && doors[len(doors)-1] == door {
		return doors
	}
	return append(doors, door)
}

func entryOf(k credential.Key, origin string) KeyEntry {
	e := KeyEntry{ID: k.Fingerprint.String(), Name: k.Name, Type: k.Type(), Origin: origin, Options: optionsText(k.Options)}
	if k.Authority {
		e.Type = "authority " + e.Type
	}
	return e
}

func optionsText(o *credential.Options) string {
	if o == nil {
		return ""
	}
	return o.String()
}

// keys lists who may knock; that is done elsewhere, however many they are.
func (c *call) keys(a KeysArgs) (reply Keys, err error) {
	l := &c.kept.ledger
	reply.Invites, reply.Rescues = c.codes(l.invites), c.codes(l.rescues)
	who := c.kept.census()
	c.Reply = func() (json.RawMessage, error) {
		reply.Keys, reply.More = who.entries(func(e KeyEntry) bool { return strings.Contains(e.ID, a.Match) || strings.Contains(e.Name, a.Match) })
		return json.Marshal(reply)
	}
	return reply, nil
}

// codes lists those that may still be used.
func (c *call) codes(of map[string]*code) (all []CodeEntry) {
	all = []CodeEntry{}
	for _, hash := range slices.Sorted(maps.Keys(of)) {
		i := of[hash]
		if i.use != "" {
			continue
		}
		e := CodeEntry{ID: i.short(), Name: i.Name, Options: optionsText(i.Options), Made: i.Made}
		if !i.Expires.IsZero() {
			e.Expires = &i.Expires
		}
		if i.Key != nil {
			e.Key = i.Key.String()
		}
		all = append(all, e)
	}
	return all
}

// leastID is how much of an identity names somebody: "secret:" and twelve more.
const leastID = 19

// find returns who has an identity, or alone has the beginning of one or a name. Of an entry
// it knows the identity, the name and the origin.
func (c *call) find(key string) (e KeyEntry, err error) {
	key = strings.TrimSuffix(key, "…") // as it is shown on a terminal
	var found []KeyEntry
	ids := make(map[string]bool)
	add := func(e KeyEntry) bool {
		if !ids[e.ID] && len(found) < mostListed {
			ids[e.ID] = true
			found = append(found, e)
		}
		return len(found) < mostListed
	}
	for _, f := range c.kept.census().files {
		f.find(key, add)
	}
	for id, k := range c.kept.ledger.keys {
		if key != "" && (k.Name == key || len(key) >= leastID && strings.HasPrefix(id, key)) {
			add(entryOf(k, "enrolled"))
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return e, wrong("doorward keys list", "%d keys are called %q: say the fingerprint of one", len(found), key)
	}
	return e, wrong("doorward keys list; who has a certificate is not in it, and is named by a whole fingerprint (doorward status --json)",
		"there is no key %q: allowed is a fingerprint or a name", key)
}

// stamp is who did something, and when.
func (c *call) stamp() string { return "by " + c.who + " on " + c.now.UTC().Format(time.RFC3339) }

// deny adds an identity to those that are locked or revoked.
func (c *call) deny(a KeyArgs, into *map[string]string, kind, done string) (reply Done, err error) {
	e, err := c.find(a.Key)
	if _, unknown := credential.ParseFingerprint(a.Key); err != nil && unknown == nil {
		if len(*into) >= mostDenied {
			return reply, wrong("ssh-keygen -k, and revoked in the knock's table", "%d are %s already, and %s is not known here: allowed are %d; put it on a list of revoked keys",
				len(*into), done, a.Key, mostDenied)
		}
		e, err = KeyEntry{ID: a.Key}, nil // of a certificate, or of a key that is not here yet
	}
	if err != nil {
		return reply, err
	}
	who := strings.TrimSpace(e.Name + " " + e.ID)
	if c.Recheck = true; a.Now {
		c.Cut = func(by string) bool { return credential.DependsOn(by, e.ID) }
	}
	switch by := (*into)[e.ID]; {
	case by != "" && a.Now:
		c.note("ended the connections of %s, %s %s", who, done, by)
		return Done{done + " already; live connections end: " + who}, nil
	case by != "":
		return reply, wrong("doorward keys list", "%s is %s already: %s", e.ID, done, by)
	}
	stamp := c.stamp()
	*into = with(*into, e.ID, stamp)
	c.Marks = append(c.Marks, knock.Mark{Key: kind + e.ID, Value: []byte(stamp), Common: true})
	c.note("%s %s", done, who)
	return Done{done + " " + who}, nil
}

// with is a map with another value, "" for none. The map itself does not change: a list may
// be made of it elsewhere.
func with(m map[string]string, key, value string) map[string]string {
	m = maps.Clone(m)
	if m[key] = value; value == "" {
		delete(m, key)
	}
	return m
}

// allow takes one back from those.
func (c *call) allow(a KeyArgs, from *map[string]string, kind, not, done string) (reply Done, err error) {
	e, err := c.find(a.Key)
	if err != nil {
		e = KeyEntry{ID: a.Key}
	}
	if (*from)[e.ID] == "" {
		return reply, wrong("doorward keys list", "%q is not %s", a.Key, not)
	}
	was := (*from)[e.ID]
	*from = with(*from, e.ID, "")
	c.Marks = append(c.Marks, forget(kind, e.ID))
	c.undo = append(c.undo, func() knock.Mark {
		*from = with(*from, e.ID, was)
		return knock.Mark{Key: kind + e.ID, Value: []byte(was), Common: true}
	})
	who := strings.TrimSpace(e.Name + " " + e.ID)
	c.note("%s %s", done, who)
	return Done{done + " " + who}, nil
}

func (c *call) lock(a KeyArgs) (Done, error) {
	return c.deny(a, &c.kept.ledger.locked, lockMark, "locked")
}

func (c *call) unlock(a KeyArgs) (Done, error) {
	return c.allow(a, &c.kept.ledger.locked, lockMark, "locked", "unlocked")
}

// revoke revokes a key for good. One that was enrolled is forgotten, too; one of a file
// stays there, and counts no more.
func (c *call) revoke(a KeyArgs) (Done, error) {
	l := &c.kept.ledger
	e, _ := c.find(a.Key)
	reply, err := c.deny(a, &l.revoked, revokedMark, "revoked")
	if err != nil {
		return reply, err
	}
	if _, enrolled := l.keys[e.ID]; enrolled {
		c.Marks = append(c.Marks, l.expel(e.ID))
	}
	if e.Origin != "" && e.Origin != "enrolled" {
		reply.Message += "; its line is still there, and can be deleted: " + e.Origin
	}
	return reply, nil
}

func (c *call) restore(a KeyArgs) (Done, error) {
	return c.allow(a, &c.kept.ledger.revoked, revokedMark, "revoked", "no longer revoked:")
}
