package sealed

import "github.com/doorward/doorward/internal/credential"

// issuers are the authorities whose certificates were used lately, by whose they are, so
// that they end with the authority. What is forgotten ends with its grant alone.
type issuers map[string]credential.Fingerprint

const mostIssuers = 1 << 14

// note remembers an authority.
func (i *issuers) note(id string, authority credential.Fingerprint) {
	if *i == nil || len(*i) >= mostIssuers {
		*i = make(issuers)
	}
	(*i)[id] = authority
}

// stand says whether the authority of somebody's certificate is one still, if it is
// known.
func (i issuers) stand(ring *credential.Ring, id string) bool {
	authority, known := i[id]
	return !known || ring.Certifies(authority)
}
