package removal

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
)

func TestWayIn(t *testing.T) {
	tcp := func(n uint16) []port.Range { return []port.Range{{Proto: port.TCP, First: n, Last: n}} }
	udp := func(n uint16) []port.Range { return []port.Range{{Proto: port.UDP, First: n, Last: n}} }
	for _, tt := range []struct {
		name  string
		ports []port.Range
		unit  string
		want  bool
	}{
		{"ssh's port", tcp(22), "", true},
		{"ssh elsewhere", tcp(2222), "ssh.socket", true},
		{"a second sshd", tcp(2222), "sshd-fallback.service", true},
		{"dropbear", tcp(2222), "dropbear.service", true},
		{"WireGuard", udp(51820), "", true},
		{"WireGuard elsewhere", udp(443), "wg-quick@wg0.service", true},
		{"OpenVPN over TCP", tcp(1194), "", true},
		{"IPsec", udp(4500), "", true},
		{"not WireGuard's", tcp(51820), "", false},
		{"a panel", tcp(8443), "panel.service", false},
		{"a database that always runs", tcp(5432), "", false},
	} {
		d := config.Door{Name: "x", Ports: tt.ports}
		if tt.unit != "" {
			d.Service = &config.Service{Unit: tt.unit}
		}
		if got := WayIn(&d); got != tt.want {
			t.Errorf("%s: WayIn is %v, want %v", tt.name, got, tt.want)
		}
	}
}

var (
	ssh    = Door{Name: "ssh", Ports: "22/tcp", WayIn: true, Unit: "ssh.service"}
	panel  = Door{Name: "panel", Ports: "8443/tcp", Unit: "panel.service"}
	always = Door{Name: "db", Ports: "5432/tcp", Runs: true}
)

// with changes a copy of a door.
func with(d Door, change func(*Door)) Door {
	change(&d)
	return d
}

func boot(d *Door) { d.Boot = true }
func runs(d *Door) { d.Runs = true }
func ran(d *Door)  { d.Ran = true }

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    Machine
		all  bool
		want Plan
	}{
		{"SSH is dark, and starts at boot", Machine{Fence: true, Boot: true, Doors: []Door{with(ssh, boot)}}, false,
			Plan{Open: []int{0}, Start: []int{0}}},
		{"SSH is dark, and doorward alone starts it", Machine{Fence: true, Boot: true, Doors: []Door{ssh}}, false,
			Plan{Open: []int{0}, Start: []int{0}, Enable: []int{0}}},
		{"SSH runs, and doorward alone starts it", Machine{Fence: true, Boot: true, Doors: []Door{with(ssh, runs)}}, false,
			Plan{Open: []int{0}, Enable: []int{0}}},
		{"doorward was tried out, and is not started at boot", Machine{Fence: true, Doors: []Door{ssh}}, false,
			Plan{Open: []int{0}, Start: []int{0}}},
		{"doorward was never in use, and SSH is off on purpose", Machine{Doors: []Door{ssh}}, false, Plan{Open: []int{0}}},
		{"the fence was taken down by hand", Machine{Boot: true, Doors: []Door{with(ssh, boot)}}, false,
			Plan{Open: []int{0}, Start: []int{0}}},
		{"a panel beside it stays closed", Machine{Fence: true, Boot: true, Doors: []Door{with(panel, boot), with(ssh, boot)}}, false,
			Plan{Open: []int{1}, Closed: []int{0}, Start: []int{1}, Later: []int{0}}},
		{"a panel that somebody had started", Machine{Fence: true, Boot: true, Doors: []Door{with(panel, ran)}}, false,
			Plan{Closed: []int{0}, Later: []int{0}}},
		{"everything, and a panel that somebody had started", Machine{Fence: true, Boot: true, Doors: []Door{with(panel, ran)}}, true,
			Plan{Open: []int{0}, Start: []int{0}}},
		{"a panel that was never to run by itself", Machine{Fence: true, Boot: true, Doors: []Door{panel, always}}, false,
			Plan{Closed: []int{0, 1}}},
		{"a panel behind no fence", Machine{Doors: []Door{with(panel, boot)}}, false, Plan{}},
		{"everything", Machine{Fence: true, Boot: true, Doors: []Door{with(panel, boot), always, ssh}}, true,
			Plan{Open: []int{0, 1, 2}, Start: []int{0, 2}, Enable: []int{2}}},
		{"everything, and a panel that was never to run by itself", Machine{Fence: true, Boot: true, Doors: []Door{panel}}, true,
			Plan{Open: []int{0}}},
	} {
		if diff := cmp.Diff(tt.want, For(tt.m, tt.all)); diff != "" {
			t.Errorf("%s: the plan differs (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestNobodyIsLockedOut goes through all machines with one door to SSH: once doorward
// is removed the door is not guarded, and where doorward let people in, SSH runs, now
// and after a boot.
func TestNobodyIsLockedOut(t *testing.T) {
	for bits := range 1 << 5 {
		bit := func(n int) bool { return bits>>n&1 == 1 }
		m := Machine{Fence: bit(0), Boot: bit(1), Doors: []Door{with(ssh, func(d *Door) { d.Runs, d.Boot = bit(2), bit(3) })}}
		p := For(m, bit(4))
		d := m.Doors[0]
		if len(p.Closed) > 0 || len(p.Open) != 1 {
			t.Errorf("%+v: the door to SSH stays closed: %+v", m, p)
		}
		if (m.Fence || m.Boot) && !d.Runs && len(p.Start) != 1 {
			t.Errorf("%+v: SSH does not run: %+v", m, p)
		}
		if m.Boot && !d.Boot && len(p.Enable) != 1 {
			t.Errorf("%+v: SSH does not run after a boot: %+v", m, p)
		}
	}
}

func TestWords(t *testing.T) {
	const stays = `door panel (8443/tcp) STAYS CLOSED until the next boot: panel.service is stopped
To open what is closed, as it was without doorward, type as root:
    nft delete table inet doorward
    systemctl start panel.service
FROM THE NEXT BOOT ON NOTHING GUARDS IT. To keep systemd from starting it then, type:
    systemctl disable panel.service
`
	failed := map[int]error{0: errors.New(`unit "ssh.service" is masked; "systemctl unmask ssh.service" lifts that`)}
	for _, tt := range []struct {
		name string
		m    Machine
		out  Outcome
		want string
	}{
		{"SSH was dark", Machine{Fence: true, Boot: true, Doors: []Door{with(ssh, boot)}}, Outcome{},
			"door ssh (22/tcp) is open to everybody: ssh.service was stopped, and runs again\n"},
		{"SSH runs", Machine{Fence: true, Doors: []Door{with(ssh, runs)}}, Outcome{},
			"door ssh (22/tcp) is open to everybody: ssh.service runs\n"},
		{"doorward alone started SSH", Machine{Fence: true, Boot: true, Doors: []Door{ssh}}, Outcome{},
			"door ssh (22/tcp) is open to everybody: ssh.service was stopped, and runs again\n" +
				"ssh.service is enabled now: after a boot nothing else would have started it. To undo that, type:\n" +
				"    systemctl disable ssh.service\n"},
		{"SSH does not start", Machine{Fence: true, Boot: true, Doors: []Door{ssh}}, Outcome{Failed: failed},
			`door ssh (22/tcp) is open to everybody: but ssh.service DOES NOT RUN, or will not after a boot: unit "ssh.service" is masked; ` +
				`"systemctl unmask ssh.service" lifts that. Once that is fixed, type:` + "\n    systemctl enable --now ssh.service\n"},
		{"a panel", Machine{Fence: true, Doors: []Door{with(panel, boot)}}, Outcome{Fence: true}, stays},
		{"a panel, whose fence could not be kept", Machine{Fence: true, Doors: []Door{with(panel, boot)}}, Outcome{}, ""},
		{"what always runs", Machine{Fence: true, Doors: []Door{always}}, Outcome{Fence: true},
			"door db (5432/tcp) STAYS CLOSED until the next boot: doorward does not know what is behind it\n" +
				"To open what is closed, as it was without doorward, type as root:\n    nft delete table inet doorward\n" +
				"FROM THE NEXT BOOT ON NOTHING GUARDS IT.\n"},
	} {
		if diff := cmp.Diff(strings.Split(tt.want, "\n"), strings.Split(Words(tt.m, For(tt.m, false), tt.out), "\n")); diff != "" {
			t.Errorf("%s: the words differ (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestWithoutAConfiguration: the units that polkit lets doorward start say what the
// ways in were.
func TestWithoutAConfiguration(t *testing.T) {
	ssh := []config.Door{{Name: "ssh", Service: &config.Service{Unit: "ssh.service"}}}
	conf, others := knownBy(ssh, []string{"panel.service", "ssh.service", "wg-quick@wg0.service"})
	var units []string
	for _, d := range conf.Doors {
		units = append(units, d.Service.Unit)
	}
	if diff := cmp.Diff([]string{"ssh.service", "wg-quick@wg0.service"}, units); diff != "" {
		t.Errorf("the ways in differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"panel.service"}, others); diff != "" {
		t.Errorf("what is no way in differs (-want +got):\n%s", diff)
	}
	m := Machine{Fence: true, Doors: []Door{{Name: "wg-quick@wg0.service", WayIn: true, Unit: "wg-quick@wg0.service", Boot: true}}}
	got := Words(m, For(m, true), Outcome{}) + othersWords(others) + othersWords(nil)
	want := "door wg-quick@wg0.service is open to everybody: wg-quick@wg0.service was stopped, and runs again\n" +
		"doorward may have stopped other units, which are left as they are. To start them, with nothing to guard them, type:\n" +
		"    systemctl start panel.service\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the words differ (-want +got):\n%s", diff)
	}
}
