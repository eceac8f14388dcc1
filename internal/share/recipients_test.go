package share

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Public keys of nobody: their private halves were thrown away.
const (
	ed25519Key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAJccioy55mvGxcbWt09GjIp7td+/qtZ3HexQg70l7C9"
	ecdsaKey   = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBI72ebm9sZRU4ei6IPzknV7lBJT2GOSkyvg6tsOpE7KUEkXraHVfolsTp1xXi7HVbmzI/GkkeQpwCOVZZ2YtqeM="
	tokenKey   = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fAAAABHNzaDo="
	ageKey     = "age1uvwjd2tllgf3h4lwzppljd5p96r08ed3tf0txf54ya2q09jj2uuqlrwrrf"
)

func TestParseRecipients(t *testing.T) {
	type user struct {
		Name  string
		Lines []string
	}
	tests := []struct {
		name  string
		text  string
		host  string
		users []user
		err   string
	}{
		{
			name: "all kinds of lines",
			text: "# who\n\nhost gate.example.org\n" + ed25519Key + " alice@laptop\r\n  " + ageKey + " carol the third\n",
			host: "gate.example.org",
			users: []user{
				{"alice@laptop", []string{ed25519Key + " alice@laptop"}},
				{"carol the third", []string{ageKey + " carol the third"}},
			},
		},
		{
			name:  "options of authorized_keys are no part of the key",
			text:  `from="192.0.2.0/24",command="echo hi" ` + ed25519Key + " alice\n",
			users: []user{{"alice", []string{ed25519Key + " alice"}}},
		},
		{
			name:  "one user with two keys",
			text:  ed25519Key + " alice\n" + ageKey + " alice\n",
			users: []user{{"alice", []string{ed25519Key + " alice", ageKey + " alice"}}},
		},
		{
			name:  "a key that is there twice",
			text:  ageKey + " alice\n" + ageKey + " alicia\n",
			users: []user{{"alice", []string{ageKey + " alice"}}},
		},
		{
			name:  "no name",
			text:  ageKey + "\n",
			users: []user{{"key-" + short(ageKey), []string{ageKey}}},
		},
		{
			name:  "a name that would disturb a terminal",
			text:  ageKey + " al\x1b[31mice\u202e\n",
			users: []user{{"al [31mice", []string{ageKey + " al [31mice"}}},
		},
		{
			name: "every wrong line is named",
			text: "host a_b.example\nhost c.example\nssh-ed25519 AAAA x\n\nage1plugin1qqqq bob\n" + ageKey[:40] + " cut\nrubbish\n",
			err: `f:2: host "c.example": there is a host already: "a_b.example"
f:3: not a public key: allowed are ssh-ed25519, ssh-rsa and age1... keys
f:5: key "age1plugin1qqqq"... is for an age plugin ("age1plugin"), and none is ever run: allowed are ssh-ed25519, ssh-rsa and age1... keys
f:6: key "age1uvwjd2tllgf3"... is not a whole age key: allowed are ssh-ed25519, ssh-rsa and age1... keys
f:7: not a public key: allowed are ssh-ed25519, ssh-rsa and age1... keys`,
		},
		{
			name: "keys that can only sign",
			text: ecdsaKey + " eve\n" + tokenKey + " dave's token\n",
			err: `f:1: key of type ecdsa-sha2-nistp256 (eve) can sign but not decrypt: allowed are ssh-ed25519, ssh-rsa and age1... keys
f:2: key of type sk-ssh-ed25519@openssh.com (dave's token) can sign but not decrypt: allowed are ssh-ed25519, ssh-rsa and age1... keys`,
		},
		{
			name: "an OpenSSH private key",
			text: "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
			err:  "f: this is a private key: it stays with its owner, give the public one (.pub)",
		},
		{
			name: "an age identity",
			text: "# public key: " + ageKey + "\nAGE-SECRET-KEY-1SECRET\n",
			err:  "f: this is a private key: it stays with its owner, give the public one (.pub)",
		},
		{name: "a long line", text: strings.Repeat("a", maxLine+1), err: "f:1: bufio.Scanner: token too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ParseRecipients("f", []byte(tt.text))
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("error:\n%v\nwant:\n%s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var users []user
			for _, u := range r.Users() {
				got := user{Name: u.Name}
				for _, k := range u.Keys {
					got.Lines = append(got.Lines, k.Line)
				}
				users = append(users, got)
			}
			if r.Host != tt.host || !cmp.Equal(users, tt.users) {
				t.Errorf("host %q, want %q; users:\n%s", r.Host, tt.host, cmp.Diff(tt.users, users))
			}
		})
	}
}

func TestRemember(t *testing.T) {
	alice, err := ParseKey(ed25519Key + " alice")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, text, want string
		added            []Key
	}{
		{
			name: "new", added: []Key{alice},
			want: `# Who gets the knock of door "ssh": doorward share adds to this file, doorward rotate
# reads it. One key a line, as in authorized_keys, or "age1... NAME". To end
# somebody's knock, remove their keys and rotate.
host gate.example.org
` + ed25519Key + " alice\n",
		},
		{
			name: "what people wrote stays", added: []Key{alice},
			text: "# mine\n\n" + ageKey + " carol # phone\n host  old.example\n# end",
			want: "# mine\n\n" + ageKey + " carol # phone\nhost gate.example.org\n# end\n" + ed25519Key + " alice\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Remember([]byte(tt.text), "ssh", "gate.example.org", tt.added)
			if d := cmp.Diff(tt.want, string(got)); d != "" {
				t.Error(d)
			}
			if r, err := ParseRecipients("f", got); err != nil || r.Host != "gate.example.org" {
				t.Errorf("it reads back with host %v, error %v", r, err)
			}
		})
	}
}
