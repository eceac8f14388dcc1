//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	file := f.b.Path("packet-" + source)
	cmd := f.b.visitor.Command(context.Background(), "fwknop", "--test", "--save-packet", file,
		"-A", fmt.Sprintf("tcp/%d", port), "-a", source, "-D", serverAddr, "--no-save-args",
		"--use-hmac", "--key-base64-rijndael", f.rijndael, "--key-base64-hmac", f.mac)
	cmd.Env = append(os.Environ(), "HOME="+f.b.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fwknop: %w: %s", err, out)
	}
	packet, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(source)}, &net.UDPAddr{IP: net.ParseIP(serverAddr), Port: 62201})
	if err != nil {
		return nil, err
	}
	return func() error {
		defer conn.Close()
		time.Sleep(f.delay)
		_, err := conn.Write([]byte(strings.TrimSpace(string(packet))))
		return err
	}, nil
}
