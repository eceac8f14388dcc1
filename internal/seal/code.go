package seal

import (
	"encoding/base32"
	"errors"
	"strings"
)

// crockford is the alphabet for people: without I, L, O and U.
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

const (
	codeSize  = 16
	codeGroup = 4
)

// FormatCode returns a code as it is printed for people: seven groups of four letters and
// digits, of which the last twelve bits are a check.
func FormatCode(code [codeSize]byte) string {
	text := crockford.EncodeToString(checked(code))[:28]
	var b strings.Builder
	for i := 0; i < len(text); i += codeGroup {
		if i > 0 {
			b.WriteByte('-')
		}
		b.WriteString(text[i : i+codeGroup])
	}
	return b.String()
}

// checked appends the check, of which twelve bits count: the last byte has four zeros.
func checked(code [codeSize]byte) []byte {
	sum := digest("check", code[:])
	return append(code[:], sum[0], sum[1]&0xf0)
}

var errCode = errors.New("this is no code, or it was mistyped: allowed are the 28 letters and digits on the sheet; dashes and spaces do not matter")

// ParseCode reads what FormatCode writes. It takes small letters, and O, I and L for the
// digits that they look like.
func ParseCode(text string) (code [codeSize]byte, err error) {
	text = strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, strings.ToUpper(text))
	text = strings.NewReplacer("O", "0", "I", "1", "L", "1").Replace(text)
	b, err := crockford.DecodeString(text + "0") // 29 characters are 18 bytes and a bit
	if len(text) != 28 || err != nil || len(b) != codeSize+2 {
		return code, errCode
	}
	code = [codeSize]byte(b)
	if string(checked(code)) != string(b) {
		return [codeSize]byte{}, errCode
	}
	return code, nil
}
