package signer

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/profile"
)

// Candidate is a key that a visitor could enrol.
type Candidate struct {
	Key         profile.Key // for a profile
	Fingerprint credential.Fingerprint
	Type        string // such as ssh-ed25519
	Comment     string // made legible; may be ""
	Touch       bool   // it is a security key's
	Single      bool   // its signatures fit into single packets
}

// Where says where the key is: "ssh-agent", or the path of its file.
func (c Candidate) Where() string {
	if c.Key.File != "" {
		return c.Key.File
	}
	return "ssh-agent"
}

// Candidates lists the keys of the agent, and then those of a user's directory of ssh that
// are not there, by their public keys. Certificates are not among them.
func (m Machine) Candidates(ctx context.Context, sshDirectory string) []Candidate {
	var all []Candidate
	add := func(key ssh.PublicKey, comment string, of profile.Key) {
		f := credential.FingerprintOf(key.Marshal())
		_, isCertificate := key.(*ssh.Certificate)
		if isCertificate || slices.ContainsFunc(all, func(c Candidate) bool { return c.Fingerprint == f }) {
			return
		}
		if of.File == "" {
			of.Agent = f.String()
		}
		all = append(all, Candidate{of, f, key.Type(), credential.Name(comment), isSecurityKey(key), FitsSingle(key.Type())})
	}
	keys, _ := m.agentKeys(ctx) // without an agent there are the files
	for _, k := range keys {
		if key, err := ssh.ParsePublicKey(k.Blob); err == nil {
			add(key, k.Comment, profile.Key{})
		}
	}
	paths, _ := filepath.Glob(filepath.Join(sshDirectory, "id_*"+publicSuffix))
	slices.Sort(paths)
	for _, path := range paths {
		private := strings.TrimSuffix(path, publicSuffix)
		text, err := files.Given(path, largestKey)
		if err != nil {
			continue
		}
		if key, comment, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
			add(key, comment, profile.Key{File: private})
		}
	}
	return all
}
