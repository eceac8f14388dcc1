package share

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Letter is a user's encrypted knock.
type Letter struct {
	User User
	// Files are of mode 0600: the knock as data, then, with scripts, for sh and for
	// PowerShell.
	Files []File
}

// Letters encrypts k for each user, as data and, with scripts, also as programs, for
// files named after door and user. Their paths are bare file names.
func Letters(k *Knock, users []User, scripts bool) ([]Letter, error) {
	var all []Letter
	taken := map[string]bool{}
	for _, u := range users {
		name := "knock-" + k.Door + "-" + fileName(u)
		if taken[name] {
			name += "-" + short(u.Name)
		}
		taken[name] = true
		sealed := Letter{User: u}
		type form struct{ suffix, text string }
		forms := []form{{".age", k.Text()}}
		if scripts {
			forms = append(forms, form{".sh.age", k.Shell()}, form{".ps1.age", k.PowerShell()})
		}
		for _, f := range forms {
			text, err := Encrypt(f.text, u.Keys)
			if err != nil {
				return nil, fmt.Errorf("encrypt for %q: %w", u.Name, err)
			}
			sealed.Files = append(sealed.Files, File{Path: name + f.suffix, Text: text, Mode: 0o600})
		}
		all = append(all, sealed)
	}
	return all, nil
}

// fileName returns the user's name with "-" for what is not safe in a file's name, on
// any system and in any shell.
func fileName(u User) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("@._+-", r):
			return r
		}
		return '-'
	}, u.Name)
	name = strings.Trim(name, ".-")
	if len(name) > 64 {
		name = name[:64]
	}
	if name == "" {
		return short(u.Name)
	}
	return name
}

// Encrypt returns text encrypted to any of the keys, ASCII-armoured: it is made
// to be mailed.
func Encrypt(text string, keys []Key) ([]byte, error) {
	var to []age.Recipient
	for _, k := range keys {
		to = append(to, k.to)
	}
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, to...)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := a.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
