package credential

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Options restrict what a credential may.
type Options struct {
	Doors      []string      // the doors that it opens; nil: all
	From       *Addresses    // where it may be used; nil: everywhere
	Expires    Moment        // when it ends; zero: never
	Schedule   *Schedule     // the hours at which it counts; nil: always
	MaxOpenFor time.Duration // the longest grant, a second at least; 0: as the door says
	OneAddress bool          // a knock from a new address ends the grant of the old one
	AnyAddress bool          // it may ask for another address than its own
	Principals []string      // of an authority: its certificate has one of these
	NoTouch    bool          // a security key need not have been touched
	Verify     bool          // a security key has verified its user, by a PIN or a finger

	text      string // as they were written
	authority bool
}

// String is the options as they were written.
func (o *Options) String() string { return o.text }

// ParseOptions reads options as they stand before a key, "" for none. Those of authorities
// are refused: they make sense in a file of keys alone.
func ParseOptions(text string) (*Options, error) {
	if text == "" {
		return &none, nil
	}
	if strings.ContainsAny(text, "\n\r\x00") { // of which no line of a file could be made
		return nil, errors.New("there is a line break or a NUL in them: allowed is one line")
	}
	o, rest, err := takeOptions(text)
	switch {
	case err != nil:
		return nil, err
	case rest != "":
		return nil, errors.New("more stands after the options: put commas and no blanks between them")
	case o.authority || o.Principals != nil:
		return nil, errors.New("cert-authority and principals are options of authorities, which have a line in the file of keys: remove them here")
	}
	return o, nil
}

// Authority says whether they make a key one of an authority.
func (o *Options) Authority() bool { return o.authority }

// takeOptions reads the options at the beginning of a line.
func takeOptions(line string) (o *Options, rest string, err error) {
	list, rest, err := splitOptions(line)
	if err != nil {
		return nil, "", err
	}
	if o, err = readOptions(list); err != nil {
		return nil, "", err
	}
	o.text = strings.TrimRight(strings.TrimSuffix(line, rest), " \t")
	return o, rest, nil
}

// flags are options without a value; each of sshd's that matters here has the meaning
// that it has there.
var flags = map[string]func(*Options){
	"cert-authority":     func(o *Options) { o.authority = true },
	"touch-required":     func(o *Options) { o.NoTouch = false },
	"no-touch-required":  func(o *Options) { o.NoTouch = true },
	"verify-required":    func(o *Options) { o.Verify = true },
	"no-verify-required": func(o *Options) { o.Verify = false },
	"one-address":        func(o *Options) { o.OneAddress = true },
	"any-address":        func(o *Options) { o.AnyAddress = true },
}

// values are options with a value, each given once at most.
var values = map[string]func(*Options, string) error{
	"doors":        (*Options).readDoors,
	"from":         (*Options).readFrom,
	"expiry-time":  (*Options).readExpiry,
	"schedule":     (*Options).readSchedule,
	"max-open-for": (*Options).readMaxOpenFor,
	"principals":   (*Options).readPrincipals,
}

// sshds are sshd's options that say what a session may do, and nothing about who may
// knock (auth-options.c); those with a value are true.
var sshds = map[string]bool{
	"restrict": false, "port-forwarding": false, "no-port-forwarding": false,
	"agent-forwarding": false, "no-agent-forwarding": false, "x11-forwarding": false, "no-x11-forwarding": false,
	"pty": false, "no-pty": false, "user-rc": false, "no-user-rc": false,
	"command": true, "environment": true, "permitopen": true, "permitlisten": true, "tunnel": true,
}

// readOptions reads a line's options.
func readOptions(list []option) (*Options, error) {
	o, seen := &Options{}, map[string]bool{}
	for _, l := range list {
		set, isFlag := flags[l.name]
		read, isValue := values[l.name]
		theirs, isTheirs := sshds[l.name]
		switch {
		case !isFlag && !isValue && !isTheirs:
			return nil, fmt.Errorf("option %s is not known: allowed are %s, and those of sshd that say what a session may do",
				shownName(l.name), optionList())
		case (isFlag || isTheirs && !theirs) && l.valued:
			return nil, fmt.Errorf("option %s has no value: write it alone", l.name)
		case (isValue || theirs) && !l.valued:
			return nil, fmt.Errorf(`option %s has no value: allowed is %[1]s="..."`, l.name)
		case isValue && seen[l.name]:
			return nil, fmt.Errorf("option %s is given twice: put all of it into one", l.name)
		}
		seen[l.name] = true
		if isFlag {
			set(o)
		}
		if isValue {
			if err := read(o, l.value); err != nil {
				return nil, fmt.Errorf("option %s: %w", l.name, err)
			}
		}
	}
	return o, nil
}

// suit says what of the options makes no sense for a key.
func (o *Options) suit(k Key) error {
	switch {
	case o.authority && len(o.Principals) == 0:
		return errors.New(`an authority without principals="...", which says whose certificates count: a gateway has no users' names to compare with`)
	case !o.authority && o.Principals != nil:
		return errors.New("option principals is for authorities alone: add cert-authority, or remove it")
	}
	kind := kindOf(k.Blob)
	if !o.authority && o.Verify && !isSecurityKey(kind) {
		return fmt.Errorf("option verify-required is for security keys (sk-...): a key of type %s never says that it verified anybody", kind)
	}
	return nil
}

func optionList() string {
	var names []string
	for n := range flags {
		names = append(names, n)
	}
	for n := range values {
		names = append(names, n+`="..."`)
	}
	slices.Sort(names)
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// shownName is an option's name in a message, unless it looks like something else:
// perhaps a secret in the wrong place.
func shownName(name string) string {
	strange := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	if name == "" || len(name) > 24 || strings.ContainsFunc(name, strange) {
		return "here"
	}
	return name
}

// listed takes a value apart at its commas.
func listed(value, what string) ([]string, error) {
	list := strings.Split(value, ",")
	for i, s := range list {
		if list[i] = strings.TrimSpace(s); list[i] == "" {
			return nil, fmt.Errorf("%s: nothing stands before or after a comma: allowed are %s, with commas between", shown(value), what)
		}
	}
	return list, nil
}

func (o *Options) readDoors(value string) (err error) {
	o.Doors, err = listed(value, "names of doors")
	return err
}

func (o *Options) readPrincipals(value string) (err error) {
	o.Principals, err = listed(value, "names that certificates have")
	return err
}

func (o *Options) readFrom(value string) (err error) {
	o.From, err = parseAddresses(value)
	return err
}

func (o *Options) readExpiry(value string) (err error) {
	o.Expires, err = parseMoment(value)
	return err
}

func (o *Options) readSchedule(value string) (err error) {
	o.Schedule, err = ParseSchedule(value)
	return err
}

func (o *Options) readMaxOpenFor(value string) error {
	d, err := time.ParseDuration(value)
	if err != nil || d < time.Second {
		return fmt.Errorf(`%s: allowed is a second or more, as "90s", "30m" or "8h"`, shown(value))
	}
	o.MaxOpenFor = d
	return nil
}

// Moment is a time that is read in the gateway's time zone, unless it was written with a
// Z. The zero Moment is none.
type Moment struct {
	wall time.Time // as it was written, in UTC
	utc  bool
}

// In is the moment in a time zone. Of a time that is there twice when clocks are set
// back, it may be either.
func (m Moment) In(zone *time.Location) time.Time {
	if m.utc {
		return m.wall
	}
	w := m.wall
	return time.Date(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), 0, zone)
}

// IsZero says whether it is none.
func (m Moment) IsZero() bool { return m.wall.IsZero() }

// parseMoment reads a time as sshd does (misc.c, parse_absolute_time).
func parseMoment(value string) (m Moment, err error) {
	digits := value
	for _, suffix := range []string{"Z", "UTC"} {
		if n := len(digits) - len(suffix); n >= 0 && strings.EqualFold(digits[n:], suffix) {
			digits, m.utc = digits[:n], true
			break
		}
	}
	form := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	if m.wall, err = time.Parse(form, digits); form == "" || err != nil || strings.ContainsAny(digits, ".,") {
		return Moment{}, fmt.Errorf("%s: allowed is YYYYMMDD or YYYYMMDDHHMM[SS], with Z after it for UTC, as 20270101 or 202701011830Z", shown(value))
	}
	return m, nil
}
