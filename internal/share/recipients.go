// Package share hands a door's knock to its users, and draws a new one. Each
// user gets it as data that doorward knock reads, and as scripts only when that is
// asked for: anybody can encrypt something to a public key, so that being encrypted is
// no reason to run a program. It is encrypted with age to their SSH or age keys;
// nothing is ever written to disk in clear. A new knock goes into the configuration
// by changing its values and nothing else.
//
// The package opens no sockets, and it writes only through Stage, so that
// either all files of a change are in place or none is.
package share

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/tag"
	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/config"
)

// Key is one public key that a user can decrypt with.
type Key struct {
	User string // its comment, or a name made from the key
	Kind string // "ssh-ed25519", "ssh-rsa" or "age"
	Line string // as it stands in a recipients file, without options
	to   age.Recipient
}

// User is somebody who gets the knock.
type User struct {
	Name string
	Keys []Key // at least one; any of them decrypts
}

// Recipients is what a recipients file says: who gets the knock of a door, and
// by which name or address they reach the gateway.
type Recipients struct {
	Host string // "" when it is not given
	Keys []Key
}

// maxLine is the longest line of a recipients file, in bytes. An RSA key of
// 16,384 bits has about 2,800 characters.
const maxLine = 64 << 10

// ParseRecipients reads a recipients file: one key a line, as in authorized_keys
// or "age1... NAME", at most one line "host NAME", empty lines and those that
// begin with "#". The file's name is for messages only. The error names every line
// that is wrong.
func ParseRecipients(file string, text []byte) (*Recipients, error) {
	if isPrivate(text) {
		return nil, fmt.Errorf("%s: %w", file, errPrivate)
	}
	r := &Recipients{}
	var wrong []error
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := r.line(line); err != nil {
			wrong = append(wrong, fmt.Errorf("%s:%d: %w", file, n, err))
		}
	}
	if err := lines.Err(); err != nil {
		wrong = append(wrong, fmt.Errorf("%s:%d: %w", file, n+1, err))
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Recipients) line(line string) error {
	host, isHost := strings.CutPrefix(line, "host ")
	if !isHost {
		k, err := ParseKey(line)
		if err == nil {
			r.Add(k)
		}
		return err
	}
	host = strings.TrimSpace(host)
	if r.Host != "" {
		return fmt.Errorf("host %q: there is a host already: %q", host, r.Host)
	}
	if err := config.CheckHost(host); err != nil {
		return err
	}
	r.Host = host
	return nil
}

// Add adds a key, unless it is there already, and reports whether it was new.
func (r *Recipients) Add(k Key) bool {
	for _, have := range r.Keys {
		if have.id() == k.id() {
			return false
		}
	}
	r.Keys = append(r.Keys, k)
	return true
}

// Users returns the owners of the keys, in the order of their first one. Keys with
// the same comment are one user's.
func (r *Recipients) Users() []User {
	var users []User
	at := map[string]int{}
	for _, k := range r.Keys {
		i, known := at[k.User]
		if !known {
			i = len(users)
			at[k.User] = i
			users = append(users, User{Name: k.User})
		}
		users[i].Keys = append(users[i].Keys, k)
	}
	return users
}

var errPrivate = errors.New("this is a private key: it stays with its owner, give the public one (.pub)")

// isPrivate recognises what must never be passed on: the private keys of
// OpenSSH and PEM (RFC 7468), and age's.
func isPrivate(text []byte) bool {
	return bytes.Contains(text, []byte("PRIVATE KEY-----")) || bytes.Contains(text, []byte("AGE-SECRET-KEY-"))
}

const allowedKeys = "allowed are ssh-ed25519, ssh-rsa and age1... keys"

// ParseKey reads one public key: a line of an authorized_keys file, or an age
// recipient with an optional name after it. The errors never repeat what could
// be a private key.
func ParseKey(line string) (Key, error) {
	if isPrivate([]byte(plain(line))) { // as it would be written, so that it can be read again
		return Key{}, errPrivate
	}
	if strings.HasPrefix(line, "age1") {
		return parseAge(line)
	}
	pub, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return Key{}, fmt.Errorf("not a public key: %s", allowedKeys)
	}
	kind := pub.Type()
	comment = plain(comment)
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
	if kind != ssh.KeyAlgoED25519 && kind != ssh.KeyAlgoRSA {
		return Key{}, fmt.Errorf("key of type %s (%s) can sign but not decrypt: %s", kind, comment, allowedKeys)
	}
	to, err := agessh.ParseRecipient(text)
	if err != nil {
		return Key{}, fmt.Errorf("key of type %s (%s): %w", kind, comment, err)
	}
	return newKey(kind, text, comment, to), nil
}

func parseAge(line string) (Key, error) {
	text, name, _ := strings.Cut(line, " ")
	var to age.Recipient
	var err error
	// Bech32 has its kind before the last "1" (BIP 173).
	switch kind := text[:strings.LastIndex(text, "1")]; kind {
	case "age":
		to, err = age.ParseX25519Recipient(text)
	case "age1pq":
		to, err = age.ParseHybridRecipient(text)
	case "age1tag", "age1tagpq":
		to, err = tag.ParseRecipient(text)
	default:
		return Key{}, fmt.Errorf("key %.16q... is for an age plugin (%q), and none is ever run: %s",
			text, kind, allowedKeys)
	}
	if err != nil {
		return Key{}, fmt.Errorf("key %.16q... is not a whole age key: %s", text, allowedKeys)
	}
	return newKey("age", text, plain(name), to), nil
}

func newKey(kind, text, user string, to age.Recipient) Key {
	k := Key{User: user, Kind: kind, Line: text, to: to}
	if user == "" {
		k.User = "key-" + short(text)
		return k
	}
	k.Line += " " + user
	return k
}

// id returns the key without its comment.
func (k Key) id() string {
	f := strings.Fields(k.Line)
	if k.Kind == "age" {
		return f[0]
	}
	return f[0] + " " + f[1]
}

// short returns a few characters that stand for s.
func short(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:4])
}

// plain returns a comment on one line, without what could disturb a terminal.
func plain(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
}

// Remember returns the text of a recipients file with its host set, unless host is "",
// and with more keys. All else stays as it was, since people edit it. An empty text
// begins a new file.
func Remember(text []byte, door, host string, added []Key) []byte {
	var b bytes.Buffer
	if len(text) == 0 {
		fmt.Fprintf(&b, "# Who gets the knock of door %q: doorward share adds to this file, doorward rotate\n"+
			"# reads it. One key a line, as in authorized_keys, or \"age1... NAME\". To end\n"+
			"# somebody's knock, remove their keys and rotate.\n", door)
	}
	said := false
	for line := range bytes.Lines(text) {
		if host != "" && bytes.HasPrefix(bytes.TrimSpace(line), []byte("host ")) {
			said = true
			fmt.Fprintf(&b, "host %s\n", host)
			continue
		}
		b.Write(line)
		if !bytes.HasSuffix(line, []byte("\n")) {
			b.WriteByte('\n')
		}
	}
	if !said && host != "" {
		fmt.Fprintf(&b, "host %s\n", host)
	}
	for _, k := range added {
		fmt.Fprintln(&b, k.Line)
	}
	return b.Bytes()
}
