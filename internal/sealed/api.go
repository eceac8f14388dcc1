package sealed

import "time"

// The orders of Order, as operators' programs send them in JSON and get them answered.
const (
	OrderInvite   = "invite"   // InviteArgs, Invite
	OrderRescue   = "rescue"   // RescueArgs, Rescue
	OrderKeys     = "keys"     // KeysArgs, Keys
	OrderAdd      = "add"      // AddArgs, Done
	OrderRevoke   = "revoke"   // KeyArgs, Done
	OrderRestore  = "restore"  // KeyArgs, Done
	OrderLock     = "lock"     // KeyArgs, Done
	OrderUnlock   = "unlock"   // KeyArgs, Done
	OrderWithdraw = "withdraw" // WithdrawArgs, Done
)

// InviteArgs asks for an invite.
type InviteArgs struct {
	Door    string `json:"door,omitempty"`    // "" for the first with a sealed knock
	For     string `json:"for"`               // whom it is for: the name of the key that it enrols
	Seconds int64  `json:"seconds,omitempty"` // until it expires; 0: a week
	Options string `json:"options,omitempty"` // of the key, as in authorized_keys
	Key     string `json:"key,omitempty"`     // the one key that it is for, by its fingerprint
	OneWay  bool   `json:"one_way,omitempty"` // once enrolled, the key knocks with single packets
}

// Invite is one, with the secrets that go into its line.
type Invite struct {
	Code        []byte    `json:"code"` // 16 bytes; of zeros when the key is known
	Profile     []byte    `json:"profile"`
	Fingerprint string    `json:"fingerprint"` // of the gateway's newest key
	Port        uint16    `json:"port"`
	TCP         bool      `json:"tcp"`
	Door        string    `json:"door"`
	Bound       bool      `json:"bound"`      // the key is known already, and the invite enrols none
	OneWay      bool      `json:"one_way"`    // as it was asked for
	AnySource   bool      `json:"any_source"` // the door takes single packets from any source; with OneWay only
	Expires     time.Time `json:"expires"`
}

// RescueArgs asks for rescue codes.
type RescueArgs struct {
	Count int    `json:"count"`          // 1 to 100
	Door  string `json:"door,omitempty"` // "" for every door
}

// Rescue is rescue codes, as they are to be printed, and what a machine without a profile
// needs besides.
type Rescue struct {
	Codes  []string `json:"codes"`
	Invite Invite   `json:"invite"` // Bound: it enrols nobody
}

// KeysArgs asks who may knock.
type KeysArgs struct {
	Match string `json:"match,omitempty"` // part of a name or fingerprint; "" for all
}

// Keys is who may knock, 1000 at most.
type Keys struct {
	Keys    []KeyEntry  `json:"keys"`           // never null, as are the others
	More    int         `json:"more,omitempty"` // how many are not listed
	Invites []CodeEntry `json:"invites"`        // that were not used yet
	Rescues []CodeEntry `json:"rescues"`        // rescue codes that were not used yet
}

// KeyEntry is one who may knock.
type KeyEntry struct {
	ID      string   `json:"id"`                // "SHA256:...", or "secret:..." of a machine
	Name    string   `json:"name,omitempty"`    // for people: a key's comment, or whom its invite was for
	Type    string   `json:"type"`              // "ssh-ed25519" and so on, "authority ssh-ed25519", "secret"
	Origin  string   `json:"origin"`            // a file's path and line, or "enrolled"
	Options string   `json:"options,omitempty"` // as in authorized_keys
	Doors   []string `json:"doors"`             // whose knocks know it; its options may allow fewer
	Locked  string   `json:"locked,omitempty"`  // by whom and when, if it is
	Revoked string   `json:"revoked,omitempty"` // by whom and when, if it is
}

// CodeEntry is an invite or a rescue code that was not used yet.
type CodeEntry struct {
	ID      string     `json:"id"`                // the beginning of its hash
	Name    string     `json:"name,omitempty"`    // whom it is for
	Options string     `json:"options,omitempty"` // of the key that it enrols
	Made    time.Time  `json:"made"`
	Expires *time.Time `json:"expires,omitempty"` // never for a rescue code
	Key     string     `json:"key,omitempty"`     // the fingerprint of the one key that it is for
}

// AddArgs enrols keys without an invite.
type AddArgs struct {
	Lines   string `json:"lines"`             // public keys, a line each, as in authorized_keys
	Name    string `json:"name,omitempty"`    // for those without a comment
	Options string `json:"options,omitempty"` // in front of each
}

// KeyArgs names somebody who may knock.
type KeyArgs struct {
	Key string `json:"key"`           // a fingerprint or an ID, or a name that only one has
	Now bool   `json:"now,omitempty"` // end live connections, too
}

// WithdrawArgs names an invite, or all rescue codes.
type WithdrawArgs struct {
	Invite  string `json:"invite,omitempty"` // its ID or the name that it is for
	Rescues bool   `json:"rescues,omitempty"`
}

// Done says what an order did.
type Done struct {
	Message string `json:"message"`
}
