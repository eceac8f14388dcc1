package socks

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// client is one whose bytes are all there.
type client struct {
	io.Reader
	told bytes.Buffer
}

func (c *client) Write(b []byte) (int, error) { return c.told.Write(b) }

const none = "\x05\x00" // the method that is chosen

func TestAccept(t *testing.T) {
	long := strings.Repeat("x", 255)
	for name, tt := range map[string]struct {
		sent string
		want Request
		told string
		err  string
	}{
		"a name":           {"\x05\x01\x00\x05\x01\x00\x03\x04gate\x00\x16", Request{"gate", 22}, none, ""},
		"IPv4":             {"\x05\x02\x02\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb", Request{"192.0.2.1", 443}, none, ""},
		"IPv6":             {"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\xbb", Request{"2001:db8::1", 443}, none, ""},
		"IPv4 in IPv6":     {"\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x01\xbb", Request{"192.0.2.1", 443}, none, ""},
		"the longest name": {"\x05\x01\x00\x05\x01\x00\x03\xff" + long + "\x00\x16", Request{long, 22}, none, ""},
		"HTTP":             {"GET / HTTP/1.1\r\n\r\n", Request{}, "", "this is no SOCKS5: it begins with 0x47"},
		"version 4":        {"\x04\x01\x00\x16\xc0\x00\x02\x01\x00", Request{}, "", "this is no SOCKS5: it begins with 0x4"},
		"a login":          {"\x05\x01\x02", Request{}, "\x05\xff", "the client wants to log in, and this proxy knows nobody"},
		"no method":        {"\x05\x00", Request{}, "\x05\xff", "the client wants to log in, and this proxy knows nobody"},
		"BIND":             {"\x05\x01\x00\x05\x02\x00\x03\x01g\x00\x16", Request{"g", 22}, none + "\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", "command 2: this proxy connects, and no more"},
		"another address":  {"\x05\x01\x00\x05\x01\x00\x02\x01g\x00\x16", Request{}, none + "\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00", "there is no type of address 2"},
		"another version":  {"\x05\x01\x00\x04\x01\x00\x03\x01g\x00\x16", Request{}, none, "this is no SOCKS5: the request has version 4"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{Reader: strings.NewReader(tt.sent)}
			got, err := Accept(c)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got != tt.want || text != tt.err || c.told.String() != tt.told {
				t.Errorf("%+v, %q, told %q; want %+v, %q, %q", got, text, c.told.String(), tt.want, tt.err, tt.told)
			}
			for n := range tt.sent {
				if tt.err != "" {
					break
				}
				if got, err := Accept(&client{Reader: strings.NewReader(tt.sent[:n])}); err == nil {
					t.Errorf("the first %d bytes: %+v, and no error", n, got)
				}
			}
		})
	}
}
