//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// savedRulesets are the files that distributions load into nftables at a boot:
// Debian's and Arch's, Fedora's with what it includes, Alpine's, and those of
// OpenRC.
var savedRulesets = []string{
	"/etc/nftables.conf", "/etc/sysconfig/nftables.conf", "/etc/nftables/*.nft", "/etc/nftables.nft", "/etc/nftables.d/*",
	"/etc/nftables/rules-save", "/var/lib/nftables/rules-save",
}

// saved looks for files that would load the fence's table. A kernel that knows the
// table's owner lets nobody else change it, and refuses the whole of such a file.
func (h *Host) saved() []Finding {
	s := &savedFiles{h: h, seen: map[string]bool{}}
	for _, pattern := range savedRulesets {
		s.glob(pattern)
	}
	return s.found
}

// savedFiles reads files that are loaded into nftables, each once.
type savedFiles struct {
	h     *Host
	seen  map[string]bool
	found []Finding
}

// maxSaved bounds the files that are read.
const maxSaved = 1000

// glob reads files of the machine by a pattern.
func (s *savedFiles) glob(pattern string) {
	names, err := filepath.Glob(s.h.path(pattern))
	if err != nil {
		return // nft would not find it, either
	}
	for _, n := range names {
		if s.h.Root != "" {
			n = strings.TrimPrefix(n, filepath.Clean(s.h.Root))
		}
		s.file(n)
	}
}

func (s *savedFiles) file(name string) {
	if s.seen[name] || len(s.seen) >= maxSaved {
		return
	}
	s.seen[name] = true
	info, err := os.Stat(s.h.path(name))
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	text, err := os.ReadFile(s.h.path(name))
	if errors.Is(err, fs.ErrPermission) {
		s.found = append(s.found, Finding{Note, name, "may not be read: whether it would load doorward's table is not known",
			"run doctor as root"})
		return
	}
	if err != nil {
		s.found = append(s.found, Finding{Note, name, fmt.Sprintf("cannot be read: %v", err), ""})
		return
	}
	named, includes := readNft(string(text))
	if len(named) > 0 {
		s.found = append(s.found, savedFinding(name, named))
	}
	for _, include := range includes {
		switch {
		case filepath.IsAbs(include):
			s.glob(include)
		case strings.HasPrefix(include, "./") || strings.HasPrefix(include, "../"):
			// From where nft runs: a service, in the root directory.
			s.glob(filepath.Join("/", include))
			s.glob(filepath.Join(filepath.Dir(name), include))
		default:
			s.glob(filepath.Join("/etc", include)) // nft's DEFAULT_INCLUDE_PATH
		}
	}
}

// savedFinding says what to take out of a file.
func savedFinding(name string, named []statement) Finding {
	lines := "line"
	var at, edits []string
	whole := true
	for _, n := range named {
		where := fmt.Sprint(n.first)
		if n.last != n.first {
			lines = "lines"
			where = fmt.Sprintf("%d-%d", n.first, n.last)
		}
		at = append(at, where)
		edits = append(edits, "-e "+strings.Replace(where, "-", ",", 1)+"d")
		whole = whole && n.alone
	}
	plain := func(r rune) bool {
		return !strings.ContainsRune("/._-", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}
	take := fmt.Sprintf("sed -i %s %s", strings.Join(edits, " "), name)
	if !whole || strings.ContainsFunc(name, plain) {
		take = fmt.Sprintf("take out of %s what names the table inet %s", name, ownTable)
	}
	return Finding{Problem, name, fmt.Sprintf("names doorward's own table, inet %s (%s %s): nft refuses to load the whole file while the"+
		" table stands, and a restart of nftables leaves this machine without its other rules", ownTable, lines, strings.Join(at, ", ")),
		take + fmt.Sprintf("\nnft -c -f %s\nwhen rules are saved again, save each other table by itself: nft -s list table inet filter", name)}
}

// statement is a statement of a file that names the fence's table: from line first to
// line last, alone if nothing else is on these lines.
type statement struct {
	first, last int
	alone       bool
}

// readNft reads a file of nft's language as far as is needed here: its words,
// braces, strings and comments. It returns the statements that name the fence's
// table, and what is included.
func readNft(text string) (named []statement, includes []string) {
	r := nftReader{line: 1}
	for text != "" {
		text = r.next(text)
	}
	r.depth = 0
	r.end()
	return r.named, r.includes
}

type nftReader struct {
	line  int
	depth int
	words []string // of the statement, outside of braces
	last  string   // the last word, also within them
	now   statement
	ended int // the line on which the statement before ended

	named    []statement
	includes []string
}

// next reads one token, and returns what follows it.
func (r *nftReader) next(text string) (rest string) {
	switch c := text[0]; {
	case c == '\n':
		r.end()
		r.line++
	case c == ';':
		r.end()
	case strings.HasPrefix(text, "\\\n"):
		r.line++
		return text[2:]
	case c == ' ' || c == '\t' || c == '\r':
	case c == '#':
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			return text[i:]
		}
		return ""
	case c == '"':
		return r.quoted(text[1:])
	case c == '{':
		r.word("{")
		r.depth++
	case c == '}':
		r.depth = max(r.depth-1, 0)
		r.word("}")
	default:
		n := strings.IndexAny(text[1:], " \t\r\n;{}\"#\\") + 1
		if n == 0 {
			n = len(text)
		}
		r.word(text[:n])
		return text[n:]
	}
	return text[1:]
}

// quoted reads the rest of a string, which has no escapes and may have several lines.
func (r *nftReader) quoted(text string) (rest string) {
	s, rest, _ := strings.Cut(text, `"`)
	if r.last == "include" {
		r.includes = append(r.includes, s)
	}
	r.word(`"`)
	r.line += strings.Count(s, "\n")
	r.now.last = r.line
	return rest
}

// word notes a word, which is the statement's unless it is within braces.
func (r *nftReader) word(w string) {
	r.last = w
	if r.depth == 0 {
		if len(r.words) == 0 {
			r.now = statement{first: r.line, alone: r.line != r.ended}
			if n := len(r.named); n > 0 && r.named[n-1].last == r.line {
				r.named[n-1].alone = false
			}
		}
		r.words = append(r.words, w)
	}
	r.now.last = r.line
}

// end ends a statement, unless it goes on within braces.
func (r *nftReader) end() {
	if r.depth > 0 || len(r.words) == 0 {
		return
	}
	for i := 1; i < len(r.words); i++ {
		if r.words[i] == ownTable && r.words[i-1] == "inet" {
			r.named = append(r.named, r.now)
			break
		}
	}
	r.ended = r.now.last
	r.words = r.words[:0]
}
