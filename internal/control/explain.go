package control

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Explanation is the answer to GET /v1/explain?source=&door=: what a new connection
// from one address would meet.
type Explanation struct {
	Time    time.Time `json:"time"`
	Source  string    `json:"source"`            // the address
	Config  string    `json:"config"`            // path of the configuration file
	Pending *Pending  `json:"pending,omitempty"` // an applied configuration that goes back unless it is kept
	// Firewall says whether the rules of other firewalls were looked at, which doorward
	// explain does by itself, and only as root. The daemon has not.
	Firewall bool           `json:"firewall"`
	Unread   string         `json:"unread,omitempty"` // why refusals could not be read
	Doors    []ExplainedFor `json:"doors"`            // those that were asked about, by name; never null
}

// ExplainedFor is an Explanation for one door.
type ExplainedFor struct {
	Door   string   `json:"door"`
	Ports  []string `json:"ports"`  // as in Door
	State  string   `json:"state"`  // the door's
	Reason string   `json:"reason"` // why it is in this state, for people
	// GetsIn says whether a new connection would get in now; null when that is not known,
	// and an obstacle then says why.
	GetsIn *bool `json:"gets_in"`
	// By is what lets it in, never null. Only grants have an end. There may be a grant
	// even if an obstacle keeps the connection out.
	By        []Cover    `json:"by"`
	Until     *time.Time `json:"until"`     // when the last of By ends; null without an end, or without a By
	Obstacles []Obstacle `json:"obstacles"` // what is in the way of its connections and its knocks, never null
	// WouldKnock says whether a right knock from there would be heard and would open the
	// door now, judging by what is known: not if its service could not be started the last
	// time. It is about all knocks of the door together, whereas a penalty may concern one
	// of them alone.
	WouldKnock bool           `json:"would_knock"`
	Refusals   []audit.Record `json:"refusals"` // the latest eight that concern the source, newest first, never null
}

// Obstacle is something in the way of a source.
type Obstacle struct {
	Code    string     `json:"code"`            // one of the Obstacle constants
	Message string     `json:"message"`         // for people
	Hint    string     `json:"hint"`            // what to type next, may be ""
	Until   *time.Time `json:"until,omitempty"` // when it ends by itself
	Knock   string     `json:"knock,omitempty"` // which of the door's knocks it is about
}

// The values of Cover.By for what is not a grant.
const (
	CoverAlways = "always"       // a prefix of the door's always
	CoverOwn    = "this machine" // the source is this machine
)

// The codes of Obstacles.
const (
	ObstacleFence      = "fence_down"      // the doors are not guarded as they should be
	ObstacleFailsafe   = "failsafe"        // there is no log data: the door is dark and ignores knocks
	ObstacleDeaf       = "deaf"            // the door ignores knocks until the daemon has looked for log data, which it does when it starts
	ObstacleService    = "service_down"    // the service behind the door does not run
	ObstacleFailed     = "service_failed"  // the service could not be started, or died
	ObstacleOpening    = "opening"         // a grant waits for the service to run
	ObstacleNoGrant    = "no_grant"        // nothing lets the source in
	ObstaclePenalty    = "penalty"         // its knocks are ignored
	ObstacleOwn        = "own_machine"     // connections from this machine itself are not knocks
	ObstacleListeners  = "knocks_unheard"  // some of the knocks cannot be heard
	ObstaclePermission = "no_leave"        // the daemon may not start the service
	ObstacleListening  = "nothing_listens" // no socket of this machine accepts connections at a port of the door
	ObstacleKernel     = "kernel_differs"  // kernel and daemon do not agree about who may come in
	ObstacleUnchecked  = "kernel_unasked"  // the kernel could not be asked
	ObstacleFirewall   = "firewall"        // rules of another firewall drop it, or may
)

// explain answers GET /v1/explain.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.RawQuery, "source", "door")
	if err == nil {
		err = checkDoor(q.Get("door"), true)
	}
	var source netip.Addr
	if err == nil {
		source, err = checkAddress(q.Get("source"))
	}
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	e, err := s.backend.Explain(r.Context(), source, q.Get("door"))
	if err != nil {
		writeError(w, orderStatus(err), err)
		return
	}
	writeJSON(w, http.StatusOK, e)
}

// checkAddress parses an address that connections can come from.
func checkAddress(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, badSource("source is missing: the address that a connection comes from")
	}
	a, err := netip.ParseAddr(s)
	switch a = a.Unmap(); {
	case err != nil || a.IsUnspecified() || a.IsMulticast():
		return netip.Addr{}, badSource("source %q: allowed is one address, such as 192.0.2.7 or 2001:db8::7", s)
	case a.Zone() != "":
		return netip.Addr{}, badSource("source %q: zones are not supported: leave out %q", s, "%"+a.Zone())
	}
	return a, nil
}

// badSource returns a CodeUsage error.
func badSource(format string, args ...any) error {
	return &Error{Code: CodeUsage, Message: fmt.Sprintf(format, args...)}
}

// Explain asks what a new connection from a source would meet at a door, or at each door
// if door is "".
func (c *Client) Explain(ctx context.Context, source, door string) (Explanation, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, orderTimeout)) // a long trail is read for it
	defer cancel()
	q := url.Values{"source": {source}}
	if door != "" {
		q.Set("door", door)
	}
	var e Explanation
	err := c.call(ctx, http.MethodGet, "/v1/explain?"+q.Encode(), nil, maxStatus, &e)
	if err == nil && (e.Time.IsZero() || e.Source == "") {
		return Explanation{}, c.stranger("its explanation names no source")
	}
	return e, err
}
