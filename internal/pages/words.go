package pages

import "strings"

// Commands splits lines of sh into commands, each a list of words, and includes those
// in the quotes of others. Quotes are removed and comments left out; a redirection ends
// the command, and its file is a command of its own. Words ($HOME, *.deb) are not
// expanded.
func Commands(text string) [][]string {
	s := &splitter{}
	runes := []rune(strings.ReplaceAll(text, "\\\n", " "))
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		switch {
		case s.quote != 0:
			if r == s.quote {
				s.quote = 0
			} else {
				s.word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			s.quote, s.begun = r, true
		case r == '#' && !s.begun:
			for i+1 < len(runes) && runes[i+1] != '\n' {
				i++
			}
		case r == ' ' || r == '\t':
			s.endWord()
		case strings.ContainsRune("\n;|&()<>", r):
			s.endWord()
			s.endCommand()
		default:
			s.begun = true
			s.word.WriteRune(r)
		}
	}
	s.endWord()
	s.endCommand()
	return s.all
}

// splitter is the state of Commands.
type splitter struct {
	all   [][]string
	words []string
	word  strings.Builder
	begun bool // there is a word, perhaps an empty one
	quote rune // the quote that is open, 0 for none
}

func (s *splitter) endWord() {
	if !s.begun {
		return
	}
	word := s.word.String()
	s.word.Reset()
	s.begun = false
	s.words = append(s.words, word)
	if strings.ContainsAny(word, " \n") {
		s.all = append(s.all, Commands(word)...)
	}
}

func (s *splitter) endCommand() {
	if len(s.words) > 0 {
		s.all = append(s.all, s.words)
		s.words = nil
	}
}
