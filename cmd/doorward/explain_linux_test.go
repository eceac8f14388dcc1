package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/port"
)

// What other firewalls do changes the verdict where it is certain, and no port of a
// knock is shown.
func TestWhatOtherFirewallsDo(t *testing.T) {
	yes, no := true, false
	drops := doctor.Finding{Verdict: doctor.Problem, Where: "ufw (table inet f, chain i)", What: "drops what 192.0.2.7 sends to 22/tcp", Do: "ufw allow x\nufw reload"}
	may := doctor.Finding{Verdict: doctor.Warning, Where: "f", What: "may drop it", Do: ""}
	note := doctor.Finding{Verdict: doctor.Note, Where: "iptables-legacy", What: "has the tables filter", Do: "iptables-legacy -S; see"}
	for _, tt := range []struct {
		name           string
		in             *bool
		doors, knocks  []doctor.Finding
		want           *bool
		wantKnock      bool
		wantsObstacles []string
	}{
		{"nothing", &yes, nil, nil, &yes, true, nil},
		{"it drops", &yes, []doctor.Finding{drops}, nil, &no, true, []string{"ufw (table inet f, chain i): drops what 192.0.2.7 sends to 22/tcp | ufw allow x"}},
		{"it may drop", &yes, []doctor.Finding{may}, nil, nil, true, []string{"f: may drop it | "}},
		{"it may drop what does not get in", &no, []doctor.Finding{may}, nil, &no, true, []string{"f: may drop it | "}},
		{"both", &yes, []doctor.Finding{drops, may}, nil, &no, true, []string{"ufw (table inet f, chain i): drops what 192.0.2.7 sends to 22/tcp | ufw allow x", "f: may drop it | "}},
		{"what cannot be read", &yes, []doctor.Finding{note}, []doctor.Finding{note}, &yes, true, []string{"iptables-legacy: has the tables filter | iptables-legacy -S"}},
		{"knocks", &no, nil, []doctor.Finding{may, drops}, &no, false, []string{"rules of another firewall drop what it sends to ports of the door's knocks | doorward doctor"}},
		{"knocks perhaps", &no, nil, []doctor.Finding{may}, &no, true, []string{"rules of another firewall may drop what it sends to ports of the door's knocks | doorward doctor"}},
	} {
		d := control.ExplainedFor{Ports: []string{"22/tcp"}, GetsIn: tt.in, WouldKnock: true}
		do := func(ports []port.Range) []doctor.Finding {
			if len(ports) == 1 && ports[0].First == 22 {
				return tt.doors
			}
			return tt.knocks
		}
		if err := throughFirewalls(&d, do, []port.Range{{Proto: port.TCP, First: 59000, Last: 59000}}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range d.Obstacles {
			got = append(got, o.Message+" | "+o.Hint)
		}
		if diff := cmp.Diff(tt.wantsObstacles, got) + cmp.Diff(tt.want, d.GetsIn); diff != "" || d.WouldKnock != tt.wantKnock {
			t.Errorf("%s: would knock %v (-want +got):\n%s", tt.name, d.WouldKnock, diff)
		}
	}
	own := control.ExplainedFor{GetsIn: &yes, Obstacles: []control.Obstacle{{Code: control.ObstacleOwn}}}
	if err := throughFirewalls(&own, nil, nil); err != nil || len(own.Obstacles) != 1 {
		t.Errorf("of this machine itself: %v, %v; want that nobody looks", own.Obstacles, err)
	}
}
