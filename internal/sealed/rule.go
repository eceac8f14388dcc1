// Package sealed is the knock kind "sealed": an encrypted and authenticated handshake of a
// few datagrams, or a single one, by which an SSH key, a certificate, a machine's secret or
// a code opens a door. internal/seal is its protocol and internal/credential knows who may
// knock; this package joins them and decides what a knock comes to. It is pure.
package sealed

import (
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// Kind is the sealed knock, as a knock.Keeper.
type Kind struct{}

var _ knock.Keeper = Kind{}

//go:embed reference.toml
var reference string

// Name returns "sealed".
func (Kind) Name() string { return "sealed" }

// Reference returns the documentation of the keys.
func (Kind) Reference() string { return reference }

// Needs returns nothing: which files there are depends on the rule.
func (Kind) Needs() knock.Needs { return knock.Needs{} }

// Rule is one sealed knock as it is configured.
type Rule struct {
	Port       uint16
	TCP        bool
	Identity   string // the path of a file, as are the next three
	Keys       string
	Secrets    string // "" for none
	Revoked    string // "" for none
	OneWay     bool
	AnySource  bool
	MaxOpenFor time.Duration
}

const (
	defaultPort = 41641
	defaultKeys = "/etc/doorward/authorized_keys"
)

// DefaultIdentity is where an identity file is if the configuration does not say.
const DefaultIdentity = "/etc/doorward/sealed.key"

var maxOpenFor = tables.Span{Unset: time.Hour, Min: time.Second, Max: 30 * 24 * time.Hour}

// Read reads a table of the kind into a Rule.
func (Kind) Read(t *tables.Table) knock.Rule {
	r := Rule{Port: defaultPort}
	number := t.At("port")
	if number.Given() {
		r.Port, _ = number.Port(port.UDP)
	}
	r.TCP = carriers(t.At("carriers"))
	r.readFiles(t)
	r.OneWay = t.At("one_way").Bool(false)
	any := t.At("any_source")
	if r.AnySource = any.Bool(false); r.AnySource && !r.OneWay {
		any.Wrong("without one_way, nothing is heard of it", "false, or true with one_way = true")
	}
	r.MaxOpenFor, _ = t.At("max_open_for").Duration(maxOpenFor)
	if r.Port == 0 {
		return nil
	}
	return r
}

const allowedCarriers = `["udp"] and ["udp", "tcp"]`

// carriers reads the list of carriers, and says whether TCP is one.
func carriers(v tables.Value) (tcp bool) {
	if !v.Given() {
		return false
	}
	list, ok := v.List(allowedCarriers)
	if !ok {
		return false
	}
	has := make(map[string]bool)
	for _, c := range list {
		if s, ok := c.Text(allowedCarriers); ok {
			if has[s] || s != "udp" && s != "tcp" {
				c.Wrong("no carrier, or there twice", allowedCarriers)
			}
			has[s] = true
		}
	}
	if !has["udp"] {
		v.Wrong(`without "udp"`, allowedCarriers)
	}
	return has["tcp"]
}

// readFiles reads the paths of files, none of which can be two things.
func (r *Rule) readFiles(t *tables.Table) {
	known := make(map[string]string) // what they are, by path
	for _, f := range []struct {
		key, unset, example string
		path                *string
	}{
		{asIdentity, DefaultIdentity, DefaultIdentity, &r.Identity},
		{asKeys, defaultKeys, defaultKeys, &r.Keys},
		{asSecrets, "", "/etc/doorward/secrets", &r.Secrets},
		{asRevoked, "", "/etc/doorward/revoked_keys", &r.Revoked},
	} {
		*f.path = f.unset
		v := t.At(f.key)
		if v.Given() {
			*f.path, _ = v.File(tables.AbsolutePaths(f.example))
		}
		if as := known[*f.path]; as != "" && *f.path != "" {
			v.Wrong("the same file as "+as, "files that differ")
		}
		known[*f.path] = f.key
	}
}

// Hears returns the port, of UDP and maybe of TCP.
func (r Rule) Hears() []knock.Place {
	places := []knock.Place{{Medium: knock.Datagrams, Port: r.Port}}
	if r.TCP {
		places = append(places, knock.Place{Medium: knock.Streams, Port: r.Port})
	}
	return places
}

// Shares says why the rule cannot be at another's port: the gateway is one for all who
// come there.
func (r Rule) Shares(other knock.Rule) error {
	o, ok := other.(Rule)
	switch {
	case !ok:
		return errors.New("a knock of another kind")
	case r.TCP != o.TCP:
		return errors.New("carriers: not the same")
	case r.Identity != o.Identity:
		return fmt.Errorf("identity = %q: the other has %q", r.Identity, o.Identity)
	}
	return nil
}

// Recogniser returns one that hears nothing: knocks are for those of Kept.
func (r Rule) Recogniser(time.Time, []knock.Mark) knock.Recogniser { return &recogniser{rule: r} }

// Lasts is nothing: of a handshake the request alone is heard.
func (r Rule) Lasts() time.Duration { return 0 }

// ForAll is false.
func (r Rule) ForAll() bool { return false }

// Needs are the files.
func (r Rule) Needs() (n knock.Needs) {
	for _, f := range r.Uses() {
		n.Files = append(n.Files, f.Path)
	}
	return n
}

// Warnings say what a rule gives up.
func (r Rule) Warnings() (all []string) {
	if r.AnySource {
		all = append(all, "any_source = true: whoever sees a single packet on its way can send it from another address first")
	}
	return all
}

// Words say what a visitor does.
func (r Rule) Words() string {
	by := "udp"
	if r.TCP {
		by = "udp or tcp"
	}
	return fmt.Sprintf("knock with a key or an invite at port %d (%s)", r.Port, by)
}
