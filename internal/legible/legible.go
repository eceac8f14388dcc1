// Package legible makes text safe to show. A user's name, a log's line or a
// message of another program may have characters that move the cursor, colour a
// terminal (C0 and C1 controls, ECMA-48), break a line (U+2028) or turn the
// writing round (U+202E). Whatever is printed or logged goes through here, wherever
// it comes from.
package legible

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Rune reports whether r can be shown as it is: letters, marks, numbers, punctuation,
// symbols and the space U+0020 can.
func Rune(r rune) bool { return unicode.IsPrint(r) }

// Text returns s with U+FFFD for each character that does not print (see Rune).
func Text(s string) string {
	return strings.Map(func(r rune) rune {
		if Rune(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// Lines is Text, except that it keeps line feeds.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Text(l)
	}
	return strings.Join(lines, "\n")
}

// Clip returns s, or, if it is longer than most bytes, its beginning with "…" at the
// end, in at most most bytes (3 or more) and without half a character.
func Clip(s string, most int) string {
	const rest = "…"
	if len(s) <= most {
		return s
	}
	end := max(0, most-len(rest))
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + rest
}

// JSON returns valid JSON text with \uXXXX for each character that does not print,
// which means the same. encoding/json escapes only those below U+0020 and two others.
// Text without such characters is returned as it is.
func JSON(text []byte) []byte {
	if plain(text) || !bytes.ContainsFunc(text, escaped) {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !escaped(r):
			out = append(out, text[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}

// plain reports whether text is of ASCII characters that print, or stand between values in
// JSON, as nearly all is that a log gets in a second.
func plain(text []byte) bool {
	for _, c := range text {
		if c >= 0x7f {
			return false
		}
	}
	return true
}

// escaped reports whether r is to be escaped in JSON, where characters below U+0020
// can only stand between values.
func escaped(r rune) bool { return r >= 0x7f && !Rune(r) }
