package credential

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Party is who has shown a credential. What it may is what Permits says.
type Party struct {
	ID   string // what it is for ever: "SHA256:..." of its key, or of a certificate's key
	Name string // for people; may be "", and may be another tomorrow

	options         []*Options // of each of its lines
	certificate     *certificate
	issued          *issued   // what By tells of it
	ends            time.Time // of a code; zero: it does not
	security        bool      // it has a security key
	flags           byte      // of the security key
	locked, revoked bool
}

// By is who it is in records: its name, if it has one, and its ID after that. ID takes
// the ID out of it. Of a certificate it has in between what Ring.Stands has to know; it has
// 256 bytes at most.
func (p *Party) By() string {
	if p.issued == nil {
		return by(p.Name, p.ID)
	}
	return by(p.Name, p.issued.String()+" "+p.ID)
}

// Ask is what a party asks for.
type Ask struct {
	Now     time.Time
	Zone    *time.Location // in which hours and times of options are read; never nil
	Door    string
	Source  netip.Addr // where it was heard from; never IPv4-mapped, no zone
	Address netip.Addr // what the grant is to be for; the zero Addr for Source
}

// Terms are those of what is permitted.
type Terms struct {
	AtMost     time.Duration // the longest that a grant may last, always above 0; 0: as the door says
	OneAddress bool          // a knock from a new address ends the grant of the old one
}

// Permits says whether a party may have what it asks for, and if not, the reason that
// is nearest to a yes. It is asked after what was shown has been verified, so that its
// answer tells nothing to strangers. A grant is for no longer than the credential and its
// hours last: AtMost.
func (p *Party) Permits(a Ask) (Terms, *Refusal) {
	switch {
	case p.revoked:
		return Terms{}, &Refusal{Reason: Revoked}
	case p.locked:
		return Terms{}, &Refusal{Reason: Locked}
	case !p.ends.IsZero() && !a.Now.Before(p.ends):
		return Terms{}, &Refusal{Reason: CodeExpired, Time: p.ends}
	}
	if !a.Address.IsValid() {
		a.Address = a.Source
	}
	most := limit{now: a.Now}
	if p.certificate != nil {
		if refusal := p.certificate.permits(a, &most); refusal != nil {
			return Terms{}, refusal
		}
	}
	nearest := &Refusal{Reason: Principals} // no line of the authority is for the certificate
	for i, o := range p.options {
		line := most
		refusal := p.permits(o, a, &line)
		if refusal == nil {
			return Terms{AtMost: line.most, OneAddress: o.OneAddress}, nil
		}
		if i == 0 || refusal.step > nearest.step {
			nearest = refusal
		}
	}
	return Terms{}, nearest
}

// permits judges by one line.
func (p *Party) permits(o *Options, a Ask, most *limit) *Refusal {
	noTouch, verify := o.NoTouch, o.Verify
	if c := p.certificate; c != nil { // as sshauthopt_merge has it (auth-options.c)
		noTouch, verify = noTouch && c.noTouch, verify || c.verify
	}
	present, verified := p.flags&flagPresent != 0, p.flags&flagVerified != 0
	switch {
	case !o.opens(a.Door):
		return &Refusal{Reason: Door, step: 1}
	case !o.From.admits(a):
		return &Refusal{Reason: From, step: 2}
	case a.Address != a.Source && !o.AnyAddress:
		return &Refusal{Reason: OtherAddress, step: 3}
	case p.security && !noTouch && !present:
		return &Refusal{Reason: Touch, step: 4}
	case verify && !verified:
		return &Refusal{Reason: Verification, step: 5}
	}
	if !o.Expires.IsZero() && !most.until(o.Expires.In(a.Zone)) {
		return &Refusal{Reason: Expired, Time: o.Expires.In(a.Zone), step: 6}
	}
	if s := o.Schedule; s != nil {
		turn, ok := s.Turns(a.Now.In(a.Zone))
		if !s.Covers(a.Now.In(a.Zone)) {
			return &Refusal{Reason: OutsideHours, Time: turn, step: 7}
		}
		if ok {
			most.until(turn)
		}
	}
	if o.MaxOpenFor > 0 {
		most.until(a.Now.Add(o.MaxOpenFor))
	}
	return nil
}

// opens says whether a door is among those of the options.
func (o *Options) opens(door string) bool { return o.Doors == nil || slices.Contains(o.Doors, door) }

// permits judges by what the certificate itself says.
func (c *certificate) permits(a Ask, most *limit) *Refusal {
	if c.unknown {
		return &Refusal{Reason: CriticalOption}
	}
	if after := seconds(c.after); a.Now.Before(after) {
		return &Refusal{Reason: NotYet, Time: after}
	}
	if before, ends := c.expires(); ends && !most.until(before) {
		return &Refusal{Reason: CertificateExpired, Time: before}
	}
	if !c.from.admits(a) {
		return &Refusal{Reason: CertificateFrom}
	}
	return nil
}

// admits says whether both where something is asked from and what it is asked for are
// admitted; the nil pointer admits all.
func (a *Addresses) admits(ask Ask) bool {
	return a == nil || a.Admit(ask.Source) && a.Admit(ask.Address)
}

// limit is how long a grant may last.
type limit struct {
	now  time.Time
	most time.Duration // 0: as the door says
}

// until bounds it by a moment; false: that is past.
func (l *limit) until(t time.Time) bool {
	d := t.Sub(l.now)
	if d <= 0 {
		return false
	}
	if l.most == 0 || d < l.most {
		l.most = d
	}
	return true
}

// Reason is why a party may not have what it asks for. The numbers are sent to visitors:
// they never change.
type Reason uint8

// The reasons.
const (
	Expired            Reason = 1  // the line's expiry-time is past
	CertificateExpired Reason = 2  // the certificate's time is past
	NotYet             Reason = 3  // the certificate's time has not come
	OutsideHours       Reason = 4  // of the line's schedule
	From               Reason = 5  // the line's from does not admit the address
	CertificateFrom    Reason = 6  // nor does the certificate's source-address
	Door               Reason = 7  // it is not among the line's doors
	Locked             Reason = 8  // by an operator; it is an alarm
	Revoked            Reason = 9  // the key, the certificate, or its authority
	Principals         Reason = 10 // the certificate has none of the authority's line
	CriticalOption     Reason = 11 // of the certificate, and not known
	Touch              Reason = 12 // the security key was not touched
	Verification       Reason = 13 // the security key has not verified its user
	OtherAddress       Reason = 14 // asked for without any-address
	CodeExpired        Reason = 15 // the invite's time, or the rescue code's, is past
)

// reasons are a word for metrics and a sentence for the visitor for each.
var reasons = map[Reason]struct{ word, text string }{
	Expired:            {"expired", "your key has expired%s: the gateway's operator can give it a later expiry-time"},
	CertificateExpired: {"certificate-expired", "your certificate has expired%s: get a new one from who issues them"},
	NotYet:             {"not-yet", "your certificate is not valid yet%s: knock then, or look whether the gateway's clock is right"},
	OutsideHours:       {"outside-hours", "your key does not count at this hour%s: knock then, or ask the gateway's operator for other hours (schedule)"},
	From:               {"from", "your key does not count from this address%s: knock from one that the gateway's operator has admitted (from)"},
	CertificateFrom:    {"certificate-from", "your certificate does not count from this address%s: knock from one of its source-address, or get another certificate"},
	Door:               {"door", "your key does not open this door%s: knock at another, or ask the gateway's operator to add this one (doors)"},
	Locked:             {"locked", "your key is locked%s: ask the gateway's operator, who locked it and can unlock it"},
	Revoked:            {"revoked", "your key or certificate is revoked%s: ask the gateway's operator for a new invite, or get a new certificate"},
	Principals:         {"principals", "your certificate is for nobody whom the gateway admits%s: get one with a principal of the gateway's (ssh-keygen -L shows those it has)"},
	CriticalOption:     {"critical-option", "your certificate has a critical option that the gateway does not know%s: get one without it (ssh-keygen -L shows it)"},
	Touch:              {"untouched", "your security key was not touched%s: knock again and touch it"},
	Verification:       {"verification", "your security key has not verified you%s: use a key made with ssh-keygen -O verify-required, and enter its PIN"},
	OtherAddress:       {"other-address", "your key may not ask for another address than its own%s: knock from that address, or ask the gateway's operator (any-address)"},
	CodeExpired:        {"code-expired", "your invite or rescue code has expired%s: ask the gateway's operator for another"},
}

// String is the reason in one word, as metrics count it.
func (r Reason) String() string {
	if known, ok := reasons[r]; ok {
		return known.word
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Refusal is why a party may not have what it asks for.
type Refusal struct {
	Reason Reason
	Time   time.Time // when that began or will end, if that is known

	step int // how far it got
}

// Text is the refusal for the visitor: why, and what would help. Times are in the zone
// that the refusal's has.
func (r Refusal) Text() string {
	known, ok := reasons[r.Reason]
	if !ok {
		return fmt.Sprintf("the gateway refused, for a reason that is not known here (%d): a newer doorward can tell", uint8(r.Reason))
	}
	when := ""
	if !r.Time.IsZero() {
		word := " on "
		if r.Reason == NotYet || r.Reason == OutsideHours {
			word = ", only from "
		}
		when = word + r.Time.Format("Mon 2006-01-02 15:04 MST")
	}
	return fmt.Sprintf(known.text, when)
}
