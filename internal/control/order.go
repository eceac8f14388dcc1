package control

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/config"
)

// checkable is an order that can check itself: checked returns it in canonical
// form, or what is wrong with it.
type checkable[O any] interface {
	checked() (O, error)
}

// maxTime bounds the durations of orders, so that a slip of the keyboard does
// not open a door for a century.
const maxTime = 366 * 24 * time.Hour

func (o OpenRequest) checked() (OpenRequest, error) {
	if err := checkDoor(o.Door, false); err != nil {
		return o, err
	}
	var err error
	if o.Source, err = checkSource(o.Source, false); err != nil {
		return o, err
	}
	return o, checkTime("for", o.For)
}

func (o CloseRequest) checked() (CloseRequest, error) {
	if err := checkDoor(o.Door, false); err != nil {
		return o, err
	}
	var err error
	o.Source, err = checkSource(o.Source, true)
	return o, err
}

func (o ArmRequest) checked() (ArmRequest, error) {
	if err := checkDoor(o.Door, true); err != nil {
		return o, err
	}
	var err error
	o.Source, err = checkSource(o.Source, true)
	return o, err
}

func (o ApplyRequest) checked() (ApplyRequest, error) {
	switch {
	case o.Action != "apply" && o.Action != "keep" && o.Action != "undo":
		return o, fmt.Errorf("action %q: allowed are \"apply\", \"keep\" and \"undo\"", o.Action)
	case o.Action != "apply" && o.Force:
		return o, fmt.Errorf("force goes with action \"apply\" only, not with %q", o.Action)
	case o.Action == "apply" && o.ID != 0:
		return o, fmt.Errorf("id %d goes with actions \"keep\" and \"undo\" only, not with \"apply\"", o.ID)
	case o.Action != "apply" && o.Confirm != "":
		return o, fmt.Errorf("confirm %q goes with action \"apply\" only, not with %q", o.Confirm, o.Action)
	}
	return o, checkTime("confirm", o.Confirm)
}

// checkDoor says whether name can be a door's; "" only where it may be empty.
func checkDoor(name string, empty bool) error {
	switch {
	case name == "" && empty, config.NameProblem(name) == "":
		return nil
	case name == "":
		return fmt.Errorf("door is missing: its name is needed")
	}
	return fmt.Errorf("door %q: allowed are %s", name, config.NameForm)
}

// checkSource reads a source and returns it in the one form in which the
// gateway compares them; "" only where it may be empty.
func checkSource(s string, empty bool) (string, error) {
	if s == "any" || s == "" && empty {
		return s, nil
	}
	if s == "" {
		return "", fmt.Errorf("source is missing: an address, a prefix or \"any\" is needed")
	}
	bad := fmt.Errorf("source %q: allowed are an address (192.0.2.7), a prefix (2001:db8::/64) and \"any\"", s)
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return "", fmt.Errorf("source %q: the fence knows no zones: leave out %q", s, "%"+a.Zone())
		}
		return checkAddr(a.Unmap(), bad)
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return "", bad
	case p.Addr().Is4In6():
		return "", fmt.Errorf("source %q: write the IPv4 prefix itself", s)
	case p.Bits() == 0:
		return "", fmt.Errorf("source %q is everybody: write \"any\" if that is meant", s)
	case p.IsSingleIP():
		return checkAddr(p.Addr(), bad)
	}
	return p.Masked().String(), nil
}

// checkAddr returns the address's text, or bad for one that nobody comes from.
func checkAddr(a netip.Addr, bad error) (string, error) {
	if a.IsUnspecified() || a.IsMulticast() {
		return "", bad
	}
	return a.String(), nil
}

// checkTime says whether s is a duration of a sensible length, or empty.
func checkTime(what, s string) error {
	if s == "" {
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > maxTime {
		return fmt.Errorf("%s %q: allowed is a duration above 0 and up to a year, such as \"30s\", \"10m\" or \"8h\"", what, s)
	}
	return nil
}
