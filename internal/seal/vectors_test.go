package seal

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// vectorFile is read by the tests of contrib/python, too.
const vectorFile = "testdata/vectors.json"

// hexBytes are bytes that are written in hexadecimal.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// vectors are handshakes with all that is computed in them, and datagrams that have to be
// refused.
type vectors struct {
	About      string            `json:"about"`
	Gateway    gatewayVector     `json:"gateway"`
	Handshakes []handshakeVector `json:"handshakes"`
	Singles    []singleVector    `json:"single_packets"`
	Questions  []questionVector  `json:"questions"`
	Bad        []badVector       `json:"bad"`
}

// gatewayVector has what a gateway knows. The last three are its own: to others the
// state and the cookie mean nothing.
type gatewayVector struct {
	Seed          hexBytes `json:"seed"`
	Profile       hexBytes `json:"profile_secret"`
	Bundle        hexBytes `json:"bundle"`
	Fingerprint   string   `json:"fingerprint"`
	TagToGateway  hexBytes `json:"tag_key_to_gateway"`
	MaskToGateway hexBytes `json:"mask_key_to_gateway"`
	TagToVisitor  hexBytes `json:"tag_key_to_visitor"`
	MaskToVisitor hexBytes `json:"mask_key_to_visitor"`
	InfoHello     hexBytes `json:"info_hello"`
	InfoSingle    hexBytes `json:"info_single"`
	Ephemeral     hexBytes `json:"r"`
	StateKey      hexBytes `json:"state_key"`
	CookieKey     hexBytes `json:"cookie_key"`
}

// handshakeVector is one handshake, in the words of docs/PROTOCOL.md.
type handshakeVector struct {
	Name  string `json:"name"`
	Suite string `json:"suite"`
	From  string `json:"from"` // where the gateway sees the visitor

	HPKEEphemeral hexBytes `json:"hpke_ephemeral,omitempty"` // X25519 alone: the private key behind enc
	Private       hexBytes `json:"f"`
	Public        hexBytes `json:"F"`
	Cookie        hexBytes `json:"cookie"`
	Enc           hexBytes `json:"enc"`
	HelloSealed   hexBytes `json:"hello_sealed"`
	Export        hexBytes `json:"export"`
	H             hexBytes `json:"H"`
	Hello         hexBytes `json:"hello"`
	Busy          hexBytes `json:"busy"` // answers that hello with a cookie

	Random       hexBytes `json:"random"`
	R            hexBytes `json:"R"`
	Shared       hexBytes `json:"shared"`
	Transcript   hexBytes `json:"transcript"`
	Secret       hexBytes `json:"secret"`
	ChallengeKey hexBytes `json:"challenge_key"`
	State        hexBytes `json:"state"`
	Challenge    hexBytes `json:"challenge"`

	Request    hexBytes `json:"request"`
	Identity   hexBytes `json:"identity"`
	T          hexBytes `json:"T"`
	Place      byte     `json:"pair"`
	Other      hexBytes `json:"pair_other"`
	Message    hexBytes `json:"message"`
	SigningKey hexBytes `json:"signing_key,omitempty"` // Ed25519's seed
	Signed     hexBytes `json:"signed,omitempty"`      // what the signature is over
	SecretS    hexBytes `json:"machine_secret,omitempty"`
	Credential hexBytes `json:"credential"`
	RequestKey hexBytes `json:"request_key"`
	Asked      hexBytes `json:"request_datagram"`

	AnswerKey hexBytes       `json:"answer_key"`
	Answers   []answerVector `json:"answers"`
}

type answerVector struct {
	Nonce    hexBytes `json:"nonce"`
	Text     hexBytes `json:"text"` // without the zeros that follow
	Datagram hexBytes `json:"datagram"`
}

type singleVector struct {
	Suite         string   `json:"suite"`
	From          string   `json:"from"`
	Any           bool     `json:"any_source"`
	HPKEEphemeral hexBytes `json:"hpke_ephemeral,omitempty"`
	Door          string   `json:"door"`
	Counter       uint64   `json:"counter"`
	Seconds       uint16   `json:"seconds"`
	Enc           hexBytes `json:"enc"`
	What          hexBytes `json:"what"`
	Message       hexBytes `json:"message"`
	SigningKey    hexBytes `json:"signing_key"`
	Proof         hexBytes `json:"proof"`
	Datagram      hexBytes `json:"datagram"`
}

type questionVector struct {
	Part     byte     `json:"part"`
	Random   hexBytes `json:"random"`
	Question hexBytes `json:"question"`
	Answer   hexBytes `json:"answer"`
}

// badVector is a datagram of which nothing may come but silence.
type badVector struct {
	Why      string   `json:"why"`
	To       string   `json:"to"` // "gateway"; "visitor before the challenge"; "visitor after the request", which sent the first X25519 handshake's; "visitor who asks", for the bundle
	From     string   `json:"from,omitempty"`
	Seconds  int      `json:"seconds,omitempty"` // after the challenge
	Busy     bool     `json:"busy,omitempty"`    // the gateway is busy, and its answer with a cookie is all
	Datagram hexBytes `json:"datagram"`
}

const (
	toTheGateway    = "gateway"
	toVisitorBefore = "visitor before the challenge"
	toVisitorAfter  = "visitor after the request"
	toVisitorAsking = "visitor who asks"
)

func readVectors(t testing.TB) *vectors {
	t.Helper()
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		t.Fatal(err)
	}
	if len(v.Handshakes) < 8 || len(v.Singles) < 4 || len(v.Questions) < 2 || len(v.Bad) < 60 {
		t.Fatalf("%s: %d handshakes, %d single packets, %d questions and %d bad datagrams, want at least 8, 4, 2 and 60",
			vectorFile, len(v.Handshakes), len(v.Singles), len(v.Questions), len(v.Bad))
	}
	return v
}

// gateway is the gateway of the vectors.
func (v *vectors) gateway(t testing.TB) (*Gateway, Peer) {
	t.Helper()
	id, err := NewIdentity([32]byte(v.Gateway.Seed))
	if err != nil {
		t.Fatal(err)
	}
	p := Profile(v.Gateway.Profile)
	g := NewGateway([]*Identity{id}, []Profile{p}, true, nil, testStart)
	e := &epoch{state: aead(v.Gateway.StateKey), cookie: [16]byte(v.Gateway.CookieKey), since: testStart}
	if e.ephemeral, err = ecdh.X25519().NewPrivateKey(v.Gateway.Ephemeral); err != nil {
		t.Fatal(err)
	}
	g.keys.Store(e)
	return g, Peer{p, id.Fingerprint(), id.Bundle()}
}

var suites = map[string]Suite{Hybrid.String(): Hybrid, X25519.String(): X25519}

// visitor is a vector's visitor after its hello.
func (h *handshakeVector) visitor(t testing.TB, peer Peer) *Visitor {
	t.Helper()
	f, err := ecdh.X25519().NewPrivateKey(h.Private)
	if err != nil {
		t.Fatal(err)
	}
	return &Visitor{peer: peer, suite: suites[h.Suite], out: newEnvelope(peer.Profile, toGateway), in: newEnvelope(peer.Profile, toVisitor),
		ephemeral: f, hello: h.Hello, heard: [32]byte(h.H), export: h.Export}
}

// asked is a vector's visitor after its request.
func (h *handshakeVector) asked(t testing.TB, peer Peer) *Visitor {
	t.Helper()
	v := h.visitor(t, peer)
	if e, _ := v.Read(h.Challenge); e != Challenged {
		t.Fatalf("%s: the challenge is event %d", h.Name, e)
	}
	v.answers = h.AnswerKey
	return v
}

// same says if a vector has another value than what is computed from others.
func same(t *testing.T, name string, want hexBytes, got []byte) {
	t.Helper()
	if !bytes.Equal(want, got) {
		t.Errorf("%s is %x, want %x", name, got, []byte(want))
	}
}

func TestVectors(t *testing.T) {
	v := readVectors(t)
	g, peer := v.gateway(t)
	w := v.Gateway
	same(t, "bundle", w.Bundle, peer.Bundle)
	if got := peer.Fingerprint.String(); got != w.Fingerprint {
		t.Errorf("the fingerprint is %s, want %s", got, w.Fingerprint)
	}
	same(t, "tag key to the gateway", w.TagToGateway, derive(w.Profile, nil, "tag to gateway", 16))
	same(t, "mask key to the gateway", w.MaskToGateway, derive(w.Profile, nil, "mask to gateway", 32))
	same(t, "tag key to the visitor", w.TagToVisitor, derive(w.Profile, nil, "tag to visitor", 16))
	same(t, "mask key to the visitor", w.MaskToVisitor, derive(w.Profile, nil, "mask to visitor", 32))
	same(t, "info of hello", w.InfoHello, hpkeInfo("hello", peer.Profile, peer.Fingerprint))
	same(t, "info of single packets", w.InfoSingle, hpkeInfo("single", peer.Profile, peer.Fingerprint))
	for _, h := range v.Handshakes {
		t.Run(h.Name, func(t *testing.T) {
			h.testHello(t, g, peer)
			h.testChallenge(t, peer)
			h.testRequest(t, g, peer)
			h.testAnswers(t, peer)
		})
	}
	for _, s := range v.Singles {
		t.Run("single packet "+s.Suite, func(t *testing.T) { s.test(t, g, peer) })
	}
	for _, q := range v.Questions {
		_, of, ok := ReadPart(peer, q.Answer)
		if reply, _ := g.Open(testPlace, testStart, q.Question); !ok || len(reply) != len(q.Question) || !bytes.Equal(of, peer.Bundle[int(q.Part)*partSize:][:partSize]) {
			t.Errorf("part %d: read: %t, and an answer of %d bytes", q.Part, ok, len(reply))
		}
	}
}

// body opens the envelope of a datagram that has a type.
func body(t *testing.T, p Profile, direction string, k kind, d []byte) []byte {
	t.Helper()
	e := newEnvelope(p, direction)
	if !e.ours(d) {
		t.Fatalf("the tag of type %#x is wrong", k)
	}
	got, b := e.open(d)
	if got != k {
		t.Fatalf("type %#x, want %#x", got, k)
	}
	same(t, "the datagram", d, e.datagram(k, b, len(d)))
	return b
}

func (h *handshakeVector) testHello(t *testing.T, g *Gateway, peer Peer) {
	k := map[string]kind{Hybrid.String(): helloHybrid, X25519.String(): helloX25519}[h.Suite]
	wire := onWire(h.Enc)
	b := body(t, peer.Profile, toGateway, k, h.Hello)
	n := len(wire) + cookieSize + len(h.HelloSealed)
	same(t, "hello", slices.Concat(wire[:saltSize], h.Cookie, wire[saltSize:], h.HelloSealed), b[:n])
	f, err := ecdh.X25519().NewPrivateKey(h.Private)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "F", h.Public, f.PublicKey().Bytes())
	r, err := hpke.NewRecipient(h.Enc, g.identities[0].keys[suites[h.Suite]], kdf, gcm, hpkeInfo("hello", peer.Profile, peer.Fingerprint))
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Open([]byte{byte(k)}, h.HelloSealed)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "F, as sealed", h.Public, text)
	export, err := r.Export(exported, 32)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "export", h.Export, export)
	sum := helloTranscript(peer.Fingerprint, k, h.Enc, h.HelloSealed)
	same(t, "H", h.H, sum[:])
	if reply, _ := g.Open(netip.MustParseAddr(h.From), testStart, h.Hello); reply == nil {
		t.Error("the gateway does not answer the hello")
	}
	v := h.visitor(t, peer)
	if e, _ := v.Read(h.Busy); e != Busy {
		t.Errorf("the answer busy is event %d", e)
	}
}

func (h *handshakeVector) testChallenge(t *testing.T, peer Peer) {
	v := h.visitor(t, peer)
	shared, err := ecdhShared(v.ephemeral, h.R)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "shared", h.Shared, shared)
	if e, _ := v.Read(h.Challenge); e != Challenged {
		t.Fatalf("the challenge is event %d", e)
	}
	same(t, "transcript", h.Transcript, v.chain.transcript[:])
	same(t, "secret", h.Secret, v.chain.secret[:])
	same(t, "challenge key", h.ChallengeKey, v.chain.challengeKey())
	same(t, "request key", h.RequestKey, v.chain.requestKey())
	same(t, "state", h.State, v.state)
	b := body(t, peer.Profile, toVisitor, challenge, h.Challenge)
	same(t, "random and R", slices.Concat(h.Random, h.R), b[:saltSize+keySize])
}

func (h *handshakeVector) testRequest(t *testing.T, g *Gateway, peer Peer) {
	_, k := g.Open(netip.MustParseAddr(h.From), testStart.Add(HandshakeLife), h.Asked)
	if k == nil {
		t.Fatal("the gateway does not open the request")
	}
	c := chain{secret: [32]byte(h.Secret), transcript: [32]byte(h.Transcript)}
	own := c.of(k.Request, k.Credential)
	same(t, "T", h.T, own[:])
	same(t, "message", h.Message, k.Message)
	same(t, "request", h.Request, k.Request.encode())
	same(t, "identity", h.Identity, k.Credential.identity())
	same(t, "credential", h.Credential, k.Credential.encode())
	same(t, "answer key", h.AnswerKey, c.answerKey(own))
	if h.SigningKey != nil {
		same(t, "signed", h.Signed, sshsig(h.Message))
		sig := ed25519.Sign(ed25519.NewKeyFromSeed(h.SigningKey), h.Signed)
		if !bytes.HasSuffix(k.Credential.Proof, sig) {
			t.Error("the proof is not the signature")
		}
	}
}

func (h *handshakeVector) testAnswers(t *testing.T, peer Peer) {
	for i, a := range h.Answers {
		v := h.asked(t, peer)
		e, got := v.Read(a.Datagram)
		if e != Answered {
			t.Fatalf("answer %d is event %d", i, e)
		}
		same(t, "answer", a.Text, got.encode())
		b := body(t, peer.Profile, toVisitor, answer, a.Datagram)
		same(t, "nonce", a.Nonce, b[:nonceSize])
	}
}

func (s *singleVector) test(t *testing.T, g *Gateway, peer Peer) {
	from := netip.MustParseAddr(s.From)
	reply, k := g.Open(from, testStart, s.Datagram)
	if k == nil || k.Single == nil || reply != nil {
		t.Fatalf("%v, and an answer of %d bytes", k, len(reply))
	}
	want, source := k.Single.Message, from
	if s.Any {
		want, source = k.Single.Anywhere, netip.Addr{}
	}
	same(t, "message", s.Message, want)
	kind := map[string]kind{Hybrid.String(): singleHyb, X25519.String(): singleX}[s.Suite]
	same(t, "message", s.Message, singleMessage(peer.Fingerprint, kind, s.Enc, s.What, source))
	same(t, "proof", s.Proof, k.Single.Proof[:])
	same(t, "proof", s.Proof, ed25519.Sign(ed25519.NewKeyFromSeed(s.SigningKey), sshsig(s.Message)))
	if k.Single.Counter != s.Counter || k.Single.Door != DoorID(s.Door) || k.Request.OpenFor != time.Duration(s.Seconds)*time.Second {
		t.Errorf("%+v, %+v", k.Single, k.Request)
	}
}

// sshsig is what a signature is over.
func sshsig(message []byte) []byte {
	sum := sha512.Sum512(message)
	b := []byte("SSHSIG")
	for _, s := range []string{"doorward-knock-v1", "", "sha512", string(sum[:])} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}

// Nothing comes of a bad datagram.
func TestBadVectors(t *testing.T) {
	v := readVectors(t)
	h := v.first(X25519)
	for _, b := range v.Bad {
		t.Run(b.To+": "+b.Why, func(t *testing.T) {
			g, peer := v.gateway(t)
			switch b.To {
			case toTheGateway:
				from, now := netip.MustParseAddr(b.From), testStart.Add(time.Duration(b.Seconds)*time.Second)
				rank, n := g.Glance(from, b.Datagram, b.Busy, make([]byte, 64))
				if b.Busy {
					if rank != Junk || n != 64 {
						t.Errorf("rank %d, and an answer of %d bytes", rank, n)
					}
					return
				}
				reply, k := g.Open(from, now, b.Datagram)
				if n != 0 || reply != nil || k != nil {
					t.Errorf("answers of %d and %d bytes, and %+v", n, len(reply), k)
				}
			case toVisitorBefore, toVisitorAfter:
				visitor := h.visitor(t, peer)
				if b.To == toVisitorAfter {
					visitor = h.asked(t, peer)
				}
				before := *visitor
				if e, a := visitor.Read(b.Datagram); e != Nothing {
					t.Errorf("event %d, %+v", e, a)
				}
				if !cmp.Equal(before.hello, visitor.hello) || before.challenged != visitor.challenged {
					t.Error("it changed the visitor")
				}
			case toVisitorAsking:
				if part, of, ok := ReadPart(peer, b.Datagram); ok {
					t.Errorf("part %d, %x", part, of)
				}
			default:
				t.Fatalf("to %q", b.To)
			}
		})
	}
}

// first is the first handshake of a suite.
func (v *vectors) first(s Suite) *handshakeVector {
	for i := range v.Handshakes {
		if v.Handshakes[i].Suite == s.String() {
			return &v.Handshakes[i]
		}
	}
	panic("no handshake of " + s.String())
}
