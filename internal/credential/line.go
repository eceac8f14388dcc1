package credential

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Key is one line: a key that may knock, or an authority whose certificates may.
type Key struct {
	Blob        []byte // the public key as it is sent
	Fingerprint Fingerprint
	Name        string   // the comment, for people; "" without one
	Where       string   // the text that it was read from
	Line        int      // from 1
	Authority   bool     // what it signs may knock, it itself may not
	Options     *Options // never nil
}

// Type is the key's type, as "ssh-ed25519".
func (k Key) Type() string { return kindOf(k.Blob) }

// String is the key as a line that Parse reads the same from, but for Where and Line.
func (k Key) String() string {
	line := kindOf(k.Blob) + " " + base64.StdEncoding.EncodeToString(k.Blob)
	if k.Options.text != "" {
		line = k.Options.text + " " + line
	}
	if k.Name != "" {
		line += " " + k.Name
	}
	return line
}

// none are the options of most keys, so that they need no memory of their own.
var none Options

// mostLine is sshd's limit for a line of authorized_keys.
const mostLine = 8192

// Parse reads keys in the form of authorized_keys: a line each, with options, type,
// key and comment. Where names the text in messages. A line that is not good is
// refused alone, and is a problem; the others count. Problems are 51 at most.
//
// Options are those of doorward and, so that keys can be taken from sshd's file as they
// are, those of sshd: from, expiry-time, principals, cert-authority, touch-required and
// verify-required mean the same, the rest is ignored. An option that neither knows
// refuses the line, since it may have been meant to restrict the key.
func Parse(text []byte, where string) ([]Key, []Problem) {
	var keys []Key
	found := problems{where: where}
	fence := false // within what is no authorized_keys, such as a private key
	for n, line := range lines(text) {
		line = trim(line)
		switch {
		case bytes.HasPrefix(line, []byte("-----BEGIN ")) || bytes.HasPrefix(line, []byte("---- BEGIN ")):
			fence = true
			found.add(n, "%s", armored(line))
		case fence && !hasKind(line):
			fence = !bytes.HasPrefix(line, []byte("-----END ")) && !bytes.HasPrefix(line, []byte("---- END "))
		case len(line) == 0 || line[0] == '#':
		default:
			fence = false
			k, err := parseLine(line)
			if err != nil {
				found.add(n, "%v", err)
				continue
			}
			k.Where, k.Line = where, n
			keys = append(keys, k)
		}
	}
	return keys, found.all()
}

// hasKind says whether a line names a type of key, as none within a key of another form
// does: where the end of one is missing, the keys after it still count.
func hasKind(line []byte) bool {
	for word := range bytes.FieldsSeq(line) {
		if isKind(string(word)) {
			return true
		}
	}
	return false
}

// armored says what to do with a key in another form. The text is not repeated: it may
// be a private key.
func armored(line []byte) string {
	if bytes.Contains(line, []byte("PRIVATE KEY")) {
		return "a private key, which belongs on no gateway: remove it here, and put in its public key (ssh-keygen -y -f FILE)"
	}
	return "a key in another form: allowed are lines of authorized_keys, which ssh-keygen -i -f FILE makes of it"
}

// lines goes over the lines of a text, numbered from 1.
func lines(text []byte) func(yield func(int, []byte) bool) {
	return func(yield func(int, []byte) bool) {
		n := 0
		for line := range bytes.Lines(text) {
			n++
			if !yield(n, line) {
				return
			}
		}
	}
}

// trim takes blanks and the end of the line away, as sshd does.
func trim(line []byte) []byte {
	return bytes.Trim(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), " \t")
}

// parseLine reads one line.
func parseLine(line []byte) (Key, error) {
	if len(line) > mostLine {
		return Key{}, fmt.Errorf("%d characters: a line has at most %d", len(line), mostLine)
	}
	if i := bytes.IndexByte(line, 0); i >= 0 {
		return Key{}, fmt.Errorf("character %d is NUL: this is no text", i+1)
	}
	rest, options := string(line), &none
	if kind, _ := field(rest); !isKind(kind) {
		_, after, err := splitOptions(rest)
		if err != nil {
			return Key{}, err
		}
		if kind, _ := field(after); !isKind(kind) {
			return Key{}, badKind(rest, kind)
		}
		if options, rest, err = takeOptions(rest); err != nil {
			return Key{}, err
		}
	}
	k, err := parseKey(rest)
	if err != nil {
		return Key{}, err
	}
	k.Options, k.Authority = options, options.authority
	return k, options.suit(k)
}

// parseKey reads type, key and comment.
func parseKey(rest string) (Key, error) {
	kind, rest := field(rest)
	coded, comment := field(rest)
	if coded == "" {
		return Key{}, fmt.Errorf("no key after %s: allowed is a line of a .pub file", shown(kind))
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(coded)
	if err != nil {
		return Key{}, fmt.Errorf("the key after %s is not base64, or is cut short: copy the whole line of the .pub file", shown(kind))
	}
	if err := checkBlob(kind, blob); err != nil {
		return Key{}, err
	}
	return Key{Blob: blob, Fingerprint: FingerprintOf(blob), Name: Name(comment)}, nil
}

// badKind says what is wrong with a line whose key has a type that is not known.
func badKind(line, kind string) error {
	if first, _ := field(line); refusedKinds[first] != "" {
		kind = first
	}
	if why := refusedKinds[kind]; why != "" {
		return fmt.Errorf("%s is refused: %s", kind, why)
	}
	if kind == "" {
		return errors.New("no key in the line: allowed is a line of a .pub file, with options before it")
	}
	// What stands there may be anything, even a secret: it is not repeated.
	return fmt.Errorf("no type of key at the beginning or after the options: allowed are %s", kindList())
}

// field splits what stands before the first blank from what comes after it.
func field(s string) (first, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.Trim(s[i:], " \t")
}

// option is one of a line's options as it stands there.
type option struct {
	name   string // in lower case
	value  string
	valued bool // it has a value, though perhaps an empty one
}

// splitOptions takes the options from the beginning of a line. Quotes are sshd's: they
// are around the whole value, and a quote within is written \".
func splitOptions(line string) (list []option, rest string, err error) {
	for {
		end := strings.IndexAny(line, "=, \t")
		if end < 0 {
			return append(list, option{name: strings.ToLower(line)}), "", nil
		}
		o := option{name: strings.ToLower(line[:end])}
		line = line[end:]
		if line[0] == '=' {
			o.valued = true
			if o.value, line, err = unquote(o.name, line[1:]); err != nil {
				return nil, "", err
			}
		}
		list = append(list, o)
		if line == "" || line[0] != ',' {
			return list, strings.Trim(line, " \t"), nil
		}
		line = line[1:]
		if line == "" || strings.ContainsRune(", \t", rune(line[0])) {
			return nil, "", errors.New("nothing stands after a comma between options: put no blank there, and no comma at their end")
		}
	}
}

// unquote takes a quoted value from the beginning of s.
func unquote(name, s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", fmt.Errorf(`option %s: its value is not quoted: allowed is %[1]s="..."`, shownName(name))
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			rest = s[i+1:]
			if rest != "" && !strings.ContainsRune(", \t", rune(rest[0])) {
				return "", "", fmt.Errorf("option %s: more stands after its value: allowed are a comma and the next option, or a blank and the key",
					shownName(name))
			}
			return b.String(), rest, nil
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", fmt.Errorf(`option %s: its value has no end: allowed is %[1]s="..."`, shownName(name))
}
