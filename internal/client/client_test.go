package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

const (
	open4 = "open 192.0.2.1/udp for 198.51.100.7"
	open6 = "open 2001:db8::1/udp for 2001:db8:7::7"
)

// What the network does to datagrams, and what comes of it.
func TestKnock(t *testing.T) {
	lose := func(which func(trip) bool) func(trip) (int, time.Duration) {
		return func(d trip) (int, time.Duration) {
			if which(d) {
				return 0, 0
			}
			return 1, 0
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(l *lab)
		want    []string // answers, sorted
		err     string
		proofs  int
		within  time.Duration // of the bubble's clock: exact
		told    []Progress
	}{
		{name: "both families with one proof", want: []string{open4, open6}, proofs: 1, within: 40 * time.Millisecond},
		{name: "hybrid", prepare: func(l *lab) { l.knock.Profile.Suite = seal.Hybrid },
			want: []string{open4, open6}, proofs: 1, within: 40 * time.Millisecond},
		{name: "IPv4 alone", prepare: func(l *lab) { l.knock.Family = IPv4 },
			want: []string{open4}, proofs: 1, within: 40 * time.Millisecond},
		{name: "IPv6 alone", prepare: func(l *lab) { l.knock.Family = IPv6 },
			want: []string{open6}, proofs: 1, within: 40 * time.Millisecond},
		{name: "each first datagram is lost", prepare: func(l *lab) { l.fate = lose(func(d trip) bool { return d.n == 0 }) },
			want: []string{open4, open6}, proofs: 1, within: 490 * time.Millisecond},
		{name: "each arrives three times", prepare: func(l *lab) {
			l.fate = func(trip) (int, time.Duration) { return 3, 0 }
		}, want: []string{open4, open6}, proofs: 1, within: 40 * time.Millisecond},
		{name: "IPv6 is dead", prepare: func(l *lab) { l.gateways[v6] = nil },
			want: []string{open4}, proofs: 1, within: 260 * time.Millisecond},
		{name: "IPv4 is dead", prepare: func(l *lab) { l.gateways[v4] = nil },
			want: []string{open6}, proofs: 1, within: 260 * time.Millisecond},
		{name: "IPv6 has no route", prepare: func(l *lab) {
			l.udp = func(a string) error {
				if a == v6 {
					return syscall.ENETUNREACH
				}
				return nil
			}
		}, want: []string{open4}, proofs: 1, within: 40 * time.Millisecond},
		{name: "IPv6 goes dead after its challenge", prepare: func(l *lab) {
			l.fate = lose(func(d trip) bool { return d.address == v6 && !d.down && d.n > 0 })
		}, want: []string{open4}, proofs: 1, within: 40*time.Millisecond + lastAnswer},
		{name: "the gateway is busy", prepare: func(l *lab) { l.gateway.Busy(true) },
			want: []string{open4, open6}, proofs: 1, within: 60 * time.Millisecond},
		{name: "UDP is blocked", prepare: func(l *lab) {
			l.knock.Profile.Carriers = []string{"udp", "tcp"}
			l.fate = lose(func(trip) bool { return true })
			l.tcp = func(string) error { return nil }
		}, want: []string{"open 192.0.2.1/tcp for 198.51.100.7", "open 2001:db8::1/tcp for 2001:db8:7::7"}, proofs: 1, within: nextCarrier},
		{name: "TCP alone", prepare: func(l *lab) {
			l.knock.Profile.Carriers = []string{"tcp"}
			l.tcp = func(string) error { return nil }
		}, want: []string{"open 192.0.2.1/tcp for 198.51.100.7", "open 2001:db8::1/tcp for 2001:db8:7::7"}, proofs: 1},
		{name: "the answers are lost", prepare: func(l *lab) { l.fate = lose(func(d trip) bool { return d.down && d.n == 1 }) },
			want: []string{open4, open6}, proofs: 1, within: 190 * time.Millisecond},
		{name: "the first of two addresses is dead", prepare: func(l *lab) {
			l.hosts["gate.example.org"] = []string{"192.0.2.99", v4}
		}, want: []string{open4}, proofs: 1, within: 40*time.Millisecond + nextAddress},
		{name: "a name that is not known, and an address", prepare: func(l *lab) {
			l.knock.Profile.Hosts = []string{"old.example.org", v4}
		}, want: []string{open4}, proofs: 1, within: 40 * time.Millisecond},
		{name: "the service starts", prepare: func(l *lab) {
			l.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
				return append([]seal.Answer{{Status: seal.Starting}}, l.gateway.Open(k)...)
			})
			l.fate = func(d trip) (int, time.Duration) {
				if d.down && d.n == 2 {
					return 1, 3 * time.Second
				}
				return 1, 0
			}
		}, want: []string{open4, open6}, proofs: 1, within: 40*time.Millisecond + 3*time.Second, told: []Progress{Proving, Waking}},
		{name: "what it has come to is lost, and asked for", prepare: func(l *lab) {
			l.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
				return append([]seal.Answer{{Status: seal.Starting}}, l.gateway.Open(k)...)
			})
			l.fate = lose(func(d trip) bool { return d.down && d.n == 2 })
		}, want: []string{open4, open6}, proofs: 1, within: 60*time.Millisecond + askAgain, told: []Progress{Proving, Waking}},
		{name: "the service goes on starting", prepare: func(l *lab) {
			l.gateway.Answer(func(clienttest.Knock) []seal.Answer {
				return []seal.Answer{{Status: seal.Starting, Source: source(v4)}}
			})
		}, want: []string{"starting 192.0.2.1/udp for 198.51.100.7", "starting 2001:db8::1/udp for 198.51.100.7"}, proofs: 1,
			err: "the service behind the door is still being started after 1m0s", within: time.Minute + 40*time.Millisecond, told: []Progress{Proving, Waking}},
		{name: "a touch that takes its time, over TCP that does not wait", prepare: func(l *lab) {
			l.knock.Profile.Carriers = []string{"tcp"}
			l.prover.wait = 30 * time.Second
			l.tcp = func(string) error { return nil }
		}, want: []string{"open 192.0.2.1/tcp for 198.51.100.7", "open 2001:db8::1/tcp for 2001:db8:7::7"}, proofs: 1, within: 30 * time.Second},
		{name: "a touch that does not come", prepare: func(l *lab) { l.prover.wait = time.Hour },
			err: "the key has not signed within 55s, and the gateway waits for a minute only: knock again", within: 20*time.Millisecond + proveWithin},
		{name: "an error of the prover's", prepare: func(l *lab) { l.prover.err = errBroken }, err: "broken", proofs: 1, within: 20 * time.Millisecond},
		{name: "refused", prepare: func(l *lab) { l.gateway.Ring(credential.NewRing(credential.Origins{})) },
			want: []string{"refused 192.0.2.1/udp for 198.51.100.7", "refused 2001:db8::1/udp for 2001:db8:7::7"}, proofs: 1,
			err: "the gateway does not accept this key", within: 40 * time.Millisecond},
		{name: "refused over one family", prepare: func(l *lab) {
			l.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
				if k.From.Is6() {
					return []seal.Answer{{Status: seal.Refused, Reason: seal.Reason(credential.From), Source: k.From}}
				}
				return l.gateway.Open(k)
			})
		}, want: []string{open4, "refused 2001:db8::1/udp for 2001:db8:7::7"}, proofs: 1, within: 40 * time.Millisecond},
		{name: "an address that is named is asked for once", prepare: func(l *lab) {
			l.knock.Request.Address = netip.MustParseAddr("203.0.113.9")
			l.knock.Family = IPv4
		}, want: []string{"open 192.0.2.1/udp for 203.0.113.9"}, proofs: 1, within: 40 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				if tt.prepare != nil {
					tt.prepare(l)
				}
				r, took, err := l.run(t)
				got := summary(r)
				slices.Sort(got)
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("answers (-want +got):\n%s", d)
				}
				if text := errText(err); text != tt.err {
					t.Errorf("error %q, want %q", text, tt.err)
				}
				if l.prover.count != tt.proofs {
					t.Errorf("%d proofs, want %d", l.prover.count, tt.proofs)
				}
				if took != tt.within {
					t.Errorf("it took %v, want %v", took, tt.within)
				}
				if tt.told != nil && !slices.Equal(l.told, tt.told) {
					t.Errorf("told %v, want %v", l.told, tt.told)
				}
			})
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// One proof is of one message, which both families' requests have.
func TestOneProofForBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		if _, _, err := l.run(t); err != nil {
			t.Fatal(err)
		}
		k := l.gateway.Knocks()
		if len(k) != 2 || k[0].Message != k[1].Message || k[0].From.Is4() == k[1].From.Is4() || k[0].Party == nil || k[1].Party == nil {
			t.Errorf("the gateway has seen %+v", k)
		}
	})
}

// A code counts once, and one proof for both families is one use.
func TestCodes(t *testing.T) {
	for _, kind := range []seal.CredentialKind{seal.Code, seal.Invite} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			code := code16(9)
			c := credential.Code{Hash: credential.HashCode(code), Name: "alice"}
			l.gateway.Ring(credential.NewRing(credential.Origins{Rescues: []credential.Code{c}, Invites: []credential.Code{c}}))
			l.prover.who = seal.Credential{Kind: kind, Bearer: code}
			if kind == seal.Invite {
				l.prover.who.Public = l.prover.signer.PublicKey().Marshal()
			}
			r, _, err := l.run(t)
			k := l.gateway.Knocks()
			if err != nil || len(r.Answers) != 2 || len(k) != 2 || k[0].Message != k[1].Message {
				t.Errorf("kind %d: %v, %v, and the gateway has seen %+v", kind, summary(r), err, k)
			}
		})
	}
}

// A gateway that restarts between challenge and request knows nothing of the handshake:
// there is another one.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.prover.wait = time.Second
		time.AfterFunc(500*time.Millisecond, l.gateway.Restart)
		r, took, err := l.run(t)
		if got := summary(r); err != nil || len(got) != 2 || l.prover.count != 2 {
			t.Errorf("%q, %v after %d proofs", got, err, l.prover.count)
		}
		if want := []Progress{Proving, Repeated, Proving}; !slices.Equal(l.told, want) {
			t.Errorf("told %v, want %v", l.told, want)
		}
		if took > 2*answerWithin {
			t.Errorf("it took %v", took)
		}
	})
}

// A code that counts once may have been used by a knock whose answer was lost.
func TestSpentByItself(t *testing.T) {
	for lost, want := range map[bool]string{
		false: "this rescue code was used before, and counts once: ask the gateway's operator for another",
		true:  "this rescue code was used before, perhaps by this very knock, whose answer was lost: see whether the door is open",
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			l.knock.Profile.Hosts = []string{v4}
			l.prover.who = seal.Credential{Kind: seal.Code, Bearer: code16(9)}
			l.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
				if k.First && lost {
					return []seal.Answer{{Status: seal.Opened, Source: k.From, Left: time.Minute}}
				}
				return []seal.Answer{{Status: seal.Refused, Reason: seal.Spent, Source: k.From}}
			})
			first := time.Now().Add(answerWithin)
			l.fate = func(d trip) (int, time.Duration) {
				if lost && d.down && d.n > 0 && time.Now().Before(first) {
					return 0, 0
				}
				return 1, 0
			}
			if _, _, err := l.run(t); errText(err) != want {
				t.Errorf("%v\nwant %s", err, want)
			}
		})
	}
}

// Where requests never arrive, it is given up, and said.
func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.fate = func(d trip) (int, time.Duration) {
			if d.size == 512 {
				return 0, 0
			}
			return 1, 0
		}
		_, took, err := l.run(t)
		var lost *LostError
		if !errors.As(err, &lost) || l.prover.count != handshakes || took > handshakes*(answerWithin+time.Second) {
			t.Fatalf("%v after %v and %d proofs", err, took, l.prover.count)
		}
		if got := err.Error(); !strings.HasSuffix(got, " has begun to answer, at 41641/udp, and not gone on; the door may be open") {
			t.Error(got)
		}
	})
}

// Nobody answers: how long it takes, how often is asked, and what is said of it.
func TestSilence(t *testing.T) {
	udpHint := "it may be that the gateway is down, or the port another; " +
		`this network blocks UDP (its operator can add "tcp" to the gateway's carriers, and you to the profile's); ` +
		"or the gateway has new secrets: ask for a new invite, and doorward accept it"
	for _, tt := range []struct {
		name    string
		prepare func(l *lab)
		err     string
		hint    string
		took    time.Duration
	}{
		{"no gateway", func(l *lab) { clear(l.gateways) },
			"no answer from gate.example.org (2001:db8::1, 192.0.2.1) at 41641/udp within 5s", udpHint, defaultPatience},
		{"an address", func(l *lab) { clear(l.gateways); l.knock.Profile.Hosts = []string{v4} },
			"no answer from 192.0.2.1 at 41641/udp within 5s", udpHint, defaultPatience},
		{"another profile secret", func(l *lab) { l.knock.Profile.Gateway.Profile[0]++ },
			"no answer from gate.example.org (2001:db8::1, 192.0.2.1) at 41641/udp within 5s", udpHint, defaultPatience},
		{"neither UDP nor TCP", func(l *lab) { clear(l.gateways); l.knock.Profile.Carriers = []string{"udp", "tcp"} },
			"no answer from gate.example.org (2001:db8::1, 192.0.2.1) at 41641/udp and 41641/tcp within 5s",
			"it may be that the gateway is down, or the port another; or the gateway has new secrets: ask for a new invite, and doorward accept it", defaultPatience},
		{"TCP is refused", func(l *lab) {
			l.knock.Profile.Carriers = []string{"tcp"}
			l.tcp = func(string) error { return errRefused }
		}, "no answer from gate.example.org (2001:db8::1, 192.0.2.1) at 41641/tcp within 5s",
			"it may be that nothing listens there: the gateway is not running, or it is another port; " +
				"or the gateway has new secrets: ask for a new invite, and doorward accept it", 0},
		{"no such host", func(l *lab) { l.knock.Profile.Hosts = []string{"no.example.org"} },
			`host "no.example.org" is not known`,
			"is this machine online? A gateway can have its address among the profile's hosts, too (doorward profiles show)", 0},
		{"no name server", func(l *lab) { l.knock.Profile.Hosts = []string{"slow.example.org"}; l.hosts["slow.example.org"] = nil },
			`look up host "slow.example.org": no name server has answered`,
			"is this machine online? A gateway can have its address among the profile's hosts, too (doorward profiles show)", lookupWithin},
		{"no network", func(l *lab) { l.udp = func(string) error { return syscall.ENETUNREACH } },
			"gate.example.org cannot be reached: network is unreachable", "is this machine online? -4 and -6 choose a family", 0},
		{"not of the family", func(l *lab) { l.knock.Family = IPv6; l.hosts["gate.example.org"] = []string{v4} },
			"gate.example.org has no address that could be knocked on", "is this machine online? -4 and -6 choose a family", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				tt.prepare(l)
				_, took, err := l.run(t)
				if errText(err) != tt.err {
					t.Errorf("error %v\nwant  %s", err, tt.err)
				}
				if h, ok := errors.AsType[interface {
					error
					Hint() string
				}](err); !ok || h.Hint() != tt.hint {
					t.Errorf("hint of %T, want %s", err, tt.hint)
				}
				if took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				if l.prover.count > 0 {
					t.Error("somebody was asked to sign")
				}
				for _, a := range []string{v4, v6} {
					if n := len(l.sent(a, false)); n > 8 {
						t.Errorf("%d datagrams went to %s in vain", n, a)
					}
				}
			})
		})
	}
}

// Everybody can forge an ICMP message: it ends nothing.
func TestForgedRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		dial := l.network.dial
		c := l.client()
		c.Dial = func(ctx context.Context, carrier, address string) (net.Conn, error) {
			s, err := dial(ctx, carrier, address)
			for range 3 {
				s.(*socket).deliver(errRefused)
			}
			return s, err
		}
		r, err := c.Knock(t.Context(), l.knock)
		if got := summary(r); err != nil || len(got) != 2 {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// A context that ends ends a knock, wherever it is.
func TestCancelled(t *testing.T) {
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 25 * time.Millisecond, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			l.prover.wait = time.Minute
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			start := time.Now()
			if _, err := l.client().Knock(ctx, l.knock); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != after {
				t.Errorf("%v after %v, want the context's error after %v", err, time.Since(start), after)
			}
		})
	}
}

// A certificate that is too long for UDP goes over TCP, where there is that.
func TestTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.tcp = func(string) error { return nil }
		l.prover.who = seal.Credential{Kind: seal.Certificate, Public: make([]byte, 1500)}
		_, _, err := l.run(t)
		want := "the certificate or its signature is too long to be sent over UDP"
		if errText(err) != want {
			t.Errorf("error %v, want %s", err, want)
		}
		l.knock.Profile.Carriers = []string{"udp", "tcp"}
		r, _, err := l.run(t)
		if _, ok := errors.AsType[*RefusedError](err); !ok || len(r.Answers) != 2 || !r.Answers[0].Stream {
			t.Errorf("%q, %v: want it refused over TCP, since nobody has signed it", summary(r), err)
		}
	})
}

// A name with very many addresses is no reason to send very much.
func TestManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var list []string
		for i := range 1000 {
			a := netip.MustParseAddr("198.18.0.0").As4()
			a[2], a[3] = byte(i>>8), byte(i)
			list = append(list, netip.AddrFrom4(a).String())
		}
		l.hosts["gate.example.org"] = list
		_, _, err := l.run(t)
		var silent *SilentError
		if !errors.As(err, &silent) || len(silent.Tried) != mostOfEach {
			t.Errorf("%v: want %d addresses", err, mostOfEach)
		}
	})
}

// What the gateway says of a refusal is what credential says, with the time in the zone of
// this machine.
func TestRefusals(t *testing.T) {
	for reason := seal.Reason(1); reason < 140; reason++ {
		e := newRefusal(seal.Answer{Status: seal.Refused, Reason: reason}, seal.Key, time.Now())
		known := reason <= seal.Reason(credential.CodeExpired) || reason >= seal.NotAccepted && reason <= seal.SpentInVain
		if (e.Error() != "" && !strings.Contains(e.Error(), "not known here")) != known {
			t.Errorf("reason %d: %s", reason, e)
		}
		if strings.Contains(e.Error(), "%") {
			t.Error(e)
		}
		if strings.HasPrefix(e.Word(), "reason-") == known {
			t.Errorf("reason %d in a word: %s", reason, e.Word())
		}
	}
}
