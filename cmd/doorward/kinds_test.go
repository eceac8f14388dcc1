package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/sealed"
	"github.com/doorward/doorward/internal/setup"
	"github.com/doorward/doorward/internal/tables"
	"github.com/doorward/doorward/internal/touch"
)

// mute is a kind of knock of which nothing is known beyond what all kinds answer.
// Touched is one that can be shared, and no more.
type mute struct {
	knock.Kind
	touched bool
}

type muteRule struct{ knock.Rule }

type touchedRule struct {
	knock.Rule
	touches []uint16
}

func (r touchedRule) Touches() []uint16      { return r.touches }
func (touchedRule) Every() (d time.Duration) { return d }

func (k mute) Name() string {
	if k.touched {
		return "fixed"
	}
	return "mute"
}

func (k mute) Read(t *tables.Table) knock.Rule {
	r := k.Kind.Read(t)
	if k.touched {
		return touchedRule{r, r.(touch.Rule).Touch}
	}
	return muteRule{r}
}

// muteText is a configuration with a knock of that kind for each list of ports.
func muteText(kind string, listen ...string) string {
	text := "[door.ssh]\nports = [\"22/tcp\"]\n"
	for _, l := range listen {
		text += "[[door.ssh.knock]]\nkind = \"" + kind + "\"\nlisten = [" + l + "]\ntouch = [" + l[:1] + "]\n"
	}
	return text
}

// withKinds adds kinds of knock until the test ends.
func withKinds(t *testing.T, more ...knock.Kind) {
	before := kinds.All
	kinds.All = append(kinds.All[:len(kinds.All):len(kinds.All)], more...)
	t.Cleanup(func() { kinds.All = before })
}

// What a kind cannot do is reported with the door, the knock and what to do instead.
func TestKindsThatCannot(t *testing.T) {
	withKinds(t, mute{Kind: touch.Kind{}}, mute{touch.Kind{}, true})
	for _, tt := range []struct {
		name, text string
		args       []string
		status     int
		stdout     string
		stderr     string
	}{
		{"share", muteText("mute", "7, 8", "9, 1"), []string{"share"}, 1, "",
			`doorward: error: door "ssh": knocks "mute" and "mute-2" cannot be written down for users: only touches of ports can` +
				"\ndoorward: hint: doorward check FILE says what a visitor does\n"},
		{"rotate", muteText("mute", "7, 8"), []string{"rotate"}, 1, "",
			`doorward: error: door "ssh": knock "mute" cannot be written down for users: only touches of ports can` +
				"\ndoorward: hint: doorward check FILE says what a visitor does\n"},
		{"share a sealed one", "[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"sealed\"\n", []string{"share"}, 1, "",
			`doorward: error: door "ssh": knock "sealed" is not shared: its visitors are invited, and each has a key of their own` +
				"\ndoorward: hint: doorward invite --door ssh --for NAME lets one in; doorward keys revoke NAME keeps one out\n"},
		{"rotate what can be shared", muteText("fixed", "7, 8"), []string{"rotate"}, 1, "",
			`doorward: error: door "ssh": knock "fixed" cannot be redrawn` +
				"\ndoorward: hint: change it in FILE by hand; then doorward apply --confirm 60s, and doorward share\n"},
		{"check", muteText("mute", "7, 8"), []string{"check"}, 0, "\n  wrong      costs nothing\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "doorward.toml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			args := append(tt.args, path)
			if tt.args[0] != "check" {
				args = append(tt.args, "-c", path)
			}
			var stdout, stderr bytes.Buffer
			e := &env{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, getenv: func(string) string { return "" }}
			status := run(t.Context(), e, args)
			got := strings.ReplaceAll(stderr.String(), path, "FILE")
			if status != tt.status || got != tt.stderr || !strings.Contains(stdout.String(), tt.stdout) {
				t.Errorf("status %d, %s\n%s\nwant %d, ...%s\n%s", status, &stdout, got, tt.status, tt.stdout, tt.stderr)
			}
			if now, _ := os.ReadFile(path); string(now) != tt.text {
				t.Errorf("the file has changed:\n%s", now)
			}
		})
	}
}

// Knocks that cannot be shared are not counted among those that can.
func TestWhichKnock(t *testing.T) {
	withKinds(t, mute{Kind: touch.Kind{}}, mute{touch.Kind{}, true})
	text := muteText("mute", "1, 2") + "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [3, 4]\ntouch = [3]\n"
	one, err := config.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	two, err := config.Parse("f", []byte(text+"[[door.ssh.knock]]\nkind = \"mute\"\nlisten = [5, 6]\ntouch = [5]\n"+
		"[[door.ssh.knock]]\nkind = \"fixed\"\nlisten = [7, 8]\ntouch = [8]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c     *config.Config
		n     int
		index int
		err   string
	}{
		{one, 0, 1, ""},
		{one, 1, 1, ""},
		{one, 2, 0, `--knock 2: door "ssh" has 1; allowed are 1 to 1`},
		{two, 0, 0, `--knock is missing: door "ssh" has 2 touch/fixed knocks; allowed are 1 to 2`},
		{two, 1, 1, ""},
		{two, 2, 3, ""},
		{two, -1, 0, `--knock -1: door "ssh" has 2; allowed are 1 to 2`},
	} {
		got := &target{door: &tt.c.Doors[0]}
		switch err := got.choose(tt.n); {
		case tt.err != "":
			if err == nil || err.Error() != tt.err {
				t.Errorf("--knock %d: error %v, want %s", tt.n, err, tt.err)
			}
		case err != nil || got.index != tt.index || got.knock == nil:
			t.Errorf("--knock %d: knock %d, %v; want %d", tt.n, got.index, err, tt.index)
		}
	}
}

// The visitor's way in is described for every kind.
func TestVisitorLine(t *testing.T) {
	withKinds(t, mute{Kind: touch.Kind{}}, mute{touch.Kind{}, true})
	for kind, want := range map[string]string{
		"touch": "doorward knock HOST --touch 7 --wait 22 -- ssh USER@HOST",
		"fixed": "doorward knock HOST --touch 7 --wait 22 -- ssh USER@HOST",
		"mute":  "touch 7 once within 1m, leave 8 alone, and connect",
	} {
		c, err := config.Parse("f", []byte(muteText(kind, "7, 8")))
		if err != nil {
			t.Fatal(err)
		}
		if got := setup.Visitor(&c.Doors[0], ""); got != want {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

// A kind that is listed first, and that can be drafted, is what init writes.
func TestInitAsksTheKind(t *testing.T) {
	before := kinds.All
	t.Cleanup(func() { kinds.All = before })
	kinds.All = []knock.Kind{named{}, sealed.Kind{}}
	status, text, errs := runInit(machineOf(), "", "-o", "-", "--colour", "red")
	if status != 0 || !strings.HasSuffix(text, "kind = \"named\"\n# red\nlisten = [7]\ntouch = [7]\n") {
		t.Errorf("status %d, %s\n%s", status, errs, text)
	}
	if help := newInitWith(&env{}, machineOf()).Long; !strings.Contains(help, "named: of a colour.\na green one.\n") {
		t.Errorf("the help does not say what is proposed:\n%s", help)
	}
	status, text, errs = runInit(machineOf(), "\n\n\n\n\nblue\n", "-o", "-", "--colour", "red", "--ask")
	if status != 0 || !strings.Contains(errs, "Which colour [red]: ") || !strings.Contains(text, "# blue\n") {
		t.Errorf("status %d, %s\n%s\nwant the colour asked for, and blue", status, errs, text)
	}
}

// named has one choice, its colour.
type named struct{ touch.Kind }

func (named) Name() string { return "named" }

func (named) Brief() string { return "of a colour" }

func (named) Proposal() string { return "a green one." }

func (named) Choices() []knock.Choice {
	return []knock.Choice{{Name: "colour", Usage: "its `COLOUR`", Default: "green", Question: "Which colour"}}
}

func (named) Draft(chosen map[string][]string, _ knock.Lots) (string, error) {
	return "# " + strings.Join(chosen["colour"], " ") + "\nlisten = [7]\ntouch = [7]\n", nil
}
