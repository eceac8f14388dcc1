//go:build linux

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/sealed"
)

// The life of a key: enrolled, locked, unlocked, revoked, restored.
func TestKeys(t *testing.T) {
	o := newOffice(t)
	say := func(want string, args ...string) {
		t.Helper()
		if stdout, _ := o.does(args...); stdout != want {
			t.Errorf("%q says %s\nwant %s", args, stdout, want)
		}
	}
	who := "alice@laptop " + o.id
	say("Nobody may knock yet. To invite somebody: doorward invite --for NAME\n", "keys")
	say("added "+who+"; ended: 2 grants\n", "keys", "add", o.key, "--options", "one-address")
	say("locked "+who+"; ended: 2 grants\n", "keys", "lock", "alice@laptop", "--now")
	say("NAME          KEY                                                 STATE   DOORS  FROM\n"+
		"alice@laptop  "+o.id+"  locked  ssh    enrolled\n"+
		"  "+o.id+"  locked by operator root (uid 0) on 2026-11-24T12:00:00Z\n"+
		"  "+o.id+"  options one-address\n", "keys", "list", "laptop")
	say("unlocked "+who+"\n", "keys", "unlock", o.id[:19]+"…")
	say("revoked "+who+"; ended: 2 grants\n", "keys", "revoke", o.id)
	if all := o.list(); len(all.Keys) != 0 {
		t.Errorf("still there: %+v", all.Keys)
	}
	say("no longer revoked: "+o.id+"\n", "keys", "restore", o.id)
	say("Nobody who may knock has \"bob\" in their name or fingerprint.\n", "keys", "list", "bob")
}

// Of keys as GitHub publishes them nothing counts but the keys.
func TestKeysAsGitHubHasThem(t *testing.T) {
	o := newOffice(t)
	line, err := os.ReadFile(o.key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.dir, "github")
	if err := os.WriteFile(file, []byte("any-address,max-open-for=\"720h\" "+string(line)), 0o600); err != nil {
		t.Fatal(err)
	}
	o.does("keys", "add", file, "--github-format", "--for", "alice")
	want := []sealed.KeyEntry{{ID: o.id, Name: "alice", Type: "ssh-ed25519", Origin: "enrolled", Doors: []string{"ssh"}}}
	if d := cmp.Diff(want, o.list().Keys); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestKeysUsage(t *testing.T) {
	o := newOffice(t)
	for path, text := range map[string]string{"empty": "", "long": strings.Repeat("#", maxAdded+1), "id": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
		"ca": "cert-authority,principals=\"a\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINq6kpRSHpckj7CVZnQe2YsZHClKOyJDUdaJ6DJUyNp/ x\n"} {
		if err := os.WriteFile(filepath.Join(o.dir, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(o.dir)
	o.does("invite", "--for", "bob")
	o.does("invite", "--for", "bob")
	for args, want := range map[string]string{
		"keys lsit":      "2 command \"lsit\" of keys is not known\ndoorward: hint: doorward keys list\n",
		"keys alice":     "2 command \"alice\" of keys is not known\ndoorward: hint: doorward keys --help lists its commands, and doorward keys list alice the keys with that in their names\n",
		"keys lock":      "2 KEY is missing: a fingerprint or a name, as doorward keys lists them\ndoorward: hint: doorward keys lock --help\n",
		"keys lock a b":  "2 \"b\": one KEY only; a name with blanks is written in quotes\ndoorward: hint: doorward keys lock --help\n",
		"keys lock a":    "6 there is no key \"a\": allowed is a fingerprint or a name\ndoorward: hint: doorward keys list; who has a certificate is not in it, and is named by a whole fingerprint (doorward status --json)\n",
		"keys list a b":  "2 \"b\": one MATCH only\ndoorward: hint: doorward keys list --help\n",
		"keys add":       "2 needed is one FILE of public keys, or - for standard input\ndoorward: hint: doorward keys add --help\n",
		"keys add empty": "1 empty has no key\ndoorward: hint: doorward keys add FILE.pub\n",
		"keys add long":  "1 \"long\" is longer than 49152 bytes\ndoorward: hint: so many keys are better kept in the configuration's file of keys\n",
		"keys add ca":    "6 an authority is for the file of keys: it is not enrolled\n",
		"keys add id":    "6 the keys:1: a private key, which belongs on no gateway: remove it here, and put in its public key (ssh-keygen -y -f FILE)\n",
		"keys add alice.pub --github-format": "2 --for is missing: keys as GitHub publishes them have no names\n" +
			"doorward: hint: doorward keys add alice.pub --github-format --for NAME\n",
		"keys add ca --github-format --for x": "1 ca: line 1: an authority's key is not somebody's\n",
		"keys withdraw":                       "2 needed is either one INVITE, as doorward keys lists them, or --rescues\ndoorward: hint: doorward keys withdraw --help\n",
		"keys withdraw x --rescues":           "2 needed is either one INVITE, as doorward keys lists them, or --rescues\ndoorward: hint: doorward keys withdraw --help\n",
		"keys withdraw carol":                 "6 there is no invite \"carol\": allowed is an ID or whom it is for\ndoorward: hint: doorward keys list\n",
		"keys withdraw bob":                   "6 2 invites are for \"bob\": say the ID of one\ndoorward: hint: doorward keys list\n",
		"keys renew none":                     "1 open none: no such file or directory\ndoorward: hint: sudo doorward keys identity makes one\n",
		"keys renew empty":                    "1 empty: 0 keys and 0 profile secrets: needed is one of each\ndoorward: hint: doorward doctor; the file must be one that doorward keys identity has made\n",
	} {
		code, stdout, stderr := operate(t, o.vars, strings.Fields(args)...)
		number, text, _ := strings.Cut(want, " ")
		if stdout != "" || stderr != "doorward: error: "+text || string(rune('0'+code)) != number {
			t.Errorf("%s: got %d, %q and %s\nwant %s", args, code, stdout, stderr, want)
		}
	}
}

// The gateway's key is made once, renewed with an overlap, and ended.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "etc", "sealed.key")
	fingerprint := regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`)
	keys := func(args ...string) (text string, all []string) {
		t.Helper()
		code, stdout, stderr := operate(t, nil, append([]string{"keys"}, args...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("%q: %d %s", args, code, stderr)
		}
		return stdout, fingerprint.FindAllString(stdout, -1)
	}
	text, first := keys("identity", file)
	wantModes(t, map[string]fs.FileMode{file: 0o640, filepath.Dir(file): 0o750})
	if want := "Written: " + file + "\n  " + first[0] + "  the gateway's key\n"; text != want {
		t.Errorf("it says %s\nwant %s", text, want)
	}
	if text, again := keys("identity", file); !strings.HasPrefix(text, "Not changed: ") || !cmp.Equal(first, again) {
		t.Errorf("the second time: %s", text)
	}
	text, both := keys("renew", file)
	if len(both) != 2 || both[1] != first[0] || !strings.Contains(text, "\nWhen every visitor has knocked once more: ") {
		t.Errorf("renewed: %s\nwant another, and then %s", text, first)
	}
	code, _, stderr := operate(t, nil, "keys", "renew", file)
	if code != 1 || !strings.HasSuffix(stderr, "allowed are 2 and 4; delete the oldest, which are last\ndoorward: hint: doorward keys renew "+file+" --end\n") {
		t.Errorf("a third one: %d %s", code, stderr)
	}
	text, _ = keys("renew", file, "--profile-secret")
	if !strings.Contains(text, "\n  2 profile secrets, of which new invites have the first\n") {
		t.Errorf("it says %s", text)
	}
	keys("renew", file, "--profile-secret", "--end")
	text, last := keys("renew", file, "--end")
	if want := "Written: " + file + "\n  " + both[0] + "  the gateway's key\n"; text != want || len(last) != 1 {
		t.Errorf("ended: %s\nwant %s", text, want)
	}
	if text, _ := keys("renew", file, "--end"); !strings.HasPrefix(text, "Not changed: ") {
		t.Errorf("with nothing to end: %s", text)
	}
	wantModes(t, map[string]fs.FileMode{file: 0o640})
}
