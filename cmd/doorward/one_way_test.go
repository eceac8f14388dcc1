//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// touchedKey is a security key's.
const touchedKey = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fAAAABHNzaDo= alice@token\n"

// Whoever accepts an invite for single packets is told before it is used up that their key
// cannot sign those.
func TestAcceptOneWay(t *testing.T) {
	v := newTraveller(t)
	v.invite.OneWay = true
	none := func(name, types string) {
		t.Helper()
		v.want(1, "", "doorward: error: the invite is for single packets, and of your keys none can sign those: a single packet has room for Ed25519 keys, ECDSA keys of P-256 and machines' secrets alone:\n"+
			types+"doorward: hint: the invite is not used up: ssh-keygen -t ed25519, and accept it again; or --key FILE names another key; or ask for an invite without --one-way\n", "accept", v.invite.String())
	}
	v.key("id_rsa", "-t", "rsa")
	none("RSA", "  SHA256:KEY ssh-rsa alice@laptop (HOME/.ssh/id_rsa)\n")
	if err := os.WriteFile(filepath.Join(v.home, ".ssh", "id_ed25519_sk.pub"), []byte(touchedKey), 0o600); err != nil {
		t.Fatal(err)
	}
	none("RSA and a security key", "  SHA256:KEY sk-ssh-ed25519@openssh.com alice@token (HOME/.ssh/id_ed25519_sk)\n  SHA256:KEY ssh-rsa alice@laptop (HOME/.ssh/id_rsa)\n")
	v.want(1, "", "doorward: error: the key SHA256:KEY (HOME/.ssh/id_rsa) is of type ssh-rsa, and a single packet has room for Ed25519 keys, ECDSA keys of P-256 and machines' secrets alone\n"+
		"doorward: hint: the invite is not used up: ssh-keygen -t ed25519, and accept it again; or --key FILE names another key; or ask for an invite without --one-way\n",
		"accept", v.invite.String(), "--key", v.home+"/.ssh/id_rsa")
	if n := len(v.gateway.Knocks()); n != 0 {
		t.Errorf("%d knocks, want none", n)
	}
	v.key("id_ed25519") // the one that can, of three
	if code, out, errs := v.run("accept", v.invite.String()); code != 0 || !strings.Contains(out, "id_ed25519)") {
		t.Errorf("status %d, %q, %q", code, out, errs)
	}
}

// A profile that was made by hand to knock with single packets says so, too, and before a
// passphrase is asked for.
func TestOneWayWithAKeyThatCannot(t *testing.T) {
	v := newTraveller(t)
	v.invited(v.key("id_rsa", "-t", "rsa", "-N", "secret"))
	v.answers = []string{"secret"}
	if code, _, errs := v.run("accept", v.invite.String()); code != 0 {
		t.Fatal(errs)
	}
	path := filepath.Join(v.home, "profiles", "gate.toml")
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(strings.Replace(string(text), "one_way = false", "one_way = true", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	asked := len(v.asked)
	v.want(1, "", "doorward: error: the key SHA256:KEY (HOME/.ssh/id_rsa) is of type ssh-rsa, and a single packet has room for Ed25519 keys, ECDSA keys of P-256 and machines' secrets alone\n"+
		"doorward: hint: have the profile name another key, or take one_way out of it (doorward profiles show gate)\n", "knock", "gate")
	if len(v.asked) != asked {
		t.Errorf("asked %q", v.asked)
	}
}
