package control

import (
	"cmp"
	"context"
	"net/http"
)

// Diff is the answer to GET /v1/diff: what an apply of the configuration file would
// change now.
type Diff struct {
	Config string `json:"config"` // path of the file
	Before string `json:"before"` // SHA-256 of the text in use, in hex
	After  string `json:"after"`  // SHA-256 of the file's text, in hex
	// Changes are the keys that mean something else, sorted; never null. There may be
	// none although the texts differ.
	Changes []KeyChange `json:"changes"`
	// Refused is why a plain apply would change nothing, null if it would be done.
	Refused *Error `json:"refused"`
}

// KeyChange is a key that means something else, or a table that is new or gone.
type KeyChange struct {
	Key    string `json:"key"`    // "door.ssh.open_for", "door.web", "door.ssh.knock[0].listen"
	Change string `json:"change"` // "changed", "added" or "removed"
	// Before and After are the values as TOML; null where there is none, and for the keys
	// of a knock, which are secret.
	Before *string `json:"before"`
	After  *string `json:"after"`
	Secret bool    `json:"secret"`
}

// The changes of a KeyChange.
const (
	KeyChanged = "changed"
	KeyAdded   = "added"
	KeyRemoved = "removed"
)

// diff answers GET /v1/diff.
func (s *Server) diff(w http.ResponseWriter, r *http.Request) {
	d, err := s.backend.Diff(r.Context())
	if err != nil {
		writeError(w, orderStatus(err), err)
		return
	}
	writeJSON(w, http.StatusOK, d)
}

// Diff asks what an apply of the daemon's configuration file would change.
func (c *Client) Diff(ctx context.Context) (Diff, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, statusTimeout))
	defer cancel()
	var d Diff
	err := c.call(ctx, http.MethodGet, "/v1/diff", nil, maxDiff, &d)
	if err == nil && d.Config == "" {
		return Diff{}, c.stranger("it does not say which file it compares")
	}
	return d, err
}

// maxDiff bounds the answer, in bytes: it may hold most of two files of a mebibyte each
// (config.MaxFile), with all that JSON escapes.
const maxDiff = 16 << 20
