package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/visit"
)

// sealedOptions are the flags and arguments of a knock at a PROFILE.
type sealedOptions struct {
	profile string
	door    string
	openFor time.Duration
	address string
	close   bool
	extend  bool
	rescue  bool
	match   bool
}

// flags adds the flags that go with a PROFILE only, and returns their names.
func (o *sealedOptions) flags(f *pflag.FlagSet) {
	f.DurationVar(&o.openFor, "open-for", 0, "PROFILE: ask for this `TIME`, such as 2h, instead of what the door says")
	f.StringVar(&o.address, "address", "", "PROFILE: open to this `ADDRESS`, instead of to the one that the knock comes from")
	f.BoolVar(&o.close, "close", false, "PROFILE: take back what your key has opened for you")
	f.BoolVar(&o.extend, "extend", false, "PROFILE: only if the door is open to you, keep it open longer")
	f.BoolVar(&o.rescue, "rescue", false, "PROFILE: ask for a rescue code, and knock with that instead of the key")
	f.BoolVar(&o.match, "quiet-match", false, "PROFILE: for ssh's Match exec: knock only if need be, ask nobody, and say nothing")
}

// sealed says whether the command line is a knock at a PROFILE: without the ports of
// touches it can be nothing else.
func (o *knockOptions) sealed() bool { return o.from == "" && len(o.touch) == 0 }

// only refuses a flag that does not go with the kind of knock.
func (o *knockOptions) only(f *pflag.FlagSet) error {
	not, why := ofProfile, "goes with a PROFILE: touches can ask for nothing"
	if o.sealed() {
		not, why = ofTouches, "goes with --touch or --from, and not with a PROFILE"
	}
	for _, name := range not {
		if f.Changed(name) {
			return fmt.Errorf("--%s %s", name, why)
		}
	}
	return nil
}

// parseSealed checks the command line of a knock at a PROFILE. It does not look for the
// profile.
func (o *knockOptions) parseSealed(args []string) error {
	switch {
	case len(args) > 2:
		return fmt.Errorf("%q: one PROFILE and one DOOR only; a command goes after \"--\"", args[2])
	case o.at.close && o.at.extend:
		return errors.New("--close and --extend exclude one another")
	case o.at.close && (o.wait != "" || o.stdio || len(o.argv) > 0 || o.at.openFor != 0):
		return errors.New("--close goes with none of --wait, --stdio, --open-for and a command: nothing is open after it")
	case o.at.match && (o.wait != "" || o.stdio || o.json || len(o.argv) > 0 || o.at != sealedOptions{match: true}):
		return errors.New("--quiet-match goes with a PROFILE and a DOOR alone")
	case o.at.openFor < 0 || o.at.openFor%time.Second != 0:
		return fmt.Errorf("--open-for %v: allowed are whole seconds, such as 90s or 2h", o.at.openFor)
	}
	o.at.profile = args[0]
	if len(args) > 1 {
		o.at.door = args[1]
	}
	if o.at.address == "" {
		return nil
	}
	a, err := netip.ParseAddr(o.at.address)
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("--address %q: allowed is an IP address, such as 203.0.113.7 or 2001:db8::7", o.at.address)
	}
	return nil
}

// notAProfile is the error where neither the ports of touches are there nor a profile.
func (o *knockOptions) notAProfile(e *env) error {
	err := fmt.Errorf("there is no profile %q, and --touch is missing: the ports of the knock, such as --touch 59000,59002", o.at.profile)
	in, none := e.directory()
	if none != nil {
		return err
	}
	return withHint(err, "%s", orProfiles(e, in))
}

// load reads the profile.
func (o *sealedOptions) load(e *env) (*passage, error) {
	p, err := loadPassage(e, o.profile, o.door)
	if err != nil {
		return nil, err
	}
	switch {
	case o.close:
		p.request.Action = seal.Close
	case o.extend:
		p.request.Action = seal.Extend
	}
	p.request.OpenFor = o.openFor
	if o.address != "" {
		a, _ := netip.ParseAddr(o.address) // it was checked
		p.request.Address = a.Unmap()
	}
	return p, nil
}

// attemptSealed knocks at a profile, waits, says what came of it, and lets follow what is to.
func (o *knockOptions) attemptSealed(ctx context.Context, e *env, v *visit.Visitor, say func(string, ...any)) error {
	p, err := o.at.load(e)
	if errors.Is(err, profile.ErrNone) || profile.CheckName(o.at.profile) != nil {
		return &usageError{o.notAProfile(e)}
	}
	if err != nil {
		return err
	}
	if o.at.match {
		return newEntrance(e, p).match(ctx)
	}
	p.family = map[visit.Family]client.Family{visit.Both: client.Both, visit.IPv4: client.IPv4, visit.IPv6: client.IPv6}[o.family()]
	o.host = p.profile.Hosts[0]
	if o.at.rescue {
		err = p.rescue(ctx)
	} else {
		err = p.unlock(ctx)
	}
	if err != nil && ctx.Err() != nil {
		return interrupted(ctx, "before the knock was begun")
	}
	if err != nil {
		return err
	}
	if p.profile.OneWay && !o.at.rescue {
		return o.oneWay(ctx, p, v, say)
	}
	n := newEntrance(e, p)
	stay := n.stay(ctx)
	r, err := p.visit(ctx)
	n.knocked(r)
	stay.End()
	k := &knocked{}
	if err == nil && o.waitPort != 0 {
		k.complete = attempts(r)
		o.await(ctx, v, k, o.timeout)
	}
	if o.json {
		if err := printSealed(p, o, r, k.opened); err != nil {
			return err
		}
	}
	if err != nil {
		return failed(ctx, err)
	}
	for _, line := range lines(r, e.clock()) {
		say("%s", line)
	}
	p.notEverywhere(r)
	if o.waitPort != 0 && ctx.Err() != nil {
		return interrupted(ctx, "while waiting")
	}
	o.doorPorts = doorPorts(r)
	return o.finish(ctx, e, k.opened, say)
}

// attempts are the addresses of the gateway that have opened, as --wait asks them.
func attempts(r client.Result) (all []visit.Attempt) {
	for _, a := range r.Answers {
		if a.Status == seal.Opened {
			all = append(all, visit.Attempt{Address: a.Gateway.Addr(), Touches: []visit.Touch{{Took: a.RoundTrip}}})
		}
	}
	return all
}

// oneWay knocks with single packets, which nobody answers.
func (o *knockOptions) oneWay(ctx context.Context, p *passage, v *visit.Visitor, say func(string, ...any)) error {
	sent, err := p.single(ctx)
	k := &knocked{}
	if err == nil && o.waitPort != 0 {
		for _, s := range sent {
			k.complete = append(k.complete, visit.Attempt{Address: s.Gateway.Addr()})
		}
		o.await(ctx, v, k, o.timeout)
	}
	if o.json {
		if err := printSent(p, o, sent, k.opened); err != nil {
			return err
		}
	}
	if err != nil {
		return failed(ctx, err)
	}
	for _, s := range sent {
		say("a single packet was sent to %s, %s; nobody answers those", s.Gateway.Addr(), forWhom(s.Source))
	}
	if o.waitPort != 0 && ctx.Err() != nil {
		return interrupted(ctx, "while waiting")
	}
	return o.finish(ctx, p.e, k.opened, say)
}

func forWhom(source netip.Addr) string {
	if !source.IsValid() {
		return "for whoever it comes from"
	}
	return "for " + source.String()
}

// notOpenSealed adds to the error of a port that stayed shut after the gateway has opened the
// door what may be the reason.
func (o *knockOptions) notOpenSealed(err error) error {
	if len(o.doorPorts) == 0 {
		return withHint(err, "nobody says whether a single packet has arrived: is the port the door's, has your address another name there (--address), and is the clock right?")
	}
	if !slices.ContainsFunc(o.doorPorts, func(p seal.Port) bool { return !p.UDP && p.First <= o.waitPort && o.waitPort <= p.Last }) {
		return withHint(err, "the door is open, and its ports are %s: --wait one of those", portList(o.doorPorts))
	}
	return withHint(err, "the door is open: something between here and there drops the connection, such as a firewall of the provider's")
}

// doorPorts are the door's, as the gateway has told them.
func doorPorts(r client.Result) []seal.Port {
	for _, a := range r.Answers {
		if len(a.Ports) > 0 {
			return a.Ports
		}
	}
	return nil
}

// portList writes the ports of a door as they are configured.
func portList(ports []seal.Port) string {
	var all []string
	for _, p := range ports {
		proto := "tcp"
		if p.UDP {
			proto = "udp"
		}
		if p.First == p.Last {
			all = append(all, fmt.Sprintf("%d/%s", p.First, proto))
		} else {
			all = append(all, fmt.Sprintf("%d-%d/%s", p.First, p.Last, proto))
		}
	}
	return strings.Join(all, ", ")
}

// completeProfiles proposes the user's profiles, and a profile's doors.
func completeProfiles(e *env) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		in, err := e.directory()
		if err != nil || len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) == 1 {
			p, _ := in.Load(args[0])
			return p.Doors, cobra.ShellCompDirectiveNoFileComp
		}
		names, _ := in.Names()
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
