package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/sealed"
	"github.com/doorward/doorward/internal/tables"
)

// sheet makes rescue codes, and prints them for paper.
func (o *inviteOptions) sheet(ctx context.Context, e *env, daemon *control.Client) error {
	hosts, err := o.gateway(ctx, e, daemon)
	if err != nil {
		return err
	}
	made, err := orderSealed[sealed.Rescue](ctx, daemon, sealed.OrderRescue, sealed.RescueArgs{Count: o.rescue, Door: o.Door})
	if err != nil {
		return err
	}
	line, err := lineOf(made.Invite, hosts)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(e.stdout, rescueJSON{Codes: made.Codes, Invite: line, Door: o.Door, Hosts: hosts, Port: made.Invite.Port})
	}
	_, err = e.stdout.Write(sheetText(e.clock(), o.Door, hosts, line, made))
	return err
}

// rescueJSON is what invite --rescue prints with --json.
type rescueJSON struct {
	Codes  []string `json:"codes"`  // secrets, each of which opens once
	Invite string   `json:"invite"` // the line with which a machine gets a profile of the gateway; a secret
	Door   string   `json:"door"`   // the one door that they open, "" for all
	Hosts  []string `json:"hosts"`  // where visitors find the gateway; never null
	Port   uint16   `json:"port"`
}

// folded is a text in lines of a length.
func folded(text string, length int) string {
	var b strings.Builder
	for part := range slices.Chunk([]byte(text), length) {
		fmt.Fprintf(&b, "  %s\n", part)
	}
	return b.String()
}

// sheetText is a sheet of rescue codes.
func sheetText(now time.Time, door string, hosts []string, line string, made sealed.Rescue) []byte {
	var b bytes.Buffer
	to, name := "every door", profile.NameFor(hosts)
	if door != "" {
		to = "door " + door
	}
	by := "udp"
	if made.Invite.TCP {
		by = "udp and tcp"
	}
	fmt.Fprintf(&b, "RESCUE CODES for %s at %s\n", to, tables.Listed(hosts))
	fmt.Fprintf(&b, "made %s; the knock is at port %d (%s)\n\n", now.Format("2 January 2006"), made.Invite.Port, by)
	for i, code := range made.Codes {
		fmt.Fprintf(&b, "  %3d  [ ]  %s\n", i+1, code)
	}
	at := door
	if at != "" {
		at = " " + at
	}
	fmt.Fprintf(&b, `
Each opens once, without a key, for whoever has it: keep this sheet as you keep
spare keys of your house, and cross out what is used. With doorward:

  doorward knock %s%s --rescue

which asks for a code; then connect as ever. On a machine that does not know
the gateway yet, instead of that:

  doorward accept --rescue

which asks for an invite, and then for a code. The invite is this, as one line:

%s
If the sheet is lost: doorward keys withdraw --rescues, on the gateway.
`, name, at, folded(line, 64))
	return b.Bytes()
}
