package rules

import (
	"go/ast"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// arrows are the imports inside the module that architecture allows, with the
// reason for each. Data goes one way, so the arrows do not turn round: what is
// not here is a mistake of design, or a change of it that is written here and
// in docs/ARCHITECTURE.md. Tests may import more.
var arrows = map[string]map[string]string{
	"internal/port":     {},
	"internal/audit":    {},
	"internal/files":    {},
	"internal/legible":  {},
	"internal/priority": {},
	"internal/version":  {},
	"internal/tables":   {"internal/port": "ports in their checked form"},
	"internal/config": {"internal/port": "ports in their checked form", "internal/files": "the file is root's alone to write",
		"internal/tables": "reads the file", "internal/knock": "rules of knocks", "internal/kinds": "which knocks there are"},

	// Pure cores: see TestPure. The kinds of knock are more of them: see kindOfKnock.
	"internal/door":  {"internal/audit": "a decision's record"},
	"internal/knock": {"internal/port": "where a knock is heard", "internal/tables": "where a rule is read from"},
	"internal/kinds": {"internal/knock": "what it is a list of"},

	// Who may knock with a key.
	"internal/credential": {"internal/legible": "names and comments are strangers'"},

	// The sealed knock, both sides of it.
	"internal/seal":    {},
	"internal/profile": {"internal/seal": "a gateway as its visitors know it", "internal/files": "reads what nobody else may have written"},
	"internal/signer": {"internal/credential": "what is signed", "internal/profile": "with what to sign",
		"internal/seal": "what is proven", "internal/files": "reads keys"},
	"internal/client": {"internal/seal": "the protocol", "internal/profile": "which gateway", "internal/credential": "why it refuses",
		"internal/visit": "waits"},
	"internal/client/clienttest": {"internal/seal": "the gateway's side", "internal/profile": "which gateway",
		"internal/credential": "who may knock"},

	// How many files each may have open.
	"internal/descriptors": {},

	// Leaves: each knows one part of the machine and no other leaf.
	"internal/nfnetlink": {},
	"internal/conntrack": {"internal/nfnetlink": "asks netfilter"},
	"internal/sockdiag":  {"internal/port": "whose sockets are listed"},
	"internal/listen": {"internal/descriptors": "its share of files", "internal/port": "what is listened on",
		"internal/sockdiag": "who has a port already", "internal/knock": "what is heard",
		"internal/priority": "its threads come before others"},
	"internal/datagrams": {"internal/descriptors": "its share of files", "internal/knock": "what is heard, and by whom opened", "internal/port": "who has a port already",
		"internal/sockdiag": "who has a port already"},
	"internal/nftables": {"internal/nfnetlink": "asks netfilter"},
	"internal/fence": {"internal/port": "what is guarded", "internal/conntrack": "ends flows",
		"internal/nftables": "writes and reads the table", "internal/nfnetlink": "whether a connection broke"},
	"internal/presence": {"internal/port": "whose connections count", "internal/conntrack": "sees flows",
		"internal/nfnetlink": "whether a connection broke", "internal/sockdiag": "sees sockets",
		"internal/legible": "no name of sshd's has what does not print"},
	"internal/service": {},
	"internal/store": {"internal/audit": "the audit trail's records",
		"internal/door": "the source that stands for everybody"},

	"internal/control": {
		"internal/version":     "the metrics name the build",
		"internal/legible":     "what a client says of itself",
		"internal/descriptors": "its share of files",
		"internal/audit":       "the audit trail's records are part of the answers",
		"internal/config":      "what a door may be called, and for how long a grant may last",
		"internal/door":        "who somebody is",
		"internal/tables":      "writes durations as the configuration's mistakes do",
	},
	"internal/control/controltest": {
		"internal/control": "a daemon for the tests of commands",
		"internal/audit":   "its records",
	},
	"internal/gateway": {
		"internal/port":      "plain types",
		"internal/audit":     "every decision leaves a record",
		"internal/config":    "what the operator wants",
		"internal/control":   "the snapshot's types",
		"internal/door":      "decides",
		"internal/knock":     "recognises",
		"internal/kinds":     "which knocks have something in common",
		"internal/files":     "knocks' files are root's alone to write",
		"internal/tables":    "mistakes that only this machine makes one",
		"internal/listen":    "brings what was heard",
		"internal/datagrams": "brings what was heard",
		"internal/fence":     "makes grants take effect",
		"internal/service":   "starts and stops",
		"internal/presence":  "says who is in",
		"internal/priority":  "its loop comes before other threads",
		"internal/sockdiag":  "says whether a service listens",
		"internal/store":     "keeps what must survive",
	},
	"internal/journal": {"internal/legible": "entries have strangers' text"},
	"internal/export": {"internal/audit": "what is sent", "internal/legible": "records have strangers' text",
		"internal/journal": "entries with fields"},
	"internal/launcher":         {"internal/service": "carries start and stop of commands out"},
	"internal/sandbox":          {"internal/priority": "the one that a thread may take"},
	"internal/sandbox/intruder": {"internal/sandbox": "what it tries to get out of"},
	"internal/removal": {
		"internal/config":   "which doors there are",
		"internal/fence":    "guards what stays closed",
		"internal/port":     "plain types",
		"internal/service":  "starts what is to run",
		"internal/sockdiag": "whether a service runs that is not a unit",
		"internal/store":    "whether a service ran before",
	},
	"internal/daemon": {
		"internal/descriptors": "warns of a low limit",
		"internal/export":      "sends the records on",
		"internal/sandbox":     "locks itself in after the start",
		"internal/datagrams":   "the listener on UDP",
		"internal/journal":     "a log with fields",
		"internal/legible":     "a log that can be read in a terminal",
		"internal/port":        "plain types",
		"internal/knock":       "what a listener hears, and what a knock needs",
		"internal/kinds":       "which knocks go by files that change",
		"internal/audit":       "answers to the log command",
		"internal/config":      "reads the file, again at each reload",
		"internal/control":     "serves the socket",
		"internal/gateway":     "runs it",
		"internal/launcher":    "runs commands from outside the sandbox",
		"internal/fence":       "makes the one that the gateway is given",
		"internal/listen":      "makes those that the gateway is given",
		"internal/presence":    "makes those that the gateway is given",
		"internal/store":       "opens the one that the gateway is given",
	},
	"cmd/doorwardd": {
		"internal/config":  "--check",
		"internal/daemon":  "runs it",
		"internal/fence":   "--cleanup",
		"internal/removal": "--retire",
		"internal/version": "--version",
	},
	"cmd/doorward": {
		"internal/port":       "plain types",
		"internal/audit":      "log prints records",
		"internal/config":     "check and init read and write files",
		"internal/tables":     "check shows mistakes",
		"internal/knock":      "what a knock can",
		"internal/control":    "the way to the daemon",
		"internal/output":     "prints",
		"internal/view":       "what people read of the daemon's answers",
		"internal/when":       "times on the command line",
		"internal/version":    "version",
		"internal/visit":      "knocks",
		"internal/turns":      "one knock at a time",
		"internal/relay":      "joins connections",
		"internal/sshconfig":  "what makes ssh knock",
		"internal/socks":      "what the proxy is asked",
		"internal/share":      "share and rotate",
		"internal/client":     "the sealed knock",
		"internal/signer":     "who the visitor is",
		"internal/profile":    "at which gateway",
		"internal/seal":       "what is asked and answered",
		"internal/sealed":     "orders about who may knock",
		"internal/credential": "fingerprints of keys",
		"internal/legible":    "strangers' text in errors",
		"internal/setup":      "what a first configuration says",
		"internal/files":      "reads what it is given",
		"internal/doctor":     "doctor",
		"internal/service":    "writes the polkit rule; doctor asks units about themselves",
	},

	// What people and scripts read.
	"internal/output": {"internal/control": "the version of the JSON", "internal/legible": "strangers had a hand in some"},
	"internal/view":   {"internal/output": "prints", "internal/control": "what is reported", "internal/audit": "the trail's records"},
	"internal/when":   {},

	// The visitor's side: no part of the daemon.
	"internal/visit": {},
	"internal/turns": {"internal/visit": "where the last knock opened", "internal/files": "files of the user's own"},
	"internal/relay": {},
	"internal/socks": {},

	"internal/sshconfig": {},
	// The doctor asks each part of the machine what the daemon will ask it.
	"internal/doctor": {
		"internal/config":   "what is to be guarded",
		"internal/control":  "what the daemon says",
		"internal/fence":    "a rehearsal of the table",
		"internal/files":    "why the configuration is refused",
		"internal/tables":   "durations as people write them",
		"internal/knock":    "what a visitor does",
		"internal/port":     "plain types",
		"internal/presence": "whether logs record logins",
		"internal/ruleset":  "what others' rules do with knocks",
		"internal/service":  "how a unit is",
		"internal/sockdiag": "who has a port",
		"internal/sshd":     "on which ports sshd would listen, and what it logs",
	},
	"internal/sshd": {},
	"internal/setup": {
		"internal/presence": "whether flows can be seen",
		"internal/config":   "what is written is what is read",
		"internal/doctor":   "which firewalls are in the way, and where sshd listens",
		"internal/files":    "the file is root's alone to write",
		"internal/kinds":    "which knocks can be written",
		"internal/knock":    "the kind writes the knock",
		"internal/legible":  "answers are repeated in a terminal",
		"internal/port":     "plain types",
		"internal/profile":  "what a visitor calls the gateway",
		"internal/service":  "which units there are",
		"internal/share":    "draws the knock, and puts the file in place",
		"internal/sshd":     "on which ports sshd would listen",
		"internal/tables":   "durations as people write them",
	},
	"internal/ruleset": {"internal/port": "what a packet is for", "internal/nfnetlink": "asks netfilter"},
	"internal/share": {
		"internal/config": "reads the knock and draws a new one",
		"internal/files":  "writes where nobody else can",
		"internal/port":   "plain types",
		"internal/knock":  "draws a new knock",
	},

	"internal/mutants":     {},
	"internal/pages":       {},
	"internal/race":        {},
	"internal/nstest":      {"internal/port": "tests of doors speak of ports"},
	"internal/tape":        {},
	"internal/systemdtest": {"internal/nstest": "the machine lives in a test's namespace"},
	"e2e":                  {},
	"e2e/word":             kindOfKnock,
	"e2e/pages":            {},
	"e2e/lab":              {"internal/control": "reads status as a script would"},
	"e2e/demo": {
		"e2e/lab":          "makes the network",
		"internal/output":  "breaks lines as the programs do",
		"internal/profile": "reads an invite, whose secrets must not be on the wire",
	},
	"e2e/campaign/judge": {},
	"e2e/campaign": {
		"e2e/campaign/judge":   "holds what was seen to the promise",
		"internal/mutants":     "the faults that it plants",
		"e2e/lab":              "makes the network",
		"internal/control":     "reads status and gives orders as an operator would",
		"internal/systemdtest": "boots the server",
		"packaging":            "what brings the daemon to the server",
		"internal/seal":        "knocks at the safe",
		"internal/credential":  "signs those knocks",
	},
	"packaging":  {},
	"build/site": {"internal/config": "the reference of all keys"},
	"bench": {"e2e/lab": "makes the network", "internal/control": "gives grants by the thousand", "internal/seal": "knocks",
		"internal/credential": "signs knocks", "internal/priority": "the limit that the unit sets"},

	// A module of their own: no part of what is built is in them.
	"build/tools/image":  {},
	"build/tools/bundle": {},
}

// kindOfKnock are the arrows of each package that internal/kinds lists, and of
// none that is not listed.
var kindOfKnock = map[string]string{
	"internal/knock":  "what it answers",
	"internal/tables": "how its table is read",
	"internal/port":   "plain types",
	// Of the sealed knock, which has a protocol and keys.
	"internal/seal":       "its protocol",
	"internal/credential": "who may knock",
}

// kindsOfKnock are the packages that internal/kinds lists.
func kindsOfKnock(t *testing.T) (kinds []string) {
	for _, s := range sources(t) {
		if s.dir != "internal/kinds" || s.test {
			continue
		}
		for _, p := range s.imports() {
			if dir, ours := strings.CutPrefix(p, module+"/"); ours && dir != "internal/knock" {
				kinds = append(kinds, dir)
			}
		}
	}
	return kinds
}

func TestImportArrows(t *testing.T) {
	for _, kind := range kindsOfKnock(t) {
		if arrows[kind] != nil {
			t.Errorf("%s is a kind of knock, and something else", kind)
			continue
		}
		arrows[kind] = kindOfKnock
		arrows["internal/kinds"][kind] = "a kind of knock"
	}
	imported := map[string]map[string]bool{} // by whom, in files that are not tests
	for _, s := range sources(t) {
		if imported[s.dir] == nil {
			imported[s.dir] = map[string]bool{}
		}
		if s.test {
			continue
		}
		allowed, known := arrows[s.dir]
		if !known {
			t.Errorf("%s: the package is not among the arrows; add it with what it may import and why", s.name)
			continue
		}
		for _, p := range s.imports() {
			to, ours := strings.CutPrefix(p, module+"/")
			if ours && allowed[to] == "" {
				t.Errorf("%s imports %s: allowed for %s are %q", s.name, to, s.dir, keys(allowed))
			}
			imported[s.dir][to] = imported[s.dir][to] || ours
		}
	}
	for _, stale := range unused(arrows, imported) {
		t.Errorf("%s: take it out of the arrows", stale)
	}
}

// unused says in words which of the allowed arrows nobody needs. What kinds of knock
// may import is one list for all of them, which one of them at least must need.
func unused(arrows map[string]map[string]string, imported map[string]map[string]bool) (stale []string) {
	byKinds := map[string]bool{}
	for from, to := range imported {
		if isKind(arrows[from]) {
			maps.Copy(byKinds, to)
		}
	}
	for _, from := range slices.Sorted(maps.Keys(arrows)) {
		if imported[from] == nil {
			stale = append(stale, "there is no package "+from)
			continue
		}
		needs := imported[from]
		if isKind(arrows[from]) {
			needs = byKinds
		}
		for _, to := range keys(arrows[from]) {
			if !needs[to] {
				stale = append(stale, from+" does not import "+to)
			}
		}
	}
	return stale
}

// isKind says whether a package's arrows are those of a kind of knock.
func isKind(allowed map[string]string) bool {
	return reflect.ValueOf(allowed).Pointer() == reflect.ValueOf(kindOfKnock).Pointer()
}

func TestUnusedArrows(t *testing.T) {
	arrows := map[string]map[string]string{
		"a":      {"b": "needed", "c": "not needed"},
		"gone":   {"a": "there is no such package"},
		"b":      {},
		"kind":   kindOfKnock,
		"kind/2": kindOfKnock,
	}
	imported := map[string]map[string]bool{
		"a": {"b": true}, "b": {},
		"kind": {"internal/knock": true, "internal/tables": true, "internal/seal": true, "internal/credential": true}, "kind/2": {"internal/knock": true},
	}
	want := []string{"a does not import c", "there is no package gone", "kind does not import internal/port", "kind/2 does not import internal/port"}
	if d := cmp.Diff(want, unused(arrows, imported)); d != "" {
		t.Errorf("unused arrows (-want +got):\n%s", d)
	}
}

func keys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// commands says which files may run other programs, as patterns, and why. The
// daemon runs only what the operator wrote into the configuration.
var commands = map[string]string{
	"internal/service/*.go":          "the door's start, stop and status commands",
	"internal/launcher/client.go":    "the launcher, which is the daemon's own program",
	"internal/presence/journal*.go":  "journalctl: the journal has no other stable reader without cgo",
	"internal/nstest/*.go":           "ip and nsenter, for tests",
	"internal/mutants/hunt.go":       "the go command and the tests that it builds, for tests",
	"internal/sandbox/intruder/*.go": "tries to, for tests",
	"internal/systemdtest/*.go":      "debootstrap and systemd-nspawn, for tests",
	"internal/signer/ask.go":         "SSH_ASKPASS, as ssh does",
	"cmd/doorward/knock*.go":         "what the visitor wants run once the door is open",
	"cmd/doorward/run.go":            "runs a command while a door is open",
	"cmd/doorward/ssh_config.go":     "looks for itself in PATH",
	"e2e/lab/*.go":                   "real programs in namespaces",
	"e2e/campaign/*.go":              "real programs in namespaces",
}

func TestCommandsAreRunWhereAllowed(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || !slices.Contains(s.imports(), "os/exec") {
			continue
		}
		allowed := false
		for pattern := range commands {
			ok, err := path.Match(pattern, s.name)
			if err != nil {
				t.Fatal(err)
			}
			allowed = allowed || ok
			used[pattern] = used[pattern] || ok
		}
		if !allowed {
			t.Errorf("%s imports os/exec: allowed are %q", s.name, keys(commands))
		}
	}
	for _, pattern := range keys(commands) {
		if !used[pattern] {
			t.Errorf("no file of %s imports os/exec: take it out of the list", pattern)
		}
	}
}

// TestPure holds the cores to having no sockets, files, goroutines or clock of
// their own, so that tests reach every state.
func TestPure(t *testing.T) {
	pure := append([]string{"internal/door", "internal/credential", "internal/port", "internal/knock", "internal/kinds", "internal/tables"}, kindsOfKnock(t)...)
	outside := []string{"net", "os", "os/exec", "syscall", "log", "log/slog", "context",
		"golang.org/x/sys/unix"}
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	for _, s := range sources(t) {
		if s.test || !slices.Contains(pure, s.dir) {
			continue
		}
		for _, p := range s.imports() {
			if slices.Contains(outside, p) {
				t.Errorf("%s is pure and imports %s", s.name, p)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a pure package starts a goroutine", s.at(n))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
					t.Errorf("%s: a pure package has a clock of its own: time.%s", s.at(n), n.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init runs before anybody asked for it", s.at(f))
			}
		}
	}
}
