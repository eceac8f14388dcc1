//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/visit"
)

// schemaOf is a schema as docs/api has it.
func schemaOf(t *testing.T, name string) *jsonschema.Resolved {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(schemaDir, name+".schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

// TestWhatIsPrintedFollowsItsSchema runs each command that has --json, as scripts do.
func TestWhatIsPrintedFollowsItsSchema(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, open, _ := net.SplitHostPort(listener.Addr().String())
	for _, tt := range []struct{ args, object string }{
		{"status --json", "status"},
		{"status ssh --json", "status"},
		{"log --json", "record"},
		{"log --verify --json", "verification"},
		{"open ssh --source 192.0.2.7 --json", "reply"},
		{"close ssh --json", "reply"},
		{"close ssh --source 192.0.2.7 --json", "reply"},
		{"arm --json", "reply"},
		{"apply --json", "reply"},
		{"check wrong.toml --json", "check"},
		{"check right.toml --json", "check"},
		{"doctor -c wrong.toml --json", "doctor"},
		{"explain 192.0.2.7 --json", "explanation"},
		{"diff --json", "diff"},
		{"init --output new.toml --door vpn --ports 51820/udp --json", "init"},
		{"polkit right.toml --json", "polkit"},
		{"keys identity ./new.key --json", "keys-identity"},
		{"knock 127.0.0.1 --touch " + open + " --json", "knock"},
		{"knock 127.0.0.1 --touch " + open + " --wait 1 --timeout 1ms --json", "knock"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			b := controltest.New(whole())
			b.Append(wholeTrail()...)
			b.OnDiff(control.Diff{Config: "doorward.toml", Changes: []control.KeyChange{{Key: "door.ssh.open_for"}}}, nil)
			b.OnExplain(func(netip.Addr, string) (control.Explanation, error) { return explanation(), nil })
			b.OnDo(func(context.Context, controltest.Given) (control.Reply, error) {
				return control.Reply{Message: "done", Until: after(time.Minute),
					Covered: []control.Cover{{Source: "192.0.2.0/24", By: "always"}}, Pending: 3}, nil
			})
			path, _ := controltest.Serve(t, b)
			schema := schemaOf(t, tt.object)
			t.Chdir(t.TempDir())
			for name, text := range map[string]string{"wrong.toml": "[door.ssh]\n", "right.toml": vpnText} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, stdout, stderr := operate(t, nil, append([]string{"--control", path}, strings.Fields(tt.args)...)...)
			printed := json.NewDecoder(strings.NewReader(stdout))
			n := 0
			for ; printed.More(); n++ {
				var v any
				if err := printed.Decode(&v); err != nil {
					t.Fatalf("%v: %s%s", err, stdout, stderr)
				}
				if err := schema.Validate(v); err != nil {
					t.Errorf("%v\n%s", err, stdout)
				}
			}
			if n == 0 {
				t.Errorf("nothing is printed; stderr: %s", stderr)
			}
		})
	}
}

// A try that came to nothing before it touched anything has no touches, and not null.
func TestKnockWithoutTouches(t *testing.T) {
	var out bytes.Buffer
	if err := printKnock(&out, &knockOptions{host: "gw"}, []visit.Attempt{{Err: context.Canceled}}, nil); err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	if err := schemaOf(t, "knock").Validate(v); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// whole is a snapshot with something in every list.
func whole() control.Status {
	s := guarded()
	s.Pending = &control.Pending{ID: 3, Until: noon, By: "operator alice (uid 1000)"}
	s.Settled = &control.Settled{ID: 2, Time: noon, Kept: true}
	s.Problems = []control.Problem{{Code: control.ProblemFailsafe, Door: "admin", Message: "door admin is in failsafe"}}
	grant := &audit.Grant{Source: "192.0.2.7", By: "touch", Since: noon}
	top := control.GuessesOf{Refused: 2, Top: []control.GuessesFrom{{Prefix: "203.0.113.0/24", Refused: 2}}}
	for i := range s.Doors {
		d := &s.Doors[i]
		d.Always = []string{"192.0.2.0/24"}
		d.Live = []control.Session{
			{Source: "192.0.2.7", Port: 50000, To: "22/tcp", Since: after(0), User: "alice", Grant: grant},
			{Source: "192.0.2.8", Port: 50001, To: "22/tcp"},
		}
		d.Guesses = control.Guesses{Hour: top, Day: top}
	}
	return s
}

// wholeTrail has a record of every form.
func wholeTrail() []audit.Record {
	login := uint32(1000)
	by := &audit.Operator{UID: 0, LoginUID: &login, PID: 77, SudoUser: "alice"}
	return []audit.Record{
		{ID: 1, Time: noon, Event: audit.EventStarted, Reason: "version 1 guards 1 door", Hash: "00"},
		{ID: 2, Time: noon, Door: "ssh", Event: audit.EventGranted, Source: "192.0.2.7", By: "operator root (uid 0)", Until: after(time.Minute), Operator: by},
		{ID: 3, Time: noon, Door: "ssh", Event: audit.EventRefused, Source: "192.0.2.0/24", Count: 12},
		{ID: 4, Time: noon, Door: "ssh", Event: audit.EventLogin, Source: "192.0.2.7", Login: &audit.Login{User: "alice", Port: 50000, Method: "publickey"}},
		{ID: 5, Time: noon, Event: audit.EventApplied, By: "SIGHUP", Config: &audit.Config{Before: "00", After: "01", Changed: []string{"door.ssh.open_for"}}},
	}
}

// TestErrorsFollowTheirSchema: what the socket answers to what it cannot carry out.
func TestErrorsFollowTheirSchema(t *testing.T) {
	schema := schemaOf(t, "error")
	path, _ := controltest.Serve(t, controltest.New(whole()))
	socket := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	for _, tt := range [][2]string{{"GET", "/v1/none"}, {"DELETE", "/v1/status"}, {"POST", "/v1/open"}, {"GET", "/v1/log?limit=x"}} {
		request, err := http.NewRequestWithContext(t.Context(), tt[0], "http://x"+tt[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := socket.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var v any
		if err := json.NewDecoder(answer.Body).Decode(&v); err != nil || answer.StatusCode < 400 {
			t.Fatalf("%s: %s, %v", tt, answer.Status, err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v\n%v", tt, err, v)
		}
	}
}
