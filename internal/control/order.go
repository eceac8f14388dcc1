package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/tables"
)

// Bounds of the durations in orders. How long a grant may last is bounded by
// config.ShortestGrant and config.LongestGrant.
const (
	// LongestWait bounds OpenRequest.Wait: a service may take an hour to stop, and
	// another to start.
	LongestWait = 3 * time.Hour
	// LongestConfirm bounds ApplyRequest.Confirm: somebody who has not come back after a
	// day to keep a configuration has been locked out by it.
	LongestConfirm = 24 * time.Hour
)

// Open is an OpenRequest in its checked form.
type Open struct {
	Door   string
	Source netip.Prefix  // for which door.Somebody is true
	For    time.Duration // 0 for the door's open_for
	Wait   time.Duration // 0 for not waiting
}

// Close is a CloseRequest in its checked form.
type Close struct {
	Door   string
	Source netip.Prefix // as in Open, or the zero Prefix for the whole door
}

// Arm is an ArmRequest in its checked form.
type Arm struct {
	Door   string       // "" for all
	Source netip.Prefix // as in Open, or the zero Prefix for all penalties
}

// KindRequest is an order to a kind of knock, of which the kind alone knows what it means:
// POST /v1/kinds/KIND/ORDER, with the arguments as the body.
type KindRequest struct {
	Kind string          // the kind's name
	What string          // one of its orders
	Args json.RawMessage // an object, nil for an empty one
}

// Request is an order as it is sent.
type Request interface {
	// Order returns what is ordered: an Open, a Close, an Arm, an ApplyRequest, or a
	// KindRequest.
	// Its error is an *Error with CodeUsage.
	Order() (any, error)
}

// Order returns an Open.
func (o OpenRequest) Order() (any, error) {
	p := Open{Door: o.Door}
	if err := checkDoor(o.Door, false); err != nil {
		return nil, usage(err)
	}
	var err error
	if p.Source, err = parseSource(o.Source); err != nil {
		return nil, usage(err)
	}
	if p.For, err = parseTime("for", o.For, config.ShortestGrant, config.LongestGrant); err != nil {
		return nil, usage(err)
	}
	if p.Wait, err = parseTime("wait", o.Wait, time.Second, LongestWait); err != nil {
		return nil, usage(err)
	}
	return p, nil
}

// Order returns a Close.
func (o CloseRequest) Order() (any, error) {
	if err := checkDoor(o.Door, false); err != nil {
		return nil, usage(err)
	}
	source, err := optionalSource(o.Source)
	if err != nil {
		return nil, usage(err)
	}
	return Close{o.Door, source}, nil
}

// Order returns an Arm.
func (o ArmRequest) Order() (any, error) {
	if err := checkDoor(o.Door, true); err != nil {
		return nil, usage(err)
	}
	source, err := optionalSource(o.Source)
	if err != nil {
		return nil, usage(err)
	}
	return Arm{o.Door, source}, nil
}

// Order returns the ApplyRequest itself.
func (o ApplyRequest) Order() (any, error) {
	switch {
	case o.Action != "apply" && o.Action != "keep" && o.Action != "undo":
		return nil, usage(fmt.Errorf("action %q: allowed are \"apply\", \"keep\" and \"undo\"", o.Action))
	case o.Action != "apply" && o.Force:
		return nil, usage(fmt.Errorf("force goes with action \"apply\" only, not with %q", o.Action))
	case o.Action == "apply" && o.ID != 0:
		return nil, usage(fmt.Errorf("id %d goes with actions \"keep\" and \"undo\" only, not with \"apply\"", o.ID))
	case o.Action != "apply" && o.Confirm != "":
		return nil, usage(fmt.Errorf("confirm %q goes with action \"apply\" only, not with %q", o.Confirm, o.Action))
	}
	if _, err := parseTime("confirm", o.Confirm, time.Second, LongestConfirm); err != nil {
		return nil, usage(err)
	}
	return o, nil
}

// Order returns the KindRequest itself.
func (o KindRequest) Order() (any, error) {
	for _, part := range []struct{ what, name string }{{"kind", o.Kind}, {"order", o.What}} {
		if problem := config.NameProblem(part.name); problem != "" {
			return nil, usage(fmt.Errorf("%s %q: allowed are %s", part.what, part.name, config.NameForm))
		}
	}
	var args map[string]json.RawMessage
	if o.Args == nil {
		o.Args = json.RawMessage("{}")
	}
	if err := json.Unmarshal(o.Args, &args); err != nil || args == nil {
		return nil, usage(fmt.Errorf("the arguments of order %q to the %s knock are not one JSON object", o.What, o.Kind))
	}
	return o, nil
}

// MarshalJSON returns the arguments.
func (o KindRequest) MarshalJSON() ([]byte, error) { return o.Args, nil }

// usage returns err as an *Error with CodeUsage.
func usage(err error) error { return &Error{Code: CodeUsage, Message: err.Error()} }

// checkDoor returns an error unless name can be a door's. If empty is set, it can be "".
func checkDoor(name string, empty bool) error {
	switch {
	case name == "" && empty, config.NameProblem(name) == "":
		return nil
	case name == "":
		return fmt.Errorf("door is missing: its name is needed")
	}
	return fmt.Errorf("door %q: allowed are %s", name, config.NameForm)
}

// checkSource parses a source and returns it as status and the audit trail write it. If
// empty is set, it can be "".
func checkSource(s string, empty bool) (string, error) {
	if s == "" && empty {
		return "", nil
	}
	p, err := parseSource(s)
	if err != nil {
		return "", err
	}
	return door.SourceString(p), nil
}

// optionalSource parses a source; "" is the zero Prefix.
func optionalSource(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	return parseSource(s)
}

// parseSource parses a source for which door.Somebody is true.
func parseSource(s string) (netip.Prefix, error) {
	switch s {
	case "any":
		return door.Any, nil
	case "":
		return netip.Prefix{}, fmt.Errorf("source is missing: an address, a prefix or \"any\" is needed")
	}
	bad := fmt.Errorf("source %q: allowed are an address (192.0.2.7), a prefix (2001:db8::/64) and \"any\"", s)
	p, err := netip.ParsePrefix(s)
	if a, notOne := netip.ParseAddr(s); notOne == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("source %q: zones are not supported: leave out %q", s, "%"+a.Zone())
		}
		p, err = door.Source(a), nil
	}
	switch {
	case err != nil:
		return netip.Prefix{}, bad
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("source %q: write the IPv4 prefix itself", s)
	case p.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("source %q is everybody: write \"any\" if that is meant", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("source %q: host bits are set after the first %d: write %q for the one address, or %q for the whole prefix",
			s, p.Bits(), p.Addr(), p.Masked())
	case !door.Somebody(p):
		return netip.Prefix{}, bad
	}
	return p, nil
}

// parseTime parses a duration within bounds; "" is 0.
func parseTime(what, s string, shortest, longest time.Duration) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < shortest || d > longest {
		return 0, fmt.Errorf("%s %q: allowed is a duration from %q to %q, such as \"30s\", \"10m\" or \"8h\"",
			what, s, tables.Short(shortest), tables.Short(longest))
	}
	return d, nil
}
