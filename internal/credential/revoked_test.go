package credential

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// krl writes a KRL with sections: a type and what is in it, in turns.
func krl(sections ...any) []byte {
	b := append([]byte(krlMagic), 0, 0, 0, 1)
	b = append(b, make([]byte, 3*8)...)
	b = appendString(appendString(b, ""), "")
	return appendSections(b, sections...)
}

func appendSections(b []byte, sections ...any) []byte {
	for i := 0; i < len(sections); i += 2 {
		b = append(b, byte(sections[i].(int)))
		b = appendString(b, sections[i+1].([]byte))
	}
	return b
}

// certificatesOf is a section of an authority's certificates.
func certificatesOf(authority string, sections ...any) []byte {
	return appendSections(fields(authority, ""), sections...)
}

func numbers(n ...uint64) (b []byte) {
	for _, n := range n {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func TestRevocationsThatAreRefused(t *testing.T) {
	damaged := "the list of revoked keys is damaged or cut short: make it anew with ssh-keygen -k"
	empty := "the list of revoked keys is empty, as a file is that was cut short: if nothing is revoked, write the one line # none, or make it with ssh-keygen -k -f FILE"
	line := `no revoked key: allowed are a line of a .pub file, a fingerprint ("SHA256:..."), and for certificates a list that ssh-keygen -k has made`
	extension := func(critical byte) []byte {
		return append(append(fields("more@example.com"), critical), fields("contents")...)
	}
	newer := krl()
	newer[11] = 2
	for _, c := range []struct {
		name string
		text []byte
		want string // "": it is accepted
	}{
		{"nothing", nil, empty},
		{"blanks", []byte(" \n\t\r\n"), empty},
		{"none", []byte("# none\n"), ""},
		{"a line", []byte("# bob\n" + aKey + "\n"), ""},
		{"a fingerprint", []byte(mustKey(t, aKey).Fingerprint.String() + "\n"), ""},
		{"a key of an old kind", []byte("ssh-dss AAAAB3NzaC1kc3MAAAABAQ== old\n"), ""},
		{"a bad line", []byte(aKey + "\nbob\n"), `line 2: "bob" is no fingerprint: allowed is what ssh-keygen -l prints, "SHA256:" and 43 characters`},
		{"a key cut short", []byte(aKey[:60] + "\n"), "line 1: " + line},
		{"a type alone", []byte("ssh-dss AAAAB3NzaC1kc3M=\n"), "line 1: " + line},
		{"options", []byte("restrict " + aKey), "line 1: " + line},
		{"no sections", krl(), ""},
		{"cut short", krl()[:20], damaged},
		{"a newer version", newer, "the list of revoked keys is of version 2: allowed is 1, which ssh-keygen -k makes"},
		{"a signature", append(krl(krlSignature, []byte("key")), fields("signature")...), ""},
		{"half a signature", krl(krlSignature, []byte("key")), damaged},
		{"an extension", krl(krlExtension, extension(0)), ""},
		{"a critical extension", krl(krlExtension, extension(1)), `the list of revoked keys has the extension "more@example.com", which is not known and must not be ignored: make the list without it`},
		{"half an extension", krl(krlExtension, fields("more@example.com")), damaged},
		{"an unknown section", krl(9, []byte{}), "the list of revoked keys has a section of type 9, which is not known: allowed are those of PROTOCOL.krl, version 1"},
		{"a hash of another length", krl(krlSHA256, fields("short")), damaged},
		{"a SHA-1 hash of another length", krl(krlSHA1, fields("short")), damaged},
		{"half a key", krl(krlKeys, []byte{0, 0, 0, 9, 1}), damaged},
		{"certificates of nobody", krl(krlCertificates, []byte{}), damaged},
		{"an unknown section of certificates", krl(krlCertificates, certificatesOf("", 0x40, []byte{})), "the list of revoked keys has a section of certificates of type 64, which is not known: allowed are those of PROTOCOL.krl, version 1"},
		{"an extension of certificates", krl(krlCertificates, certificatesOf("", krlCertExtension, extension(0))), ""},
		{"a critical extension of certificates", krl(krlCertificates, certificatesOf("", krlCertExtension, extension(1))), `the list of revoked keys has the extension "more@example.com", which is not known and must not be ignored: make the list without it`},
		{"half a number", krl(krlCertificates, certificatesOf("", krlSerials, []byte{1, 2, 3})), damaged},
		{"half a range", krl(krlCertificates, certificatesOf("", krlSerialRange, numbers(1))), damaged},
		{"a range and more", krl(krlCertificates, certificatesOf("", krlSerialRange, numbers(1, 2, 3))), damaged},
		{"a range that ends before it begins", krl(krlCertificates, certificatesOf("", krlSerialRange, numbers(2, 1))), damaged},
		{"a bitmap beyond 64 bits", krl(krlCertificates, certificatesOf("", krlSerialBitmap, append(numbers(1<<64-1), fields("\x02")...))), damaged},
		{"a bitmap to 64 bits", krl(krlCertificates, certificatesOf("", krlSerialBitmap, append(numbers(1<<64-1), fields("\x01")...))), ""},
		{"a negative bitmap", krl(krlCertificates, certificatesOf("", krlSerialBitmap, append(numbers(1), fields("\x80")...))), damaged},
		{"a byte at the end", append(krl(), 1), damaged},
	} {
		r, err := ParseRevocations(c.text)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if (r == nil) != (c.want != "") {
			t.Errorf("%s: list %v with error %v, want one or the other: half a list revokes half of what it should", c.name, r, err)
		}
	}
}

// What single numbers, ranges and bitmaps say together is what each of them says.
func TestSerials(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Uint64Range(1, 300), rapid.Uint64Range(1<<64-300, 1<<64-1))
		want := map[uint64]bool{}
		var sections []any
		for range rapid.IntRange(0, 6).Draw(t, "sections") {
			n := number.Draw(t, "number")
			switch rapid.IntRange(0, 2).Draw(t, "form") {
			case 0:
				want[n] = true
				sections = append(sections, krlSerials, numbers(n))
			case 1:
				to := n + min(rapid.Uint64Range(0, 80).Draw(t, "more"), 1<<64-1-n)
				for i := n; ; i++ {
					if want[i] = true; i == to {
						break
					}
				}
				sections = append(sections, krlSerialRange, numbers(n, to))
			case 2:
				n = min(n, 1<<64-300)
				bitmap := append([]byte{0}, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bitmap")...)
				for i := range bitmap {
					for bit := range 8 {
						if bitmap[len(bitmap)-1-i]>>bit&1 == 1 {
							want[n+uint64(i*8+bit)] = true
						}
					}
				}
				sections = append(sections, krlSerialBitmap, append(numbers(n), fields(string(bitmap))...))
			}
		}
		r, err := ParseRevocations(krl(krlCertificates, certificatesOf("", sections...)))
		if err != nil {
			t.Fatal(err)
		}
		s := &r.certs[anyAuthority].serials
		for n := range uint64(700) {
			for _, n := range []uint64{n, 1<<64 - 700 + n} {
				if s.has(n) != want[n] {
					t.Fatalf("%d is revoked: %v, want %v", n, s.has(n), want[n])
				}
			}
		}
	})
}

// The memory of a list is in proportion to its length, whatever it says.
func TestRevocationsAreBounded(t *testing.T) {
	bitmap := append([]byte{0}, bytes.Repeat([]byte{0xff}, 1<<16)...)
	wide := numbers(1, 1<<63)
	r, err := ParseRevocations(krl(krlCertificates, certificatesOf("", krlSerialBitmap, append(numbers(1000), fields(string(bitmap))...), krlSerialRange, wide, krlSerialRange, wide)))
	if err != nil {
		t.Fatal(err)
	}
	s := r.certs[anyAuthority].serials
	if len(s.words) > 1<<13+2 || len(s.ranges) != 1 {
		t.Errorf("%d words and %d ranges, want a word for each 64 bits of the bitmap and one range", len(s.words), len(s.ranges))
	}
}

// What signs is bound to doorward and to one message, as PROTOCOL.sshsig says.
func TestSigned(t *testing.T) {
	want := "535348534947" + // SSHSIG
		"00000011646f6f72776172642d6b6e6f636b2d7631" + "00000000" + "00000006736861353132" + "00000040"
	got := hex.EncodeToString(Signed([]byte("x")))
	if !strings.HasPrefix(got, want) || len(got) != len(want)+2*64 {
		t.Errorf("Signed begins with %s, want %s and 64 bytes more", got, want)
	}
}
