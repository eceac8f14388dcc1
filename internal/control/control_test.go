package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/door"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("DOORWARD_TEST_OPEN"); path != "" {
		os.Exit(openAs(path))
	}
	goleak.VerifyTestMain(m)
}

var start = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)

// sample is a snapshot with a value in nearly every field.
func sample() control.Status {
	until, seen := start.Add(time.Minute), start.Add(-time.Second)
	return control.Status{
		API: 1, Time: start, Version: "0.1.0", Started: start.Add(-time.Hour), Config: "/etc/doorward/doorward.toml",
		Warnings: []string{"door \"ssh\": no log data"},
		Pending:  &control.Pending{Until: until, By: "operator alice (uid 1000)"},
		Settled:  &control.Settled{Time: start, By: "", Kept: false},
		Problems: []control.Problem{{Code: control.ProblemFailsafe, Door: "vpn", Message: "door vpn is in failsafe"}},
		Fence:    control.Fence{Up: true, Owned: true, Repairs: 3},
		Events:   map[string]uint64{audit.EventGranted: 7, audit.EventRefused: 2},
		Doors: []control.Door{
			{
				Name: "ssh", State: "open", Since: start, Reason: "knock", Ports: []string{"22/tcp"},
				Service: "ssh.service", Running: true, LastSeen: &seen, DarkAt: &until, Sessions: 2, PacketsRefused: 41,
				Grants:    []control.Grant{{Source: "192.0.2.7", Expires: until, For: []string{"touch"}}},
				Penalties: []control.Penalty{{Source: "192.0.2.9", Until: until, Reason: "port 59001"}},
				Refusals:  []audit.Record{{ID: 5, Time: seen, Door: "ssh", Event: audit.EventRefused, Source: "192.0.2.9"}},
			},
			{
				Name: "vpn", State: "failsafe", Since: start, Ports: []string{"51820/udp"},
				Grants: []control.Grant{}, Penalties: []control.Penalty{}, Refusals: []audit.Record{},
			},
		},
	}
}

// me returns the name that this process's orders are given by.
func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("operator %s (uid %s)", u.Username, u.Uid)
	text, _ := os.ReadFile("/proc/self/loginuid")
	if l, err := user.LookupId(string(text)); err == nil && l.Uid != u.Uid {
		name += fmt.Sprintf(", logged in as %s (uid %s)", l.Username, l.Uid)
	}
	return name
}

func TestStatus(t *testing.T) {
	path, _ := controltest.Serve(t, controltest.New(sample()))
	got, err := control.NewClient(path).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(), got); d != "" {
		t.Errorf("Status (-want +got):\n%s", d)
	}
}

// TestOrders sends each order and checks that it reaches the backend in canonical form,
// as an order of this user.
func TestOrders(t *testing.T) {
	b := controltest.New(sample())
	until := start.Add(time.Hour)
	want := control.Reply{Message: "as ordered", Until: &until, Door: "ssh", State: "open", Changed: true}
	b.OnDo(func(context.Context, controltest.Given) (control.Reply, error) { return want, nil })
	path, _ := controltest.Serve(t, b)
	c, ctx := control.NewClient(path), t.Context()
	for _, tt := range []struct {
		send  func() (control.Reply, error)
		order any
	}{
		{
			func() (control.Reply, error) {
				return c.Open(ctx, control.OpenRequest{Door: "ssh", Source: "::ffff:192.0.2.7", For: "10m"})
			},
			control.Open{Door: "ssh", Source: netip.MustParsePrefix("192.0.2.7/32"), For: 10 * time.Minute},
		},
		{
			func() (control.Reply, error) {
				return c.Open(ctx, control.OpenRequest{Door: "ssh", Source: "2001:0DB8::/64", Wait: "30s"})
			},
			control.Open{Door: "ssh", Source: netip.MustParsePrefix("2001:db8::/64"), Wait: 30 * time.Second},
		},
		{
			func() (control.Reply, error) {
				return c.Close(ctx, control.CloseRequest{Door: "ssh", Source: "192.0.2.7/32"})
			},
			control.Close{Door: "ssh", Source: netip.MustParsePrefix("192.0.2.7/32")},
		},
		{
			func() (control.Reply, error) { return c.Close(ctx, control.CloseRequest{Door: "ssh"}) },
			control.Close{Door: "ssh"},
		},
		{
			func() (control.Reply, error) { return c.Arm(ctx, control.ArmRequest{Source: "any"}) },
			control.Arm{Source: door.Any},
		},
		{
			func() (control.Reply, error) {
				return c.Apply(ctx, control.ApplyRequest{Action: "apply", Confirm: "60s"})
			},
			control.ApplyRequest{Action: "apply", Confirm: "60s"},
		},
		{
			func() (control.Reply, error) { return c.Apply(ctx, control.ApplyRequest{Action: "undo"}) },
			control.ApplyRequest{Action: "undo"},
		},
		{
			func() (control.Reply, error) { return c.Kind(ctx, "sealed", "lock", map[string]string{"key": "alice"}) },
			control.KindRequest{Kind: "sealed", What: "lock", Args: json.RawMessage(`{"key":"alice"}`)},
		},
		{
			func() (control.Reply, error) { return c.Kind(ctx, "sealed", "list", nil) },
			control.KindRequest{Kind: "sealed", What: "list", Args: json.RawMessage(`{}`)},
		},
	} {
		got, err := tt.send()
		if err != nil {
			t.Errorf("%+v: %v", tt.order, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%+v: reply (-want +got):\n%s", tt.order, d)
		}
		given := b.Given()
		last := given[len(given)-1]
		if d := cmp.Diff(controltest.Given{By: me(t), Operator: last.Operator, Order: tt.order}, last, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("given to the backend (-want +got):\n%s", d)
		}
	}
}

// TestBackendErrors checks that the backend's errors reach the operator, hints included.
func TestBackendErrors(t *testing.T) {
	b := controltest.New(sample())
	path, _ := controltest.Serve(t, b)
	c := control.NewClient(path)
	for _, tt := range []struct{ give, want error }{
		{
			fmt.Errorf("open: %w", &control.Error{Message: "door \"x\" is not known", Hint: "doorward status"}),
			&control.Error{Code: control.CodeRefused, Message: "door \"x\" is not known", Hint: "doorward status"},
		},
		{
			&control.Error{Code: control.CodeNoDoor, Message: "there is no door \"x\""},
			&control.Error{Code: control.CodeNoDoor, Message: "there is no door \"x\""},
		},
		{errors.New("the store is full"), &control.Error{Code: control.CodeInternal, Message: "the store is full"}},
	} {
		b.OnDo(func(context.Context, controltest.Given) (control.Reply, error) { return control.Reply{}, tt.give })
		_, err := c.Arm(t.Context(), control.ArmRequest{})
		if d := cmp.Diff(tt.want, err); d != "" {
			t.Errorf("error (-want +got):\n%s", d)
		}
	}
	b.FailLog(errors.New("disk gone"))
	err := c.Log(t.Context(), control.LogQuery{}, func(audit.Record) error { return nil })
	if d := cmp.Diff(error(&control.Error{Code: control.CodeInternal, Message: "read the audit trail: disk gone"}), err); d != "" {
		t.Errorf("Log's error (-want +got):\n%s", d)
	}
}

// raw sends a request that a Client would not send.
func raw(t *testing.T, path, method, target, body string) (int, string) {
	t.Helper()
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", path)
		},
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestRefusals sends what must not reach the backend.
func TestRefusals(t *testing.T) {
	const aSource = "allowed are an address (192.0.2.7), a prefix (2001:db8::/64) and \"any\""
	const aTime = "allowed is a duration from \"1s\" to \"720h\", such as \"30s\", \"10m\" or \"8h\""
	const aWait = "allowed is a duration from \"1s\" to \"3h\", such as \"30s\", \"10m\" or \"8h\""
	const aConfirm = "allowed is a duration from \"1s\" to \"24h\", such as \"30s\", \"10m\" or \"8h\""
	const aDoor = "allowed are 1 to 24 characters of a-z, 0-9, - and _, a letter first"
	b := controltest.New(sample())
	path, _ := controltest.Serve(t, b)
	for _, tt := range []struct {
		method, target, body string
		code                 int
		want                 string
	}{
		{"GET", "/", "", 404, `path "/" is not known: allowed are /v1/apply, /v1/arm, /v1/close, /v1/diff, /v1/explain, /v1/log, /v1/open, /v1/status, /v1/kinds/KIND/ORDER`},
		{"POST", "/v1/status", "", 405, `method "POST" on /v1/status: allowed is GET`},
		{"GET", "/v1/open", "", 405, `method "GET" on /v1/open: allowed is POST`},
		{"GET", "/v1/status?wacht=1", "", 400, `query parameter "wacht" is not known: allowed are watch`},
		{"GET", "/v1/status?watch=1&watch=0", "", 400, `query parameter "watch" is given 2 times: allowed is once`},
		{"GET", "/v1/status?watch=yes", "", 400, `watch "yes": allowed are 0 and 1`},
		{"GET", "/v1/log?limit=-1", "", 400, `limit "-1": allowed are 1 to 10000, and 0 for 100`},
		{"GET", "/v1/log?limit=10001", "", 400, `limit "10001": allowed are 1 to 10000, and 0 for 100`},
		{"GET", "/v1/log?after=x", "", 400, `after "x": allowed is the id of a record`},
		{"GET", "/v1/log?door=SSH", "", 400, `door "SSH": ` + aDoor},
		{"GET", "/v1/log?source=here", "", 400, `source "here": ` + aSource},
		{"GET", "/v1/log?source=%zz", "", 400, `query "source=%zz": invalid URL escape "%zz"`},
		{"POST", "/v1/open", ``, 400, `the body is not one JSON object as expected: EOF`},
		{"POST", "/v1/open", `[]`, 400, `the body is not one JSON object as expected: json: cannot unmarshal array into Go value of type control.OpenRequest`},
		{"POST", "/v1/open", `{"dor":"ssh"}`, 400, `the body is not one JSON object as expected: json: unknown field "dor"`},
		{"POST", "/v1/arm", `{}{}`, 400, `the body is not one JSON object as expected: there is more after the object`},
		{"POST", "/v1/open", `{"source":"any"}`, 400, `door is missing: its name is needed`},
		{"POST", "/v1/open", `{"door":"../x","source":"any"}`, 400, `door "../x": ` + aDoor},
		{"POST", "/v1/open", `{"door":"ssh"}`, 400, `source is missing: an address, a prefix or "any" is needed`},
		{"POST", "/v1/open", `{"door":"ssh","source":"host"}`, 400, `source "host": ` + aSource},
		{"POST", "/v1/open", `{"door":"ssh","source":"0.0.0.0"}`, 400, `source "0.0.0.0": ` + aSource},
		{"POST", "/v1/open", `{"door":"ssh","source":"ff02::1"}`, 400, `source "ff02::1": ` + aSource},
		{"POST", "/v1/open", `{"door":"ssh","source":"fe80::1%eth0"}`, 400, `source "fe80::1%eth0": zones are not supported: leave out "%eth0"`},
		{"POST", "/v1/open", `{"door":"ssh","source":"::/0"}`, 400, `source "::/0" is everybody: write "any" if that is meant`},
		{"POST", "/v1/open", `{"door":"ssh","source":"::ffff:192.0.2.0/120"}`, 400, `source "::ffff:192.0.2.0/120": write the IPv4 prefix itself`},
		{"POST", "/v1/open", `{"door":"ssh","source":"any","for":"10"}`, 400, `for "10": ` + aTime},
		{"POST", "/v1/open", `{"door":"ssh","source":"any","for":"-1s"}`, 400, `for "-1s": ` + aTime},
		{"POST", "/v1/open", `{"door":"ssh","source":"any","for":"721h"}`, 400, `for "721h": ` + aTime},
		{"POST", "/v1/open", `{"door":"ssh","source":"any","wait":"4h"}`, 400, `wait "4h": ` + aWait},
		{"POST", "/v1/open", `{"door":"ssh","source":"192.0.2.7/24"}`, 400,
			`source "192.0.2.7/24": host bits are set after the first 24: write "192.0.2.7" for the one address, or "192.0.2.0/24" for the whole prefix`},
		{"POST", "/v1/close", `{"door":"ssh","source":"2001:db8::1/64"}`, 400,
			`source "2001:db8::1/64": host bits are set after the first 64: write "2001:db8::1" for the one address, or "2001:db8::/64" for the whole prefix`},
		{"POST", "/v1/close", `{}`, 400, `door is missing: its name is needed`},
		{"POST", "/v1/close", `{"door":""}`, 400, `door is "": give a value, or leave the key out`},
		{"POST", "/v1/close", `{"door":"ssh","source":""}`, 400, `source is "": give a value, or leave the key out`},
		{"POST", "/v1/close", `{"door":"ssh","source":null}`, 400, `source is null: give a value, or leave the key out`},
		{"POST", "/v1/close", `{"door":"ssh","source":"192.0.2.7","SOURCE":""}`, 400, `SOURCE is "": give a value, or leave the key out`},
		{"POST", "/v1/arm", `{"door":"","source":"192.0.2.7"}`, 400, `door is "": give a value, or leave the key out`},
		{"POST", "/v1/arm", `null`, 400, `the body is not one JSON object as expected`},
		{"POST", "/v1/apply", `{"action":"apply","confirm":""}`, 400, `confirm is "": give a value, or leave the key out`},
		{"POST", "/v1/arm", `{"source":"x"}`, 400, `source "x": ` + aSource},
		{"POST", "/v1/apply", `{"action":"go"}`, 400, `action "go": allowed are "apply", "keep" and "undo"`},
		{"POST", "/v1/apply", `{"action":"keep","confirm":"1s"}`, 400, `confirm "1s" goes with action "apply" only, not with "keep"`},
		{"POST", "/v1/apply", `{"action":"apply","confirm":"0s"}`, 400, `confirm "0s": ` + aConfirm},
		{"POST", "/v1/apply", `{"action":"undo","force":true}`, 400, `force goes with action "apply" only, not with "undo"`},
		{"POST", "/v1/apply", `{"action":"apply","id":7}`, 400, `id 7 goes with actions "keep" and "undo" only, not with "apply"`},
		{"POST", "/v1/kinds/sealed/lock", `[]`, 400, `the arguments of order "lock" to the sealed knock are not one JSON object`},
		{"POST", "/v1/kinds/sealed/lock", `{"key":""}`, 400, `key is "": give a value, or leave the key out`},
		{"POST", "/v1/kinds/sealed/Lock", `{}`, 400, `order "Lock": allowed are 1 to 24 characters of a-z, 0-9, - and _, a letter first`},
		{"POST", "/v1/kinds//lock", `{}`, 400, `kind "": allowed are 1 to 24 characters of a-z, 0-9, - and _, a letter first`},
		{"GET", "/v1/kinds/sealed/lock", ``, 405, `method "GET" on /v1/kinds/sealed/lock: allowed is POST`},
		{"POST", "/v1/kinds/sealed/lock", `{"key":"` + strings.Repeat("x", 70_000) + `"}`, 413, `the body is larger than 65536 bytes`},
		{"POST", "/v1/diff", `{}`, 405, `method "POST" on /v1/diff: allowed is GET`},
		{"POST", "/v1/open", `{"door":"` + strings.Repeat("x", 70_000) + `"}`, 413, `the body is larger than 65536 bytes`},
	} {
		code, body := raw(t, path, tt.method, tt.target, tt.body)
		var got control.Error
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Errorf("%s %s: the answer %q is not JSON: %v", tt.method, tt.target, body, err)
		}
		if got.Code != control.CodeUsage {
			t.Errorf("%s %s %.60s: code %q, want %q", tt.method, tt.target, tt.body, got.Code, control.CodeUsage)
		}
		if code != tt.code || got.Message != tt.want {
			t.Errorf("%s %s %.60s: got %d %q, want %d %q", tt.method, tt.target, tt.body, code, got.Message, tt.code, tt.want)
		}
	}
	if given := b.Given(); len(given) > 0 {
		t.Errorf("reached the backend: %+v", given)
	}
}

func TestLog(t *testing.T) {
	b := controltest.New(sample())
	records := []audit.Record{
		{ID: 1, Time: start, Event: audit.EventStarted},
		{ID: 2, Time: start, Door: "ssh", Event: audit.EventRefused, Source: "192.0.2.9", Reason: "port 59001"},
		{ID: 3, Time: start, Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.7", By: "touch"},
	}
	b.Append(records...)
	path, _ := controltest.Serve(t, b)
	for _, tt := range []struct {
		query control.LogQuery
		asked control.LogQuery
		want  []audit.Record
	}{
		{control.LogQuery{}, control.LogQuery{Limit: 100}, records},
		{control.LogQuery{Limit: 1}, control.LogQuery{Limit: 1}, records[2:]},
		{control.LogQuery{After: 1, Door: "ssh"}, control.LogQuery{After: 1, Oldest: true, Door: "ssh", Limit: 100}, records[1:]},
		{control.LogQuery{Source: "::ffff:192.0.2.9"}, control.LogQuery{Source: "192.0.2.9", Limit: 100}, records[1:2]},
		{control.LogQuery{After: 3}, control.LogQuery{After: 3, Oldest: true, Limit: 100}, nil},
	} {
		var got []audit.Record
		err := control.NewClient(path).Log(t.Context(), tt.query, func(r audit.Record) error {
			got = append(got, r)
			return nil
		})
		if err != nil {
			t.Errorf("%+v: %v", tt.query, err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.query, d)
		}
		queries := b.Queries()
		if d := cmp.Diff(tt.asked, queries[len(queries)-1]); d != "" {
			t.Errorf("asked of the backend (-want +got):\n%s", d)
		}
	}
}

var errEnough = errors.New("enough")

// ended returns the error of a stream's client when the daemon ends.
func ended(path string) error {
	return &control.Error{
		Code:    control.CodeDown,
		Message: "the daemon at " + path + " closed the connection",
		Hint:    "systemctl status doorward",
	}
}

// TestWatch checks that a watch sees every change, and the three ways in which it ends.
func TestWatch(t *testing.T) {
	b := controltest.New(sample())
	path, stop := controltest.Serve(t, b)
	c := control.NewClient(path)
	var seen []uint64
	err := c.Watch(t.Context(), func(s control.Status) error {
		seen = append(seen, s.Fence.Repairs)
		if len(seen) == 3 {
			return errEnough
		}
		b.Change(func(s *control.Status) { s.Fence.Repairs++ })
		return nil
	})
	if d := cmp.Diff([]uint64{3, 4, 5}, seen); err != errEnough || d != "" {
		t.Errorf("Watch: %v (-want +got):\n%s", err, d)
	}

	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Watch(ctx, func(control.Status) error { cancel(); return nil }); err != context.Canceled {
		t.Errorf("Watch after its context: got %v, want %v", err, context.Canceled)
	}

	err = c.Watch(t.Context(), func(control.Status) error { stop(); return nil })
	if d := cmp.Diff(ended(path), err); d != "" {
		t.Errorf("Watch when the server stops (-want +got):\n%s", d)
	}
}

// TestFollow checks that a follow sees the records before and after its start, each
// once, and ends with the server.
func TestFollow(t *testing.T) {
	b := controltest.New(sample())
	b.Append(audit.Record{ID: 1}, audit.Record{ID: 2}, audit.Record{ID: 3})
	path, stop := controltest.Serve(t, b)
	var seen []uint64
	err := control.NewClient(path).Log(t.Context(), control.LogQuery{Follow: true, Limit: 2}, func(r audit.Record) error {
		seen = append(seen, r.ID)
		switch r.ID {
		case 3:
			b.Append(audit.Record{ID: 4}, audit.Record{ID: 5}, audit.Record{ID: 6})
		case 6:
			b.Change(func(*control.Status) {}) // a snapshot without a record
			b.Append(audit.Record{ID: 7})
		case 7:
			stop()
		}
		return nil
	})
	if d := cmp.Diff([]uint64{2, 3, 4, 5, 6, 7}, seen); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
	if d := cmp.Diff(ended(path), err); d != "" {
		t.Errorf("error (-want +got):\n%s", d)
	}
}

// TestStopWaitsForOrders stops the server while an order is in progress.
func TestStopWaitsForOrders(t *testing.T) {
	b := controltest.New(sample())
	begun := make(chan struct{})
	release := make(chan struct{})
	b.OnDo(func(ctx context.Context, _ controltest.Given) (control.Reply, error) {
		close(begun)
		<-release
		return control.Reply{Message: "opened"}, ctx.Err()
	})
	path, stop := controltest.Serve(t, b)
	go func() {
		<-begun
		close(release)
		stop()
	}()
	r, err := control.NewClient(path).Open(t.Context(), control.OpenRequest{Door: "ssh", Source: "any"})
	if err != nil || r.Message != "opened" {
		t.Errorf("an order under way: got %+v, %v, want it done", r, err)
	}
	stop()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the stop: %v, want it gone", err)
	}
}

func TestServeReportsABrokenListener(t *testing.T) {
	l, err := control.Listen(t.TempDir()+"/s", "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = control.NewServer(controltest.New(sample()), discard).Serve(t.Context(), l)
	if err == nil || !strings.HasPrefix(err.Error(), "serve the control socket ") {
		t.Errorf("got %v, want an error that names the socket", err)
	}
}

func TestMetrics(t *testing.T) {
	h := control.Metrics(controltest.New(sample()))
	got := fetch(t, h, "/metrics", 200)
	var ours []string
	for line := range strings.Lines(got) {
		if strings.Contains(line, "doorward_") && !strings.Contains(line, "_bucket{") {
			ours = append(ours, strings.Replace(line, runtime.Version(), "GO", 1))
		}
	}
	golden(t, "testdata/metrics.txt", strings.Join(ours, ""))
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if !strings.Contains(got, "\n"+name+" ") {
			t.Errorf("/metrics has no %s", name)
		}
	}
}

func TestHealth(t *testing.T) {
	b := controltest.New(sample())
	h := control.Metrics(b)
	for _, tt := range []struct {
		problems []control.Problem
		code     int
		want     string
	}{
		{nil, 200, "ok\n"},
		{[]control.Problem{{Code: control.ProblemFailsafe, Door: "vpn", Message: "no log data in /var/log/secret"}}, 503,
			"failsafe: door vpn: it is dark and ignores knocks, since there is no log data\n"},
		{[]control.Problem{
			{Code: control.ProblemFence, Message: "the set of 192.0.2.7 is gone"},
			{Code: control.ProblemService, Door: "ssh", Message: "exit status 255"},
			{Code: control.ProblemListeners, Door: "ssh", Message: "port 59000 is taken"},
			{Code: control.ProblemStore, Message: "no space left on device"},
			{Code: control.ProblemEnding},
			{Code: "of tomorrow", Door: "ssh", Message: "port 59000"},
		}, 503, `fence_down: the doors are not guarded
service_failed: door ssh: its service could not be started, so right knocks do not open it
knocks_unheard: door ssh: no knock can be heard
nothing_saved: nothing can be saved: a restart would forget what happens now
ending: the daemon is shutting down
of tomorrow: door ssh: doorward status says why
`},
	} {
		b.Change(func(s *control.Status) { s.Problems = tt.problems })
		if d := cmp.Diff(tt.want, fetch(t, h, "/healthz", tt.code)); d != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.problems, d)
		}
	}
}

// golden compares got with a file of testdata; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(bytes.TrimSpace(want)), strings.TrimSpace(got)); d != "" {
		t.Errorf("%s (-want +got; UPDATE_GOLDEN=1 writes it):\n%s", name, d)
	}
}

// uidOf returns a uid as a number.
func uidOf(t *testing.T, s string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}
