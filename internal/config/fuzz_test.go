package config

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sealed"
	"github.com/doorward/doorward/internal/tables"
	"github.com/doorward/doorward/internal/touch"
)

// FuzzParse checks that no text makes Parse panic, that a refusal names a place
// within the text, that reading twice gives the same result, and that what is
// accepted is what the types promise and what a second reading finds in the text.
func FuzzParse(f *testing.F) {
	promise, err := os.ReadFile("testdata/promise.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(promise)
	f.Add([]byte(Reference()))
	f.Add([]byte(LikeTheArticle()))
	for _, cases := range [][]mistakeCase{formCases, doorCases, serviceCases, knockCases, disjointCases} {
		if len(cases) == 0 {
			f.Fatal("no seeds")
		}
		for _, tt := range cases {
			f.Add([]byte(tt.in))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("t.toml", text)
		again, err2 := Parse("t.toml", text)
		if diff := cmp.Diff(c, again, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Fatalf("two readings differ: %v\n%v\n%s", err, err2, diff)
		}
		if err == nil {
			if err := valid(c); err != nil {
				t.Fatalf("accepted: %v\n%+v", err, c)
			}
			if err := saysTheSame(text, c); err != nil {
				t.Fatalf("accepted, but read differently: %v\n%+v", err, c)
			}
			c.Warnings()
			if d := Differences(text, text); len(d) > 0 {
				t.Fatalf("differs from itself: %+v", d)
			}
			return
		}
		lines := bytes.Count(text, []byte("\n")) + 1
		found := tables.Mistakes(err)
		if len(found) == 0 {
			t.Fatalf("refused without a mistake: %v", err)
		}
		for _, m := range found {
			if m.Line < 1 || m.Line > lines || m.Column < 1 || m.Problem == "" {
				t.Fatalf("mistake %+v: no place in %d lines, or no problem", m, lines)
			}
		}
	})
}

// valid checks what config.go promises about a Config, by other means than Parse.
func valid(c *Config) error {
	taken := map[port.Port]string{} // every port of every door, guarded or listened on
	units := map[string]bool{}
	take := func(p port.Port, who string) error {
		if was := taken[p]; was != "" {
			return errors.New(p.String() + ": " + who + " and " + was)
		}
		taken[p] = who
		return nil
	}
	if !cleanPath(c.Gateway.State) || !cleanPath(c.Gateway.Control) || len(c.Gateway.Control) > 107 {
		return errors.New("gateway paths")
	}
	if len(c.Doors) == 0 || !slices.IsSortedFunc(c.Doors, func(a, b Door) int { return strings.Compare(a.Name, b.Name) }) {
		return errors.New("no doors, or not in order")
	}
	for i := range c.Doors {
		d := &c.Doors[i]
		if i > 0 && c.Doors[i-1].Name == d.Name {
			return errors.New("a name twice")
		}
		for _, r := range d.Ports {
			for n := int(r.First); n <= int(r.Last); n++ {
				if err := take(port.Port{Proto: r.Proto, Number: uint16(n)}, "door "+d.Name); err != nil {
					return err
				}
			}
		}
		if s := d.Service; s != nil && s.Unit != "" {
			if units[s.Unit] {
				return errors.New("a unit twice")
			}
			units[s.Unit] = true
		}
		for _, k := range d.Knocks {
			for _, p := range k.Hears() {
				if err := take(p.AsPort(), "knock of "+d.Name); err != nil {
					return err
				}
			}
		}
		if err := validDoor(d); err != nil {
			return errors.New(d.Name + ": " + err.Error())
		}
	}
	return nil
}

func cleanPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && p != "/" && !strings.Contains(p, "\x00")
}

func between(d, low, high time.Duration) bool { return low <= d && d <= high }

func validDoor(d *Door) error {
	const month = 720 * time.Hour
	switch {
	case len(d.Name) < 1 || len(d.Name) > 24 || strings.ToLower(d.Name) != d.Name:
		return errors.New("name")
	case len(d.Ports) == 0 || len(d.Knocks) == 0:
		return errors.New("no ports or no knocks")
	case !between(d.OpenFor, time.Second, month) || d.Presence.Idle != 0 && !between(d.Presence.Idle, time.Second, month):
		return errors.New("open_for or idle")
	case d.Presence.Idle != 0 && d.Presence.Logins == LoginsOff && !d.Presence.Connections:
		return errors.New("nobody is ever seen to be in")
	case d.Presence.Idle == 0 && slices.ContainsFunc(d.Knocks, Knock.ForAll):
		return errors.New("open to everybody for ever")
	case d.Presence.Logins == LoginsAuto && !d.SSH():
		return errors.New("auto logins of a door without SSH")
	case (d.Presence.Logins == LoginsFiles) != (len(d.Presence.Files) > 0):
		return errors.New("logins and files")
	case slices.ContainsFunc(d.Presence.Files, func(p string) bool { return !cleanPath(p) }):
		return errors.New("files")
	}
	for i, p := range d.Always {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || slices.ContainsFunc(d.Always[:i], p.Overlaps) {
			return errors.New("always")
		}
	}
	if s := d.Service; s != nil {
		unit := strings.HasSuffix(s.Unit, ".service") || strings.HasSuffix(s.Unit, ".socket")
		command := len(s.Start) > 0 && cleanPath(s.Start[0])
		if unit == command || s.Unit != "" && (s.Stop != nil || s.Status != nil) || strings.Contains(s.Unit, "/") {
			return errors.New("service")
		}
		if !between(s.Timeout, time.Second, time.Hour) {
			return errors.New("timeout")
		}
	}
	names := map[string]bool{}
	for _, k := range d.Knocks {
		if names[k.Name] || !strings.HasPrefix(k.Name, k.Kind) {
			return errors.New("names of knocks")
		}
		names[k.Name] = true
		if r, ok := k.Rule.(sealed.Rule); ok {
			if r.Port == 0 || !cleanPath(r.Identity) || !cleanPath(r.Keys) || r.AnySource && !r.OneWay || !between(r.MaxOpenFor, time.Second, 30*24*time.Hour) {
				return errors.New("sealed")
			}
			continue
		}
		if err := validKnock(d, touchOf(k)); err != nil {
			return err
		}
	}
	return nil
}

func validKnock(d *Door, k touch.Rule) error {
	touched := map[uint16]bool{}
	for _, p := range k.Touch {
		if touched[p] || !slices.Contains(k.Listen, p) {
			return errors.New("touch")
		}
		touched[p] = true
	}
	switch {
	case len(k.Touch) == 0:
		return errors.New("empty")
	case !between(k.Within, time.Second, time.Hour):
		return errors.New("within")
	case k.Judge != 0 && !between(k.Judge, k.Within, time.Hour):
		return errors.New("judge")
	case k.Penalty != 0 && !between(k.Penalty, time.Second, 720*time.Hour):
		return errors.New("penalty")
	case d.SingleUse && k.Everybody:
		return errors.New("single use for all")
	}
	return nil
}

// valid, on which FuzzParse relies, notices what it is there for.
func TestValidNotices(t *testing.T) {
	for name, spoil := range map[string]func(*Door, *touch.Rule){
		"host bits":   func(d *Door, _ *touch.Rule) { d.Always = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")} },
		"guarded":     func(_ *Door, k *touch.Rule) { k.Listen[0] = 22; k.Touch[0] = 22 },
		"not listed":  func(_ *Door, k *touch.Rule) { k.Touch[0] = 1 },
		"auto":        func(d *Door, _ *touch.Rule) { d.Ports[0].First, d.Ports[0].Last = 1, 1 },
		"short judge": func(_ *Door, k *touch.Rule) { k.Judge = time.Second },
	} {
		c, err := Parse("t.toml", []byte(ssh+oneKnock))
		if err != nil {
			t.Fatal(err)
		}
		d := &c.Doors[0]
		rule := touchOf(d.Knocks[0])
		spoil(d, &rule)
		d.Knocks[0].Rule = rule
		if valid(c) == nil {
			t.Errorf("%s: valid, want an error", name)
		}
	}
}
