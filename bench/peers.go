//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
)

// dropPort is how both peers' manuals have the port closed: a rule of the
// administrator's, before which they insert their own.
func dropPort(ctx context.Context, b *bench) error {
	for _, rule := range []string{
		"-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
		fmt.Sprintf("-A INPUT -p tcp --dport %d -j DROP", port),
	} {
		if _, err := b.server.Run(ctx, "iptables", strings.Fields(rule)...); err != nil {
			return err
		}
	}
	return nil
}

// knockd opens for two SYNs to closed ports.
type knockd struct{}

const knockdConfig = `[options]
	logfile = %s

[bench]
	sequence = 7000,8000
	seq_timeout = 10
	tcpflags = syn
	command = /usr/sbin/iptables -I INPUT 1 -s %%IP%% -p tcp --dport %d -j ACCEPT
`

func (k *knockd) start(ctx context.Context, b *bench) (int, error) {
	if err := dropPort(ctx, b); err != nil {
		return 0, err
	}
	config, err := b.Write("knockd.conf", fmt.Sprintf(knockdConfig, b.Path("knockd.log"), port))
	if err != nil {
		return 0, err
	}
	p, err := b.server.Start("knockd", "-i", "eth1", "-c", config, "-p", b.Path("knockd.pid"))
	if err != nil {
		return 0, err
	}
	return p.PID, sniffs(ctx, b, p)
}

// sniffs waits until a daemon has opened the packet socket that it listens with.
func sniffs(ctx context.Context, b *bench, p *lab.Process) error {
	return lab.Until(ctx, 10*time.Second, "a packet socket", func() error {
		select {
		case <-p.Ended():
			return fmt.Errorf("the daemon has ended: %s", p.Output())
		default:
		}
		out, err := b.server.Run(ctx, "ss", "-H0pn")
		if err == nil && !strings.Contains(out, fmt.Sprintf("pid=%d,", p.PID)) {
			err = fmt.Errorf("packet sockets: %q", out)
		}
		return err
	})
}

func (k *knockd) knock(source string) (func() error, error) {
	if err := syn(source, 7000); err != nil {
		return nil, err
	}
	time.Sleep(time.Millisecond) // the order of its two packets is the knock
	return func() error { return syn(source, 8000) }, nil
}

// syn sends one SYN to a port that refuses.
func syn(source string, port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(source).As4()}); err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(serverAddr).As4(), Port: port}
	err = unix.Connect(fd, to)
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return err
}

// fwknopd opens for one encrypted datagram.
type fwknopd struct {
	b             *bench
	rijndael, mac string // keys, base64
	delay         time.Duration
}

func (f *fwknopd) start(ctx context.Context, b *bench) (int, error) {
	f.b, f.rijndael, f.mac = b, key(), key()
	if err := dropPort(ctx, b); err != nil {
		return 0, err
	}
	access, err := b.Write("access.conf", fmt.Sprintf("SOURCE ANY\nKEY_BASE64 %s\nHMAC_KEY_BASE64 %s\nFW_ACCESS_TIMEOUT 600\n",
		f.rijndael, f.mac))
	if err != nil {
		return 0, err
	}
	config, err := b.Write("fwknopd.conf", fmt.Sprintf("PCAP_INTF eth1;\nFWKNOP_RUN_DIR %[1]s;\nFIREWALL_EXE /usr/sbin/iptables;\n",
		b.Path("fwknop")))
	if err != nil {
		return 0, err
	}
	if err := os.Mkdir(b.Path("fwknop"), 0o700); err != nil {
		return 0, err
	}
	p, err := b.server.Start("fwknopd", "--foreground", "-c", config, "-a", access)
	if err != nil {
		return 0, err
	}
	return p.PID, sniffs(ctx, b, p)
}

// key makes a random key.
func key() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

// knock has fwknop's own client make the packet and keeps it, so that the time
// begins when it is sent and not when a process starts.
func (f *fwknopd) knock(source string) (func() error, error) {
	packet, err := f.packet(source)
	if err != nil {
		return nil, err
	}
	conn, err := f.dial(source)
	if err != nil {
		return nil, err
	}
	return func() error {
		defer conn.Close()
		time.Sleep(f.delay)
		_, err := conn.Write(packet)
		return err
	}, nil
}

func (f *fwknopd) packet(source string) ([]byte, error) {
	file := f.b.Path("packet-" + source)
	cmd := f.b.visitor.Command(context.Background(), "fwknop", "--test", "--save-packet", file,
		"-A", fmt.Sprintf("tcp/%d", port), "-a", source, "-D", serverAddr, "--no-save-args",
		"--use-hmac", "--key-base64-rijndael", f.rijndael, "--key-base64-hmac", f.mac)
	cmd.Env = append(os.Environ(), "HOME="+f.b.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fwknop: %w: %s", err, out)
	}
	packet, err := os.ReadFile(file)
	return bytes.TrimSpace(packet), err
}

func (f *fwknopd) dial(source string) (*net.UDPConn, error) {
	return net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(source)}, &net.UDPAddr{IP: net.ParseIP(serverAddr), Port: 62201})
}

// person is a visitor of fwknopd's.
type person struct {
	*net.UDPConn
	packet []byte
	from   [4]byte
	sent   time.Time
}

// knocks are as many a second as there are when so many visitors knock at the same time,
// each from a source of its own. A packet whose source is not let in is sent again: of what
// has arrived since it looked last, a tenth of a second ago, fwknopd reads the last packet.
func (f *fwknopd) knocks(ctx context.Context, visitors int) (string, error) {
	var all []*person
	for range visitors {
		source, err := f.b.source()
		if err != nil {
			return "", err
		}
		p := &person{from: netip.MustParseAddr(source).As4()}
		if p.packet, err = f.packet(source); err != nil {
			return "", err
		}
		if p.UDPConn, err = f.dial(source); err != nil {
			return "", err
		}
		defer p.Close()
		all = append(all, p)
	}
	ctx, stop := context.WithTimeout(ctx, manyLast)
	defer stop()
	begun, took := time.Now(), manyLast
	for len(all) > 0 && ctx.Err() == nil {
		for i, p := range slices.Backward(all) {
			if time.Since(p.sent) >= again {
				// fwknopd sniffs, and the kernel answers the packet before: nobody listens there.
				_, err := p.Write(p.packet)
				if errors.Is(err, unix.ECONNREFUSED) {
					_, err = p.Write(p.packet)
				}
				if err != nil {
					return "", err
				}
				p.sent = time.Now()
			}
			switch open, err := connects(p.from, netip.MustParseAddr(serverAddr).As4()); {
			case err != nil:
				return "", err
			case open:
				took, all = time.Since(begun), slices.Delete(all, i, i+1)
			}
		}
	}
	return fmt.Sprintf("%.0f a second, %d lost", float64(visitors-len(all))/took.Seconds(), len(all)), nil
}

// manyPackets counts fwknopd's knocks.
func manyPackets(ctx context.Context, b *bench, s *strain) func() string {
	note := ""
	err := b.visitor.Do(func() (err error) {
		f, _ := s.gate.(*fwknopd)
		note, err = f.knocks(ctx, len(sealed{}.people))
		return err
	})
	if err != nil {
		note = err.Error()
	}
	return func() string { return note }
}
