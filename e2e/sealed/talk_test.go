//go:build linux

package sealed

import (
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/seal"
)

// prover shows who a visitor is.
type prover interface {
	credential() seal.Credential // without its proof
	proof(message []byte) []byte
}

// bearer is a rescue code.
type bearer [16]byte

func (b bearer) credential() seal.Credential { return seal.Credential{Kind: seal.Code, Bearer: b} }
func (b bearer) proof([]byte) []byte         { return nil }

// guest is a key that an invite is to enrol.
type guest struct {
	*key
	code []byte
}

func (g guest) credential() seal.Credential {
	return seal.Credential{Kind: seal.Invite, Bearer: [16]byte(g.code), Public: g.public.Marshal()}
}

// bearing is a key with a certificate.
type bearing struct {
	*key
	certificate *ssh.Certificate
}

func (b bearing) credential() seal.Credential {
	return seal.Credential{Kind: seal.Certificate, Public: b.certificate.Marshal()}
}

// talk is one handshake of a visitor's.
type talk struct {
	s      *site
	conn   net.Conn
	stream bool
	v      *seal.Visitor
	sent   [][]byte // datagrams to the gateway
}

// dialled is a talk in which nothing was said.
func (s *site) dialled(from *lab.Host, network, address string, suite seal.Suite) *talk {
	s.t.Helper()
	talk := &talk{s: s, stream: network == "tcp"}
	s.must(from.Do(func() (err error) {
		talk.conn, err = net.DialTimeout(network, net.JoinHostPort(address, strconv.Itoa(port)), soon)
		return
	}))
	s.t.Cleanup(func() { talk.conn.Close() })
	var err error
	talk.v, err = seal.NewVisitor(s.peer, suite)
	s.must(err)
	return talk
}

// begin says hello, and waits for the challenge.
func (s *site) begin(from *lab.Host, address string, suite seal.Suite) *talk {
	s.t.Helper()
	return s.dialled(from, "udp", address, suite).hello()
}

func (k *talk) hello() *talk {
	k.s.t.Helper()
	k.send(k.v.Hello())
	k.wait(seal.Challenged)
	return k
}

func (k *talk) send(d []byte) {
	k.s.t.Helper()
	k.sent = append(k.sent, d)
	if k.stream {
		d = append(binary.BigEndian.AppendUint16(nil, uint16(len(d))), d...)
	}
	_, err := k.conn.Write(d)
	k.s.must(err)
}

// read reads the next datagram, until a moment.
func (k *talk) read(until time.Time) ([]byte, error) {
	if err := k.conn.SetReadDeadline(until); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	if !k.stream {
		n, err := k.conn.Read(b)
		return b[:n], err
	}
	if _, err := io.ReadFull(k.conn, b[:2]); err != nil {
		return nil, err
	}
	n, err := io.ReadFull(k.conn, b[:min(len(b), int(binary.BigEndian.Uint16(b)))])
	return b[:n], err
}

// wait reads until an event.
func (k *talk) wait(want seal.Event) seal.Answer {
	k.s.t.Helper()
	for {
		b, err := k.read(time.Now().Add(soon))
		k.s.must(err)
		if e, a := k.v.Read(b); e == want {
			return a
		}
	}
}

// silent says that nothing comes.
func (k *talk) silent(why string) {
	k.s.t.Helper()
	if b, err := k.read(time.Now().Add(dark)); err == nil {
		k.s.t.Errorf("%s: %d bytes came back", why, len(b))
	}
}

// request is the datagram that asks for something.
func (k *talk) request(q seal.Request, who prover) []byte {
	k.s.t.Helper()
	c := who.credential()
	own := k.v.Transcript(q, c)
	c.Proof = who.proof(seal.Message(own))
	d, err := k.v.Request(q, c, own, own, k.stream)
	k.s.must(err)
	return d
}

// ask asks for something, and waits for the answer.
func (k *talk) ask(q seal.Request, who prover) seal.Answer {
	k.s.t.Helper()
	k.send(k.request(q, who))
	return k.wait(seal.Answered)
}

var web = seal.Request{Action: seal.Open, Door: "web"}

// opens knocks at the web's door over IPv4 as somebody to whom it must open.
func (s *site) opens(from *lab.Host, address string, who prover) {
	s.t.Helper()
	if a := s.begin(from, address, seal.X25519).ask(web, who); a.Status != seal.Opened {
		s.t.Errorf("%s is answered: %+v", from.Name, a)
	}
}

// refusal knocks as somebody to whom the web's door must not open, and returns why.
func (s *site) refusal(from *lab.Host, who prover) seal.Reason {
	s.t.Helper()
	a := s.begin(from, gate4, seal.X25519).ask(web, who)
	if a.Status != seal.Refused {
		s.t.Errorf("%s is answered: %+v, want a refusal", from.Name, a)
	}
	return a.Reason
}
