package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/share"
)

// knockOptions are the flags and arguments of knock.
type knockOptions struct {
	host       string
	touch      []string
	wait       string
	v4, v6     bool
	both       bool
	delay      time.Duration
	each       time.Duration
	timeout    time.Duration
	json       bool
	stdio      bool
	verbose    bool
	argv       []string // the command after "--"
	waitPort   uint16   // 0: none
	touchPorts []uint16
	from       string
	identities []string
	then       string // what --from says is to be done next, "" for nothing
	itself     bool   // HOST is the machine that knocks
	at         sealedOptions
	doorPorts  []seal.Port // of a PROFILE's door, once the gateway has told them
}

// once is the text of a flag that can be given only once: of two, nobody knows which is
// meant.
type once struct {
	to    *string
	given bool
}

// String returns the text, "" before there is one.
func (o *once) String() string {
	if o.to == nil {
		return "" // pflag asks a value that nobody has made
	}
	return *o.to
}

// Type is what pflag calls the value.
func (o *once) Type() string { return "string" }

// Set takes the text, and no other after it.
func (o *once) Set(s string) error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case o.given:
		return fmt.Errorf("it was %q before, and can be given once", *o.to)
	}
	*o.to, o.given = s, true
	return nil
}

// read checks the command line, and reads what it names.
func (o *knockOptions) read(e *env, f *pflag.FlagSet, args []string, dash int) error {
	wrong := func(err error) error { return &usageError{withHint(err, "doorward knock --help")} }
	if err := o.parse(f, args, dash); err != nil {
		return wrong(err)
	}
	if o.from != "" {
		if err := o.load(e); err != nil {
			return err
		}
	}
	if err := o.ports(); err != nil {
		return wrong(err)
	}
	return nil
}

// parse checks the command line. dash is how many of args stand before "--",
// or -1.
func (o *knockOptions) parse(f *pflag.FlagSet, args []string, dash int) error {
	if dash >= 0 {
		args, o.argv = args[:dash], args[dash:]
		if len(o.argv) == 0 {
			return errors.New(`nothing follows "--": a command is missing`)
		}
	}
	switch {
	case o.from != "" && (len(args) > 0 || len(o.touch) > 0):
		return errors.New("--from has the host and the ports: HOST and --touch do not go with it")
	case o.from == "" && len(o.identities) > 0:
		return errors.New("--identity goes with --from")
	case o.from == "-" && (o.stdio || len(o.argv) > 0):
		return errors.New("--from - goes with neither --stdio nor a command: standard input is theirs")
	case o.from == "" && (len(args) == 0 || args[0] == ""):
		return errors.New("whom to knock at is missing: a PROFILE (doorward profiles lists them), or a HOST with --touch")
	case len(args) > 1 && len(o.touch) > 0 && strings.Trim(args[1], "0123456789,") == "":
		return fmt.Errorf("%q: the ports of --touch are one word: --touch 59000,59002, without blanks", args[1])
	case len(args) > 1 && !o.sealed():
		return fmt.Errorf("%q: one HOST only; a command goes after \"--\"", args[1])
	case o.v4 && o.v6, (o.v4 || o.v6) && o.both:
		return errors.New("-4, -6 and --both exclude one another")
	case o.stdio && len(o.argv) > 0:
		return errors.New("--stdio and a command exclude one another")
	case o.json && (o.stdio || len(o.argv) > 0):
		return errors.New("--json goes with neither --stdio nor a command: standard output is theirs")
	case o.each <= 0 || o.timeout <= 0 || o.delay < 0:
		return errors.New("--touch-timeout and --timeout must be more than 0, --delay not less")
	}
	if err := o.only(f); err != nil {
		return err
	}
	switch {
	case o.sealed():
		return o.parseSealed(args)
	case o.from == "":
		return o.readHost(args[0])
	}
	return nil
}

// readHost reads HOST. It may be written as ssh takes it, you@host and
// ssh://you@host:22, or as a host with a port: who logs in does not matter to a knock,
// and the port is the one to wait for.
func (o *knockOptions) readHost(arg string) error {
	wrong := func(why string) error {
		return fmt.Errorf("HOST %q: %s: allowed are a name, an address, and user@host:port", arg, why)
	}
	host, isURL := strings.CutPrefix(arg, "ssh://")
	if scheme, _, other := strings.Cut(host, "://"); other {
		return wrong(fmt.Sprintf("a %s URL", scheme))
	}
	if isURL {
		host = strings.TrimSuffix(host, "/")
	}
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		host = host[at+1:]
	}
	port := ""
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		address, rest, closed := strings.Cut(inner, "]")
		after, colon := strings.CutPrefix(rest, ":")
		if !closed || rest != "" && !colon || colon && after == "" {
			return wrong("brackets without an address in them, or a port after them")
		}
		host, port = address, after
	} else if _, err := netip.ParseAddr(host); err != nil {
		var colon bool
		if host, port, colon = strings.Cut(host, ":"); colon && port == "" {
			return wrong("nothing follows the colon")
		}
	}
	switch {
	case host == "":
		return wrong("no host")
	case strings.ContainsAny(host, "/ "):
		return wrong("no host's name")
	case port == "" && isURL:
		port = sshPort
	}
	o.host = host
	return o.waitAt(port)
}

// sshPort is where SSH is unless something else is said (RFC 4253, 4.1).
const sshPort = "22"

// waitAt takes the port that stands with HOST, "" for none.
func (o *knockOptions) waitAt(port string) error {
	if port == "" {
		return nil
	}
	if o.wait != "" && o.wait != port {
		return fmt.Errorf("HOST has port %s, and --wait says %s: which of the two is the door's?", port, o.wait)
	}
	if _, err := parseTCPPort(port); err != nil {
		return fmt.Errorf("HOST: %w", err)
	}
	o.wait = port
	return nil
}

// ports reads what --touch and --wait say. Those of --from are known.
func (o *knockOptions) ports() (err error) {
	if o.from == "" && !o.sealed() {
		if o.touchPorts, err = parseTouch(strings.Join(o.touch, ",")); err != nil {
			return fmt.Errorf("--touch: %w", err)
		}
	}
	if o.stdio && o.wait == "" {
		return errors.New("--stdio needs --wait PORT: the port to connect to")
	}
	if o.wait != "" {
		if o.waitPort, err = parseTCPPort(o.wait); err != nil {
			return fmt.Errorf("--wait: %w", err)
		}
	}
	return nil
}

// parseTouch reads "59000,59002". A port that is there twice would be touched
// twice and count once, so it is a slip.
func parseTouch(s string) ([]uint16, error) {
	var ports []uint16
	seen := map[uint16]bool{}
	for _, f := range strings.Split(s, ",") {
		p, err := parseTCPPort(strings.TrimSpace(f))
		if err != nil {
			return nil, err
		}
		if seen[p] {
			return nil, fmt.Errorf("port %d is given twice", p)
		}
		seen[p] = true
		ports = append(ports, p)
	}
	return ports, nil
}

// parseTCPPort reads "22" or "22/tcp".
func parseTCPPort(s string) (uint16, error) {
	if strings.HasSuffix(s, "/udp") {
		return 0, fmt.Errorf("port %q: only TCP ports can be touched or waited for", s)
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "/tcp"), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: allowed are 1 to 65535", s)
	}
	return uint16(n), nil
}

// maxKey is the longest that a file with a private key may be, in bytes.
const maxKey = 1 << 20

// load reads the knock of --from: which host and which ports, and no more.
func (o *knockOptions) load(e *env) error {
	text, err := o.fromText(e)
	if err != nil {
		return err
	}
	k, err := share.ParseKnock(o.from, text)
	if err != nil {
		return err
	}
	o.host, o.touchPorts, o.then = k.Host, k.Touch, k.Then
	if o.wait == "" && k.Wait != 0 {
		o.wait = strconv.Itoa(int(k.Wait))
	}
	return nil
}

// fromText returns the text of --from, decrypted if it is not in clear. One in
// clear must be the user's own: others could send their knock elsewhere.
func (o *knockOptions) fromText(e *env) ([]byte, error) {
	if o.from == "-" {
		text, err := readAll(e.stdin, share.MaxKnock)
		if err != nil {
			return nil, fmt.Errorf("--from: %w", err)
		}
		return o.decrypt(e, text)
	}
	text, err := files.Given(o.from, share.MaxKnock)
	if err == nil && !share.Encrypted(text) {
		text, err = files.Read(o.from, share.MaxKnock)
	}
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	return o.decrypt(e, text)
}

// decrypt decrypts what is encrypted.
func (o *knockOptions) decrypt(e *env, text []byte) ([]byte, error) {
	clear, err := decrypt(e, fmt.Sprintf("--from %q", o.from), text, o.identities)
	closed, ok := errors.AsType[*closedError](err)
	switch {
	case !ok:
		return clear, err
	case closed.locked != "":
		return nil, withHint(err, "age -d -i %s %s | doorward knock --from -", files.Quoted(closed.locked), files.Quoted(o.from))
	}
	return nil, withHint(err, "--identity FILE names your private key")
}
