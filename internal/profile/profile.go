package profile

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofrs/flock"
	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/seal"
)

// Profile is a gateway as a visitor knows it, and who the visitor is there.
type Profile struct {
	Name     string
	Hosts    []string // in the order in which they are tried
	Port     uint16
	Carriers []string // "udp", "tcp"
	Gateway  seal.Peer
	Suite    seal.Suite
	Doors    []string // those that are known, of which the first is the default; empty for the gateway's first
	// Ports are those of the doors, by name, as the gateway has told them last, such as
	// "22/tcp" and "8000-8010/tcp"; the gateway's first door is "". None that was not
	// opened yet has any.
	Ports  map[string][]string
	Key    Key
	OneWay bool // knock with single packets, that are not answered
	// AnySource says that the door takes single packets from any source, whose sender
	// need not know the own address.
	AnySource bool
}

// Key says with what a visitor knocks. One of the fields is set, but Certificate goes with
// Agent or File.
type Key struct {
	Agent       string // fingerprint of a key in ssh-agent, as ssh-keygen -l prints it
	File        string // path of a private key
	Certificate string // path of a certificate for it; "" for none
	Secret      string // path of a file with a machine's secret
}

// file is a profile as its file has it.
type file struct {
	Hosts    []string `toml:"hosts"`
	Port     uint16   `toml:"port"`
	Carriers []string `toml:"carriers"`
	Doors    []string `toml:"doors"`
	OneWay   bool     `toml:"one_way"`
	Any      bool     `toml:"any_source"`
	Suite    string   `toml:"suite"`

	Ports map[string][]string `toml:"ports"`

	Gateway struct {
		Fingerprint string `toml:"fingerprint"`
		Secret      string `toml:"secret"`
		Bundle      string `toml:"bundle"`
	} `toml:"gateway"`
	Key struct {
		Agent       string `toml:"agent"`
		File        string `toml:"file"`
		Certificate string `toml:"certificate"`
		Secret      string `toml:"secret"`
	} `toml:"key"`
}

// Directory is where the profiles of one user are.
type Directory string

// Default returns the user's directory: doorward/profiles in os.UserConfigDir.
func Default() (Directory, error) {
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("where profiles are kept: %w", err)
	}
	return Directory(filepath.Join(base, "doorward", "profiles")), nil
}

const (
	extension   = ".toml"
	largestFile = 64 << 10
)

// Path is where a profile's file is.
func (d Directory) Path(name string) string { return filepath.Join(string(d), name+extension) }

// ErrNone says that there is no profile of a name.
var ErrNone = errors.New("there is no such profile")

// Load reads a profile. An error Is ErrNone or says what is wrong with the file.
func (d Directory) Load(name string) (p Profile, err error) {
	if err := CheckName(name); err != nil {
		return p, err
	}
	path := d.Path(name)
	text, err := files.ReadPrivate(path, largestFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("%w: %q (%s)", ErrNone, name, path)
	}
	if err != nil {
		return p, fmt.Errorf("profile %q: %w", name, err)
	}
	if p, err = parse(text); err != nil {
		return p, fmt.Errorf("profile %q: %s: %w", name, path, err)
	}
	p.Name = name
	return p, nil
}

// parse reads a profile's text.
func parse(text []byte) (p Profile, err error) {
	var f file
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
			row, _ := strict.Errors[0].Position()
			return p, fmt.Errorf("line %d: there is no key %q", row, strings.Join(strict.Errors[0].Key(), "."))
		}
		return p, err
	}
	p = Profile{Hosts: f.Hosts, Port: f.Port, Carriers: f.Carriers, Doors: f.Doors, OneWay: f.OneWay, AnySource: f.Any, Ports: f.Ports,
		Key: Key{Agent: f.Key.Agent, File: f.Key.File, Certificate: f.Key.Certificate, Secret: f.Key.Secret}}
	if p.Gateway.Fingerprint, err = seal.ParseFingerprint(f.Gateway.Fingerprint); err != nil {
		return p, fmt.Errorf("gateway.fingerprint: %w", err)
	}
	secret, err := base64.StdEncoding.DecodeString(f.Gateway.Secret)
	if err != nil || len(secret) != len(p.Gateway.Profile) {
		return p, errors.New("gateway.secret: allowed are 24 characters of base64, from the invite")
	}
	copy(p.Gateway.Profile[:], secret)
	if p.Gateway.Bundle, err = base64.StdEncoding.DecodeString(f.Gateway.Bundle); err != nil {
		return p, errors.New("gateway.bundle: this is no base64; delete the line, and it is fetched again")
	}
	if p.Suite, err = parseSuite(f.Suite); err != nil {
		return p, err
	}
	return p, p.check()
}

func parseSuite(s string) (seal.Suite, error) {
	for _, suite := range []seal.Suite{seal.Hybrid, seal.X25519} {
		if s == suite.String() || s == "" {
			return suite, nil
		}
	}
	return 0, fmt.Errorf("suite: %q: allowed are %q and %q", s, seal.Hybrid, seal.X25519)
}

// check says what is wrong with a profile.
func (p *Profile) check() error {
	if len(p.Hosts) == 0 || len(p.Hosts) > mostHosts {
		return fmt.Errorf("hosts: there are %d: allowed are 1 to %d", len(p.Hosts), mostHosts)
	}
	for _, h := range p.Hosts {
		if err := CheckHost(h); err != nil {
			return fmt.Errorf("hosts: %w", err)
		}
	}
	if p.Port == 0 {
		return errors.New("port: allowed are 1 to 65535")
	}
	if len(p.Carriers) == 0 {
		p.Carriers = []string{"udp"}
	}
	for _, c := range p.Carriers {
		if c != "udp" && c != "tcp" {
			return fmt.Errorf("carriers: %q: allowed are \"udp\" and \"tcp\"", c)
		}
	}
	for _, d := range p.Doors {
		if err := CheckName(d); err != nil {
			return fmt.Errorf("doors: %w", err)
		}
	}
	if err := checkPorts(p.Ports); err != nil {
		return err
	}
	return p.Key.check()
}

var ports = regexp.MustCompile(`^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?/(tcp|udp)$`)

func checkPorts(of map[string][]string) error {
	for door, all := range of {
		if door != "" && CheckName(door) != nil {
			return fmt.Errorf("ports: %w", CheckName(door))
		}
		for _, port := range all {
			if !ports.MatchString(port) {
				return fmt.Errorf("ports.%s: %q: allowed are ports such as \"22/tcp\" and \"8000-8010/tcp\"", door, port)
			}
		}
	}
	return nil
}

func (k Key) check() error {
	n := 0
	for i, s := range []string{k.Agent, k.File, k.Secret, k.Certificate} {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("key: %q: allowed is UTF-8 without control characters", s)
		}
		if s != "" && i < 3 {
			n++
		}
	}
	switch {
	case n > 1 || n == 0 && k.Certificate != "":
		return errors.New(`key: one of "agent", "file" and "secret" says with what to knock, or none of them for rescue codes alone`)
	case k.Certificate != "" && k.Secret != "":
		return errors.New(`key: a "certificate" goes with "agent" or "file"`)
	}
	return nil
}

// text returns the file of a profile.
func (p Profile) text() []byte {
	var b bytes.Buffer
	line := func(key string, value string) { fmt.Fprintf(&b, "%s = %s\n", key, value) }
	list := func(of []string) string {
		quoted := make([]string, len(of))
		for i, s := range of {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	b.WriteString("# A gateway to knock at: doorward knock " + p.Name + "\n# This file has a secret that all visitors of the gateway have.\n\n")
	line("hosts", list(p.Hosts))
	line("port", strconv.Itoa(int(p.Port)))
	line("carriers", list(p.Carriers))
	line("doors", list(p.Doors))
	line("suite", strconv.Quote(p.Suite.String()))
	line("one_way", strconv.FormatBool(p.OneWay))
	line("any_source", strconv.FormatBool(p.AnySource))
	b.WriteString("\n[key]\n")
	for _, k := range []struct{ name, value string }{{"agent", p.Key.Agent}, {"file", p.Key.File}, {"certificate", p.Key.Certificate}, {"secret", p.Key.Secret}} {
		if k.value != "" {
			line(k.name, strconv.Quote(k.value))
		}
	}
	b.WriteString("\n[gateway]\n")
	line("fingerprint", strconv.Quote(p.Gateway.Fingerprint.String()))
	line("secret", strconv.Quote(base64.StdEncoding.EncodeToString(p.Gateway.Profile[:])))
	if len(p.Gateway.Bundle) > 0 {
		line("bundle", strconv.Quote(base64.StdEncoding.EncodeToString(p.Gateway.Bundle)))
	}
	if len(p.Ports) > 0 {
		b.WriteString("\n# The doors' ports, as the gateway has told them last.\n[ports]\n")
	}
	for _, door := range slices.Sorted(maps.Keys(p.Ports)) {
		line(strconv.Quote(door), list(p.Ports[door]))
	}
	return b.Bytes()
}

// ErrExists says that there is a profile of a name already.
var ErrExists = errors.New("there is a profile of this name already")

// Save writes a profile to its file, in place of one that is there if replace says so; else
// the error Is ErrExists then.
func (d Directory) Save(p Profile, replace bool) error {
	if err := CheckName(p.Name); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return fmt.Errorf("profile %q: %w", p.Name, err)
	}
	path := d.Path(p.Name)
	if _, err := os.Lstat(path); err == nil && !replace {
		return fmt.Errorf("%w: %s", ErrExists, path)
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	if err := write(path, p.text()); err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	return nil
}

// write puts a file in place at once, readable by its owner alone.
func write(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has another name
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Remove removes a profile. The error Is ErrNone if there is none. The number of its last
// single packet stays: a profile of the same name may be of the same gateway.
func (d Directory) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := os.Remove(d.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %q (%s)", ErrNone, name, d.Path(name))
	}
	return err
}

// Names returns the names of all profiles, in order.
func (d Directory) Names() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the profiles: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), extension); ok && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// counterAhead is how far a single packet's number may be ahead of the gateway's clock
// (docs/PROTOCOL.md, 20).
const counterAhead = 5 * time.Minute

// Counter returns the number of a profile's next single packet: microseconds since 1970, or
// more if that would not be higher than the one before. It is on disk when Counter
// returns; several programs may call it at once. A number that no gateway would take is an
// error: the clock was ahead.
func (d Directory) Counter(name string, now time.Time) (uint64, error) {
	if err := CheckName(name); err != nil {
		return 0, err
	}
	path := filepath.Join(string(d), name+".counter")
	lock := flock.New(path + ".lock")
	if err := lock.Lock(); err != nil {
		return 0, fmt.Errorf("count a single packet: %w", err)
	}
	defer lock.Unlock()
	next := uint64(now.UnixMicro())
	switch text, err := os.ReadFile(path); {
	case err == nil:
		last, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("count a single packet: %s has no number: delete it if the clock is right", path)
		}
		if last >= next+uint64(counterAhead.Microseconds()) {
			return 0, fmt.Errorf("count a single packet: the last one was of %s, and a gateway takes none that is more than %v ahead of its clock: once this machine's is right, delete %s",
				time.UnixMicro(int64(min(last, math.MaxInt64))).UTC().Format(time.RFC3339), counterAhead, path)
		}
		next = max(next, last+1)
	case !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("count a single packet: %w", err)
	}
	if err := write(path, []byte(strconv.FormatUint(next, 10)+"\n")); err != nil {
		return 0, fmt.Errorf("count a single packet: %w", err)
	}
	return next, nil
}
