package share

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/config"
)

// Knock is what a user has to know. What Letters writes has been checked before: Host
// by config.CheckHost, Door and ports by the configuration.
type Knock struct {
	Door  string
	Host  string
	Touch []uint16      // in the order in which they are touched
	Wait  uint16        // TCP port that can be connected to once the door is open, 0 for none
	Then  string        // a sentence: when to connect
	Made  time.Time     // shown by its date; not read back
	Each  time.Duration // the longest that one touch may take, whole seconds; not read back
}

// MaxKnock is the maximum size of a knock's file, encrypted or not, in bytes.
const MaxKnock = 64 << 10

// maxThen is the maximum length of its last sentence, and of the door's name, in
// characters.
const maxThen = 200

// knockFile is the knock's file, a TOML text.
type knockFile struct {
	Version int    `toml:"doorward-knock"`
	Door    string `toml:"door"`
	Host    string `toml:"host"`
	Touch   []int  `toml:"touch"`
	Wait    int    `toml:"wait"`
	Then    string `toml:"then"`
}

// version is the version of the form.
const version = 1

// Text returns the knock as data, which doorward knock --from reads, and which people
// without doorward can follow by hand. It is no program, and no part of it runs by
// being read.
func (k *Knock) Text() string {
	return k.fill(knockText, "@ports@", joinPorts(k.Touch, " "), "@list@", joinPorts(k.Touch, ", "),
		"@wait@", strconv.Itoa(int(k.Wait)), "@each@", strconv.Itoa(int(k.Each/time.Second)))
}

const knockText = `# The knock of door "@door@" at @host@, made on @made@ by doorward share.
# Keep it to yourself, like a password. This is no program. With doorward, on any
# system:
#
#   doorward knock --from FILE
#
# where FILE is this one, or the encrypted one that it came from. Without doorward,
# touch each of the ports once, in this order, and then connect. One line does it on
# Linux and macOS, with nc or with bash,
#
#   for p in @ports@; do nc -z -w @each@ @host@ $p || break; sleep .05; done
#   for p in @ports@; do bash -c "exec 3<>/dev/tcp/@host@/$p" || break; sleep .05; done
#
# and in PowerShell on Windows:
#
#   foreach ($p in @list@) { (New-Object Net.Sockets.TcpClient).Connect('@host@', $p); Start-Sleep -Milliseconds 50 }
#
# @then@

doorward-knock = 1
door  = "@door@"
host  = "@host@"
touch = [@list@]
wait  = @wait@
then  = "@then@"
`

// ParseKnock reads a knock's file, whoever wrote it: nothing is accepted that could
// mean more than a host, ports and a sentence. The name is for messages only. They never
// quote a text that does not have the form of a knock: it could be something secret.
func ParseKnock(name string, text []byte) (*Knock, error) {
	if isPrivate(text) {
		return nil, fmt.Errorf("%s: %w", name, errors.New("this is a private key, and not a knock"))
	}
	var f knockFile
	d := toml.NewDecoder(bytes.NewReader(text))
	if err := d.DisallowUnknownFields().Decode(&f); err != nil {
		line := 1
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ = e.Position()
		}
		return nil, fmt.Errorf("%s:%d: not a knock as doorward share writes it", name, line)
	}
	if f.Version != version {
		return nil, fmt.Errorf("%s: doorward-knock = %d: this doorward reads version %d", name, f.Version, version)
	}
	if err := config.CheckHost(f.Host); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	k := &Knock{Door: f.Door, Host: f.Host, Wait: uint16(f.Wait), Then: f.Then}
	if f.Wait < 0 || f.Wait > 65535 {
		return nil, fmt.Errorf("%s: wait = %d: allowed are ports, and 0 for none", name, f.Wait)
	}
	seen := map[int]bool{}
	for _, p := range f.Touch {
		if p < 1 || p > 65535 || seen[p] {
			return nil, fmt.Errorf("%s: touch: %d: allowed are 1 to 65535, each once", name, p)
		}
		seen[p] = true
		k.Touch = append(k.Touch, uint16(p))
	}
	switch {
	case len(k.Touch) == 0:
		return nil, fmt.Errorf("%s: touch is missing: the ports of the knock", name)
	case !sentence(k.Door) || !sentence(k.Then):
		return nil, fmt.Errorf("%s: door and then are at most %d printable characters each", name, maxThen)
	}
	return k, nil
}

// sentence reports whether s is short, and can be shown on a terminal.
func sentence(s string) bool {
	return utf8.RuneCountInString(s) <= maxThen && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Encrypted reports whether text is an age file, armoured or not.
func Encrypted(text []byte) bool {
	return isArmoured(text) || bytes.HasPrefix(text, []byte("age-encryption.org/"))
}

func isArmoured(text []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(text), []byte(armor.Header))
}

// ErrPassphrase is what ParseIdentity returns for a private key that is itself
// encrypted.
var ErrPassphrase = errors.New("has a passphrase")

// ErrNotForUs is what Decrypt returns when none of the identities decrypts.
var ErrNotForUs = errors.New("none of the keys decrypts it")

// ParseIdentity reads a private key: OpenSSH's or age's.
func ParseIdentity(text []byte) ([]age.Identity, error) {
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		return age.ParseIdentities(bytes.NewReader(text))
	}
	id, err := agessh.ParseIdentity(text)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, err
	}
	return []age.Identity{id}, nil
}

// Decrypt returns what was encrypted to one of the identities.
func Decrypt(text []byte, identities []age.Identity) ([]byte, error) {
	var from io.Reader = bytes.NewReader(text)
	if isArmoured(text) {
		from = armor.NewReader(bytes.NewReader(bytes.TrimSpace(text)))
	}
	r, err := age.Decrypt(from, identities...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, ErrNotForUs
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	clear, err := io.ReadAll(io.LimitReader(r, MaxKnock+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("decrypt: %w", err)
	case len(clear) > MaxKnock:
		return nil, fmt.Errorf("decrypt: longer than %d bytes", MaxKnock)
	}
	return clear, nil
}
