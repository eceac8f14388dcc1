//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/pages"
)

// TestDemo is `make demo`: what a newcomer sees first has to happen.
func TestDemo(t *testing.T) {
	nstest.Need(t, "sshd", "ssh", "ssh-keygen", "ssh-agent", "ssh-add", "nmap", "nft", "ip", "ss", "unshare", "nsenter")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin,
		"github.com/doorward/doorward/cmd/doorwardd", "github.com/doorward/doorward/cmd/doorward")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var said bytes.Buffer
	if err := run(t.Context(), io.MultiWriter(os.Stdout, &said), bin); err != nil {
		t.Fatal(err)
	}
	quoted(t, said.String())
}

// quoted: what the documentation shows of the demo is what it says, in its order. "…" stands
// for anything in a line.
func quoted(t *testing.T, demo string) {
	t.Helper()
	all, err := pages.Read("../..", "README.md", "docs/index.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		blocks, err := p.Blocks()
		if err != nil {
			t.Fatal(err)
		}
		shown := slices.IndexFunc(blocks, func(b *pages.Block) bool { return strings.HasPrefix(b.Text, "gateway$ ") })
		if shown < 0 {
			t.Errorf("%s shows nothing of the demo", p.Name)
			continue
		}
		rest := demo
		for line := range strings.Lines(blocks[shown].Text) {
			words := strings.Split(regexp.QuoteMeta(strings.TrimSpace(line)), "…")
			at := regexp.MustCompile(strings.Join(words, ".*")).FindStringIndex(rest)
			if at == nil {
				t.Errorf("%s: the demo does not say %q there", blocks[shown].At(), line)
				break
			}
			rest = rest[at[1]:]
		}
	}
}

func TestDecode(t *testing.T) {
	udp4 := []byte("\x45\x00\x00\x1f\x00\x00\x40\x00\x40\x11\x00\x00\xc0\x00\x02\x02\xc0\x00\x02\x01" + "\x9c\x40\x5b\x25\x00\x0b\x00\x00abc")
	udp6 := []byte("\x60\x00\x00\x00\x00\x0b\x11\x40" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x9c\x40\x5b\x25\x00\x0b\x00\x00abc")
	tcp4 := slices.Clone(udp4)
	tcp4[9] = 6
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"IPv4", udp4, "192.0.2.2:40000 192.0.2.1:23333 abc"},
		{"IPv4 with padding of the link", append(slices.Clone(udp4), 0, 0), "192.0.2.2:40000 192.0.2.1:23333 abc"},
		{"IPv6", udp6, "[2001:db8::2]:40000 [2001:db8::1]:23333 abc"},
		{"TCP", tcp4, ""},
		{"cut in the header of UDP", udp4[:24], ""},
		{"cut in the header of IPv6", udp6[:30], ""},
		{"ARP", []byte("\x00\x01\x08\x00\x06\x04\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), ""},
		{"nothing", nil, ""},
	} {
		got := ""
		if d, ok := decode(c.in); ok {
			got = fmt.Sprint(d.from, " ", d.to, " ", d.payload)
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// What the story says of datagrams is found where it is not so.
func TestJudgement(t *testing.T) {
	at := func(port uint16, payloads ...string) (all []datagram) {
		for _, p := range payloads {
			all = append(all, datagram{from: netip.AddrPortFrom(netip.MustParseAddr(laptop4), port), payload: p})
		}
		return all
	}
	for _, c := range []struct {
		name string
		in   []datagram
		want string
	}{
		{"different", at(1, "0123456789", "abcdefghij"), ""},
		{"sent again", at(1, "0123456789", "0123456789"), ""},
		{"7 bytes", at(1, "0123456xx", "0123456yy"), ""},
		{"a header", at(1, "01234567xx", "01234567yy"), "the bytes 3031323334353637 come twice"},
		{"padding", at(1, "xx0000000000"), "the bytes 3030303030303030 come twice"},
	} {
		got := ""
		if err := nothingTwice(c.in); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	hidden := map[string]string{"her name": "alice"}
	if err := found(hidden, at(1, "xxaliceyy")); err == nil || err.Error() != "her name is in a datagram of 9 bytes from 192.0.2.2:1" {
		t.Errorf("a name in a datagram: %v", err)
	}
	if err := found(hidden, at(1, "xxalicf")); err != nil {
		t.Errorf("no name in a datagram: %v", err)
	}
	first, signed := conversations(slices.Concat(at(1, "hello", "request"), at(2, "hello"), at(1, "request"), at(2, "other")))
	want := [2][]datagram{slices.Concat(at(1, "hello"), at(2, "hello")), slices.Concat(at(1, "request", "request"), at(2, "other"))}
	if !slices.Equal(first, want[0]) || !slices.Equal(signed, want[1]) {
		t.Errorf("conversations: got %v and %v, want %v", first, signed, want)
	}
}
