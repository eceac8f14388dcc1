package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/tables"
)

// Load reads and checks the configuration file at path and returns its text as
// well. The file names programs that are run as root, so it must be root's or
// the user's own, and so must every directory on the way to it: see files.Read. A
// file of more than MaxFile bytes is refused, and so is whatever is not a regular
// file: a device or a pipe would hang a daemon that starts at boot.
func Load(path string) (*Config, []byte, error) {
	text, err := Read(path)
	if err != nil {
		return nil, nil, err
	}
	c, err := Parse(path, text)
	return c, text, err
}

// Read returns the text that Load checks, under the same rules.
func Read(path string) ([]byte, error) {
	text, err := files.Read(path, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", mend(path, err))
	}
	return text, nil
}

// Blank reports whether a text has at most comments and empty lines. Packages bring
// such a configuration, and doorward init overwrites it.
func Blank(text []byte) bool {
	var said map[string]any
	return toml.Unmarshal(text, &said) == nil && len(said) == 0
}

// Hash returns the SHA-256 of a text in hex, "" for none (nil).
func Hash(text []byte) string {
	if text == nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// mend adds to an error what to type, for a configuration that the daemon may not
// read, or that others than root may write.
func mend(path string, err error) error {
	const right = "chown root:doorward %s && chmod 0640 %[1]s"
	e, bad := errors.AsType[*files.Error](err)
	switch {
	case bad && e.File:
		return &files.Error{Path: e.Path, Problem: e.Problem, Fix: fmt.Sprintf(right, files.Quoted(e.Path)), File: true}
	case errors.Is(err, fs.ErrPermission) && closedToOthers(path):
		return fmt.Errorf("%w; run as root, or join the group doorward", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; read it as root, or let the group doorward read it: chgrp doorward %s %s && chmod g+rX %[2]s %[3]s",
			err, files.Quoted(filepath.Dir(path)), files.Quoted(path))
	}
	return err
}

// closedToOthers reports whether the file is out of reach in a directory that is open
// to its group, as packages make it: then the file's own mode is not to blame.
func closedToOthers(path string) bool {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrPermission) {
		return false
	}
	dir, err := os.Stat(filepath.Dir(path))
	return err == nil && dir.Mode()&0o050 == 0o050
}

// Parse checks a configuration's text. The file's name is only for messages.
// The error holds every mistake of the text, in its order (see tables.Mistakes),
// and the Config is nil then: there are no defaults for what is wrong. A text that
// is not TOML has one mistake, the first, because what follows cannot be read.
func Parse(file string, text []byte) (*Config, error) {
	root, err := tables.Parse(file, text)
	if err != nil {
		return nil, err
	}
	config := read(root)
	if err := root.Err(); err != nil {
		return nil, err
	}
	return config, nil
}

// checker reads doors and notes what they claim.
type checker struct{ places }

// read checks the whole file.
func read(root *tables.Table) *Config {
	config := &Config{Gateway: readGateway(root.At("gateway"))}
	key := root.At("door")
	root.Done()
	doors, ok := key.Table()
	if !ok {
		return config
	}
	names, _ := key.V.(map[string]any)
	if len(names) == 0 {
		key.V = nil
		key.Wrong("missing: there is nothing to guard", "tables such as [door.ssh], which doorward init writes")
	}
	c := &checker{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		config.Doors = append(config.Doors, c.door(name, doors.At(name)))
	}
	c.disjoint(config.Gateway.Metrics)
	return config
}

// readGateway reads the [gateway] table.
func readGateway(v tables.Value) Gateway {
	t, _ := v.Table()
	state, control := t.At("state"), t.At("control")
	g := Gateway{
		State:   file(state, DefaultState),
		Control: file(control, DefaultControl),
		Metrics: metrics(t.At("metrics")),
		Records: records(t.At("records")),
		Host:    host(t.At("host")),
	}
	t.Done()
	if control.Given() && len(g.Control) > maxControl {
		control.Wrong(fmt.Sprintf("%d bytes long", len(g.Control)),
			fmt.Sprintf("%d bytes for a socket's path", maxControl))
	}
	return g
}

// file reads the path of a file that has a default.
func file(v tables.Value, unset string) string {
	if !v.Given() {
		return unset
	}
	s, _ := v.File(tables.AbsolutePaths(unset))
	return s
}

const addresses = `"" for none, and an address with a port such as "127.0.0.1:9472", "[::1]:9472"`

// metrics reads the metrics listener's address. Names are not resolved: what
// they mean could change between the check and the start.
func metrics(v tables.Value) string {
	if !v.Given() {
		return ""
	}
	s, ok := v.Text(addresses)
	if !ok || s == "" {
		return ""
	}
	a, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		v.Wrong("not an address with a port", addresses)
	case a.Port() == 0:
		v.Wrong("port 0", addresses)
	case a.Addr().Is4In6():
		v.Wrong("an IPv4 address in IPv6 form", addresses).Hint = fmt.Sprintf(
			"write %q", netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	default:
		return s
	}
	return ""
}
