package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/files"
)

// rawConfig and the raw structs after it are the keys of the file, table by
// table. They hold values as they stand there, with their places; what they
// mean is checked by the methods of checker.
type rawConfig struct {
	Gateway value `toml:"gateway"`
	Door    value `toml:"door"`
}

type rawGateway struct {
	State   value `toml:"state"`
	Control value `toml:"control"`
	Metrics value `toml:"metrics"`
}

// Load reads and checks the configuration file at path and returns its text as
// well. The file names programs that are run as root, so it must be root's or
// the user's own, and so must be the way to it: see files.Read. Whatever is not a
// regular file is refused, and so is more than a mebibyte: a device or a pipe
// would hang a daemon that starts at boot.
func Load(path string) (*Config, []byte, error) {
	text, err := files.Read(path, maxFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", mend(path, err))
	}
	c, err := Parse(path, text)
	return c, text, err
}

// mend says what to type for a configuration that is not the daemon's to read or
// not root's alone to write.
func mend(path string, err error) error {
	const right = "chown root:doorward %s && chmod 0640 %[1]s"
	e, bad := errors.AsType[*files.Error](err)
	switch {
	case bad && e.File:
		return &files.Error{Path: e.Path, Problem: e.Problem, Fix: fmt.Sprintf(right, files.Quoted(e.Path)), File: true}
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; read it as root, or let the group doorward: chgrp doorward %s %s && chmod g+rX %[2]s %[3]s",
			err, files.Quoted(filepath.Dir(path)), files.Quoted(path))
	}
	return err
}

// Parse checks a configuration's text. The file's name is only for messages.
// The error holds every mistake of the text, in its order (see Mistakes), and
// the Config is nil then: there are no defaults for what is wrong. A text that
// is not TOML has one mistake, the first, because what follows cannot be read.
func Parse(file string, text []byte) (*Config, error) {
	tree := map[string]any{}
	if err := toml.Unmarshal(text, &tree); err != nil {
		return nil, joinMistakes([]*Mistake{notTOML(file, err)})
	}
	c := &checker{file: file, at: locate(text)}
	config := c.config(value{"", tree, position{1, 1}})
	if len(c.found) > 0 {
		return nil, joinMistakes(c.found)
	}
	return config, nil
}

// notTOML turns the decoder's error into a Mistake.
func notTOML(file string, err error) *Mistake {
	m := &Mistake{File: file, Line: 1, Column: 1, Problem: "not TOML: " + err.Error()}
	if d, ok := errors.AsType[*toml.DecodeError](err); ok {
		m.Line, m.Column = d.Position()
		m.Key = strings.Join(d.Key(), ".")
		m.Problem = "not TOML: " + strings.TrimPrefix(d.Error(), "toml: ")
	}
	return m
}

// config checks the whole file.
func (c *checker) config(root value) *Config {
	var raw rawConfig
	c.fields(root, &raw)
	config := &Config{Gateway: c.gateway(raw.Gateway)}
	if !c.table(raw.Door) {
		return config
	}
	doors, _ := raw.Door.v.(map[string]any)
	if len(doors) == 0 {
		raw.Door.v = nil
		c.wrong(raw.Door, "missing: there is nothing to guard", "tables such as [door.ssh]")
	}
	placed := &places{}
	for _, name := range slices.Sorted(maps.Keys(doors)) {
		config.Doors = append(config.Doors, c.door(name, c.child(raw.Door, name), placed))
	}
	c.disjoint(placed, config.Gateway.Metrics)
	return config
}

// gateway checks the [gateway] table.
func (c *checker) gateway(v value) Gateway {
	var raw rawGateway
	c.fields(v, &raw)
	g := Gateway{
		State:   c.path(raw.State, DefaultState),
		Control: c.path(raw.Control, DefaultControl),
		Metrics: c.metrics(raw.Metrics),
	}
	if raw.Control.given() && len(g.Control) > maxControl {
		c.wrong(raw.Control, fmt.Sprintf("%d bytes long", len(g.Control)),
			fmt.Sprintf("%d bytes for a socket's path", maxControl))
	}
	return g
}

// absolutePaths says what is allowed, by an example.
func absolutePaths(example string) string {
	return fmt.Sprintf("absolute paths such as %q", example)
}

// path reads an absolute path.
func (c *checker) path(v value, unset string) string {
	if !v.given() {
		return unset
	}
	form := absolutePaths(unset)
	s, ok := c.str(v, form)
	if ok && !c.absolute(v, s, form) {
		return ""
	}
	return s
}

// absolute says whether s, which is v, is a path from the root. The daemon's
// working directory is no place that an operator can know.
func (c *checker) absolute(v value, s, form string) bool {
	switch {
	case s == "":
		c.wrong(v, "empty", form)
	case strings.ContainsRune(s, 0):
		c.wrong(v, "has a zero byte", form)
	case !strings.HasPrefix(s, "/"):
		c.wrong(v, "not an absolute path", form)
	case filepath.ToSlash(filepath.Clean(s)) != s || s == "/":
		c.wrong(v, "not a plain path", form).Hint = fmt.Sprintf("write %q", filepath.Clean(s))
	default:
		return true
	}
	return false
}

const addresses = `"" for none, and an address with a port such as "127.0.0.1:9472", "[::1]:9472"`

// metrics reads the metrics listener's address. Names are not resolved: what
// they mean could change between the check and the start.
func (c *checker) metrics(v value) string {
	if !v.given() {
		return ""
	}
	s, ok := c.str(v, addresses)
	if !ok || s == "" {
		return ""
	}
	a, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		c.wrong(v, "not an address with a port", addresses)
	case a.Port() == 0:
		c.wrong(v, "port 0", addresses)
	case a.Addr().Is4In6():
		c.wrong(v, "an IPv4 address in IPv6 form", addresses).Hint = fmt.Sprintf(
			"write %q", netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	default:
		return s
	}
	return ""
}
