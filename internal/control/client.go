package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"
)

// How long a client waits for an answer that should come at once, and for the answer
// to an order, for which a service may have to start.
const (
	statusTimeout = 10 * time.Second
	orderTimeout  = 5 * time.Minute
	onTheWay      = time.Second // for the answer of a daemon that has waited itself
)

// How many bytes of an answer are read at most: whatever answers at the socket must not
// be able to use up all memory.
const (
	maxStatus = 256 << 20 // of a million grants
	maxAnswer = 1 << 20   // of an order or a record of the audit trail
)

// Client asks the daemon behind one control socket. It holds no connection
// between two calls and may be used by several goroutines. The errors of its
// methods are of type *Error, except those of a context that was cancelled and of the
// functions that are passed to it. An order that the daemon could not understand is not
// sent.
type Client struct {
	// Timeout is how long to wait for an answer, and for a stream to begin; 0 for as
	// long as such an answer should take. It is set before the first call.
	Timeout time.Duration
	// SudoUser is the user on whose behalf sudo(8) says that it runs the command, "" for
	// none: a remark for the audit trail, which proves nothing. It is set before the
	// first call.
	SudoUser string

	path string
	http http.Client
}

// NewClient returns a client of the daemon that listens at path. It does not
// connect yet.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	return c
}

// Status asks for the latest snapshot.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, statusTimeout))
	defer cancel()
	var s Status
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, maxStatus, &s)
	if err == nil && s.Time.IsZero() {
		return Status{}, c.stranger("its status has no time")
	}
	return s, err
}

// Watch calls f with the latest snapshot and with every one that follows. It
// returns f's error, the context's, or an *Error when the daemon goes away; never
// nil.
func (c *Client) Watch(ctx context.Context, f func(Status) error) error {
	return follow(ctx, c, "/v1/status?watch=1", true, maxStatus, f)
}

// Open opens a door for a source. With a Wait, the daemon itself answers when that time
// is over.
func (c *Client) Open(ctx context.Context, o OpenRequest) (Reply, error) {
	return c.order(ctx, "/v1/open", o)
}

// Close makes a door dark, or ends one source's grants.
func (c *Client) Close(ctx context.Context, o CloseRequest) (Reply, error) {
	return c.order(ctx, "/v1/close", o)
}

// Arm ends a failsafe, and forgets penalties.
func (c *Client) Arm(ctx context.Context, o ArmRequest) (Reply, error) {
	return c.order(ctx, "/v1/arm", o)
}

// Apply has the daemon read its configuration file again, or settles what was
// applied before.
func (c *Client) Apply(ctx context.Context, o ApplyRequest) (Reply, error) {
	return c.order(ctx, "/v1/apply", o)
}

// Kind gives an order to a kind of knock, with what is written as JSON as its arguments:
// an object, or nil for none. What the kind answers is the reply's Result.
func (c *Client) Kind(ctx context.Context, kind, order string, args any) (Reply, error) {
	r := KindRequest{Kind: kind, What: order}
	if args != nil {
		text, err := json.Marshal(args)
		if err != nil {
			return Reply{}, usage(err)
		}
		r.Args = text
	}
	return c.order(ctx, kindsPath+kind+"/"+order, r)
}

// order sends one order and returns the answer.
func (c *Client) order(ctx context.Context, path string, r Request) (Reply, error) {
	o, err := r.Order()
	if err != nil {
		return Reply{}, err
	}
	if k, ok := o.(KindRequest); ok {
		r = k // with arguments
	}
	limit := cmp.Or(c.Timeout, orderTimeout)
	if open, ok := o.(Open); ok && open.Wait > 0 {
		limit = open.Wait + statusTimeout
		if c.Timeout > 0 {
			limit = open.Wait + onTheWay
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var reply Reply
	err = c.call(ctx, http.MethodPost, path, r, maxAnswer, &reply)
	if late, ok := errors.AsType[*Error](err); ok && late.Code == CodeTimeout && late.Cause != nil {
		late.Message += "; it may still carry out the order"
		late.Hint = "doorward status"
	}
	if err == nil && reply.Message == "" {
		return Reply{}, c.stranger("it does not say what was done")
	}
	return reply, err
}

// call asks once and reads the answer, of at most limit bytes, into out.
func (c *Client) call(ctx context.Context, method, path string, in any, limit int64, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(&bounded{resp.Body, limit}).Decode(out); err != nil {
		return c.broken(ctx, err)
	}
	return nil
}

// bounded reads from r until left bytes have been read, and then fails.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("it is longer than any of doorwardd's")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// follow reads a stream of objects, one a line and of at most limit bytes, and
// hands them to f. An endless stream ends only with an error.
func follow[T any](ctx context.Context, c *Client, path string, endless bool, limit int64, f func(T) error) error {
	return followFrom(ctx, c, path, endless, limit, func(http.Header) error { return nil }, f)
}

// followFrom is like follow, but first calls begun with the header of the answer.
func followFrom[T any](ctx context.Context, c *Client, path string, endless bool, limit int64, begun func(http.Header) error, f func(T) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	late := time.AfterFunc(cmp.Or(c.Timeout, orderTimeout), func() { end(context.DeadlineExceeded) })
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	late.Stop()
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := begun(resp.Header); err != nil {
		return err
	}
	body := &bounded{r: resp.Body}
	dec := json.NewDecoder(body)
	for {
		var v T
		body.left = limit
		err := dec.Decode(&v)
		switch {
		case err == io.EOF && !endless:
			return nil
		case err != nil:
			return c.broken(ctx, err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
}

// send sends a request and returns the answer if its status is 200; its body is
// the caller's to close.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("control: internal error: %w", err)
		}
		body = bytes.NewReader(b)
	}
	// The host is a formality of HTTP: the connection goes to the socket.
	req, err := http.NewRequestWithContext(ctx, method, "http://doorward"+path, body)
	if err != nil {
		return nil, fmt.Errorf("control: internal error: %w", err)
	}
	if said := noteSudo(c.SudoUser); said != "" {
		req.Header.Set(sudoHeader, said)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(e); err != nil || e.Message == "" {
		return nil, c.stranger(fmt.Sprintf("it says %q", resp.Status))
	}
	if e.Code == "" { // from a daemon older than the codes
		e.Code = codeOf(resp.StatusCode)
		if strings.Contains(e.Message, unknownKey) {
			e.Hint = versionsDiffer
		}
	}
	return nil, e
}

// stranger returns the error for an answer that doorwardd would not give.
func (c *Client) stranger(why string) error {
	return &Error{Code: CodeDown, Message: fmt.Sprintf("what answers at %s is not doorwardd: %s", c.path, why), Hint: "--control SOCKET"}
}

// unreachable returns the error that says why there was no answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	switch {
	case ctx.Err() != nil:
		return c.over(ctx)
	case dialing && errors.Is(err, fs.ErrPermission):
		return &Error{
			Code:    CodePermission,
			Message: fmt.Sprintf("permission denied at %s: run as root, or join the group doorward", c.path),
			Hint:    "sudo usermod -aG doorward $USER, and log in again",
			Cause:   err,
		}
	case dialing && errors.Is(err, fs.ErrNotExist):
		return &Error{
			Code:    CodeDown,
			Message: fmt.Sprintf("no daemon answers at %s: there is no such socket", c.path),
			Hint:    "systemctl restart doorward (grants and sessions stay), or --control SOCKET if it listens elsewhere",
		}
	case dialing:
		return &Error{
			Code:    CodeDown,
			Message: fmt.Sprintf("no daemon answers at %s: %v", c.path, op.Err),
			Hint:    "systemctl status doorward, or --control SOCKET if it listens elsewhere",
		}
	}
	return c.broken(ctx, err)
}

// over returns the error of a context that ended.
func (c *Client) over(ctx context.Context) error {
	if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return ctx.Err()
	}
	return &Error{
		Code:    CodeTimeout,
		Message: fmt.Sprintf("the daemon at %s did not answer in time", c.path),
		Hint:    "systemctl status doorward",
		Cause:   context.DeadlineExceeded,
	}
}

// broken returns the error for an answer that ends too early or cannot be decoded.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return c.over(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Code: CodeDown, Message: fmt.Sprintf("the daemon at %s closed the connection", c.path), Hint: "systemctl status doorward"}
	}
	return &Error{Code: CodeInternal, Message: fmt.Sprintf("the daemon at %s sent an incomplete answer: %v", c.path, err), Hint: "systemctl status doorward"}
}
