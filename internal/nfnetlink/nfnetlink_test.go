//go:build linux

package nfnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answered is the kernel's answer to a request: messages, or a refusal. One that is
// leftOver answers another request.
type answered struct {
	data     []string
	refusal  unix.Errno
	leftOver bool
}

// The answer to an earlier request is skipped, even if it is a refusal. A message that
// cannot be read is an error, but the answer is read to its end.
func TestAnswers(t *testing.T) {
	left := answered{data: []string{"\x02\x00\x00\x00"}, leftOver: true}
	refused := answered{refusal: unix.ENOENT, leftOver: true}
	for name, test := range map[string]struct {
		answers  []answered
		messages int
		want     string
		broken   bool
	}{
		"a list":           {[]answered{{data: []string{"\x02\x00\x00\x00", "\x02\x00\x00\x00\x05\x00\x01\x00\x07"}}}, 2, "<nil>", false},
		"nothing":          {[]answered{{}}, 0, "<nil>", false},
		"a refusal":        {[]answered{{refusal: unix.ENOENT}}, 0, unix.ENOENT.Error(), false},
		"behind others":    {[]answered{left, refused, {data: left.data}}, 1, "<nil>", false},
		"refused, too":     {[]answered{refused, {refusal: unix.EBUSY}}, 0, unix.EBUSY.Error(), false},
		"cut":              {[]answered{{data: []string{"\x02", "\x02\x00\x00\x00"}}}, 1, "netfilter sent a message of 1 bytes", false},
		"no attributes":    {[]answered{{data: []string{"\x02\x00\x00\x00\x01"}}}, 0, "decode netfilter's answer: ", false},
		"no such number":   {[]answered{{data: []string{"\x02\x00\x00\x00\x06\x00\x01\x00\x07\x07\x00\x00"}}}, 0, "decode netfilter's answer: a number of 2 bytes, not 1", false},
		"no answer":        {nil, 0, "the netlink connection broke: ", true},
		"none after those": {[]answered{left, refused}, 0, "the netlink connection broke: ", true},
	} {
		s := &script{answers: test.answers}
		c := &Conn{Conn: netlink.NewConn(s, 1)}
		messages, number := 0, uint8(0)
		err := c.Ask(Message(1, 2, netlink.Dump, Header(unix.AF_INET)), func(m netlink.Message) error {
			err := Attributes(m, Fields{1: Number(&number)}.Read)
			if err == nil {
				messages++
			}
			return err
		})
		if messages != test.messages || !strings.HasPrefix(fmt.Sprint(err), test.want) || errors.Is(err, ErrBroken) != test.broken {
			t.Errorf("%s: %d messages, %v, want %d, %q", name, messages, err, test.messages, test.want)
		}
		if len(s.answers) != 0 {
			t.Errorf("%s: %d answers are left", name, len(s.answers))
		}
	}
}

// script is a fake kernel that gives these answers, in turn.
type script struct {
	answers []answered
	asked   netlink.Message
}

func (s *script) Send(m netlink.Message) error { s.asked = m; return nil }

func (s *script) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		if len(s.answers) == 0 {
			yield(netlink.Message{}, os.ErrDeadlineExceeded)
			return
		}
		a := s.answers[0]
		s.answers = s.answers[1:]
		header := netlink.Header{Flags: netlink.Multi, Sequence: s.asked.Header.Sequence}
		if a.leftOver {
			header.Sequence++
		}
		if a.refusal != 0 { // struct nlmsgerr
			header.Type, header.Flags = netlink.Error, 0
			data := binary.NativeEndian.AppendUint32(nil, uint32(-int32(a.refusal)))
			yield(netlink.Message{Header: header, Data: append(data, make([]byte, unix.NLMSG_HDRLEN)...)}, nil)
			return
		}
		for _, data := range a.data {
			if !yield(netlink.Message{Header: header, Data: []byte(data)}, nil) {
				return
			}
		}
		header.Type = netlink.Done
		yield(netlink.Message{Header: header, Data: make([]byte, 4)}, nil)
	}
}

// The other methods of netlink.Socket.

func (s *script) Close() error                         { return nil }
func (s *script) SendMessages([]netlink.Message) error { return unix.EOPNOTSUPP }
func (s *script) Receive() ([]netlink.Message, error)  { return nil, unix.EOPNOTSUPP }
func (s *script) SetDeadline(time.Time) error          { return nil }
func (s *script) SetReadDeadline(time.Time) error      { return nil }
func (s *script) SetWriteDeadline(time.Time) error     { return nil }
