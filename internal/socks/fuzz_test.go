package socks

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzAccept: whatever a client sends, it is read without a panic, and not beyond what
// RFC 1928 says; where it wants to is a port, and a host of at most 255 bytes.
func FuzzAccept(f *testing.F) {
	for _, sent := range []string{
		"\x05\x01\x00\x05\x01\x00\x03\x04gate\x00\x16",
		"\x05\x02\x02\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb",
		"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\xbb",
		"\x05\xff" + strings.Repeat("\x00", 255) + "\x05\x01\x00\x03\xff" + strings.Repeat("x", 255) + "\x00\x16", // the longest
		"\x05\x01\x02", "\x05\x00", "\x05\x01\x00\x05\x02\x00\x03\x01g\x00\x16", "GET / HTTP/1.1\r\n\r\n", "\x04\x01\x00\x16\xc0\x00\x02\x01\x00",
	} {
		f.Add([]byte(sent))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		r := bytes.NewReader(sent)
		c := &client{Reader: r}
		q, err := Accept(c)
		read := len(sent) - r.Len()
		if read > 519 {
			t.Errorf("%d bytes are read", read)
		}
		if err != nil {
			return
		}
		if len(q.Host) > 255 || c.told.String() != none {
			t.Errorf("%q leads to %+v, and is told %q", sent, q, c.told.Bytes())
		}
		if _, err := Accept(&client{Reader: bytes.NewReader(sent[:read-1])}); err == nil {
			t.Errorf("a byte less of %q leads somewhere, too", sent[:read])
		}
	})
}
