package setup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/profile"
)

// Step is one thing that is left to do.
type Step struct {
	Words string   // a sentence, with a colon at its end if there are lines
	Lines []string // to be typed or pasted, each as it stands
}

// Written is a configuration that was made, and what is known about where it is used.
type Written struct {
	Config    *config.Config
	File      string     // where it is; "-" if it was printed
	Firewalls []Firewall // that are in the way, or may be
	Rewritten bool       // another configuration was there before
	Equipped  bool       // the files that its knocks go by are there
	Sudo      bool       // whoever reads this becomes root by sudo
}

// Left returns what is left to do until visitors get in, in the order in which to do
// it.
func (w *Written) Left() []Step {
	door := &w.Config.Doors[0]
	file := w.File
	if file == "-" {
		file = "FILE"
	}
	var steps []Step
	add := func(words string, lines ...string) { steps = append(steps, Step{words, lines}) }

	add("Keep the session that you are in open until a new one has got in. It lives on, whatever the door does.")
	if w.File == "-" {
		add("Put the text in place as FILE, readable by root and the group doorward only:",
			w.root("install -m 0640 -g doorward FILE "+config.DefaultPath))
		file = config.DefaultPath
	}
	path := ""
	if file != config.DefaultPath {
		path = " " + files.Quoted(file)
	}
	steps = append(steps, w.equip()...)
	if unit := unitOf(door); unit != "" {
		add(fmt.Sprintf("Let the daemon start and stop %s:", unit), w.root("doorward polkit"+path+" --install"))
	}
	steps = append(steps, w.WaysIn()...)
	look := ""
	if path != "" {
		look = " -c" + path
	}
	add("Have the machine looked over:", w.root("doorward doctor"+look))
	steps = append(steps, w.start(path, file))
	return append(steps, w.visitors(door, path)...)
}

// WaysIn returns what is to be done at other firewalls for knocks and visitors to arrive.
func (w *Written) WaysIn() (steps []Step) {
	for _, f := range firewallsToOpen(w.Firewalls) {
		steps = append(steps, Step{fmt.Sprintf("In this machine's firewall, %s, let knocks and visitors through:", f.Name), w.typed(f.Steps)})
	}
	return append(steps, Step{"In the provider's firewall (a security group, a router), if there is one, allow from everywhere:",
		listed(w.Config.WayIn())})
}

// start returns how to make the daemon use the file.
func (w *Written) start(path, file string) Step {
	begin := w.root("systemctl enable --now doorward")
	if path != "" {
		begin = w.root("doorwardd -c" + path)
	}
	if w.Rewritten {
		return Step{"Have the daemon use the file; it goes back by itself unless you keep it. If no daemon runs yet, start it:",
			[]string{w.root("doorward apply --confirm 60s"), begin}}
	}
	if file == config.DefaultPath {
		return Step{"Guard the door, now and after each boot:", []string{begin}}
	}
	return Step{"Guard the door:", []string{begin}}
}

// equip returns how to make the files that knocks go by, if that was not done.
func (w *Written) equip() (steps []Step) {
	if w.Equipped {
		return nil
	}
	var lines []string
	for i := range w.Config.Doors {
		for _, k := range w.Config.Doors[i].Knocks {
			r, ok := k.Rule.(knock.Equipped)
			if !ok {
				continue
			}
			var words []string
			for _, word := range r.Maker() {
				words = append(words, files.Quoted(word))
			}
			if line := w.root(strings.Join(words, " ")); !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return []Step{{"Make the gateway's key, if it is not there yet:", lines}}
}

// visitors returns how visitors get in.
func (w *Written) visitors(door *config.Door, path string) (steps []Step) {
	host := w.Config.Gateway.Host
	if invited(door) {
		return w.invite(door, host)
	}
	at := ""
	if host == "" {
		at = " --host " + anyHost
	}
	steps = []Step{{"Try it from another machine, in a new session" + patience(door) + ":", []string{Visitor(door, host)}}}
	if lines := sshConfig(door, host); len(lines) > 0 {
		steps = append(steps, Step{"Or have ssh, scp and git knock by themselves, in the visitor's ~/.ssh/config:", lines})
	}
	if _, ok := touching(door, host); ok {
		of := ""
		if path != "" {
			of = " -c" + path
		}
		steps = append(steps, Step{"Give the knock to others, encrypted to their SSH keys:", []string{w.root("doorward share" + of + at + " --to alice.pub")}})
	}
	return steps
}

// invite returns how visitors get in who are invited.
func (w *Written) invite(door *config.Door, host string) []Step {
	at, name := "", profile.NameFor([]string{host})
	if host == "" {
		at, host, name = " --host "+anyHost, anyHost, "PROFILE"
	}
	steps := []Step{
		{"Invite yourself, and later others. It prints a line, which is a secret until it is used:",
			[]string{w.root("doorward invite --door " + door.Name + " --for YOU" + at)}},
	}
	accept, then := []string{"doorward accept LINE"}, "doorward knock "+name+" "+door.Name
	n, tcp := firstTCP(door)
	if tcp && door.SSH() {
		accept = append(accept, "doorward ssh-config "+name+" --install")
		if then = "ssh USER@" + host; n != 22 {
			then += fmt.Sprintf(" -p %d", n)
		}
	}
	return append(steps,
		Step{"On your machine, with your SSH key in its agent, and that line for LINE:", accept},
		Step{"Try it from there, in a new session:", []string{then}})
}

// root returns what to type for a command that needs root.
func (w *Written) root(command string) string {
	if w.Sudo {
		return "sudo " + command
	}
	return command
}

// firewallPrograms are the programs that a firewall's steps run; steps that begin
// otherwise are words.
var firewallPrograms = []string{"ufw", "firewall-cmd", "nft", "iptables", "ip6tables", "iptables-legacy"}

// firewallsToOpen leaves out what one command of a firewall does already: one of ufw or
// firewalld makes rules in several chains, for IPv4 and for IPv6. If a chain that only
// may be in the way still is after that, doctor says so.
func firewallsToOpen(all []Firewall) (left []Firewall) {
	program := func(f Firewall) string { name, _, _ := strings.Cut(f.Name, " ("); return name }
	opens := func(f Firewall) bool {
		command, managed := map[string]string{"ufw": "ufw ", "firewalld": "firewall-cmd "}[program(f)]
		return managed && slices.ContainsFunc(f.Steps, func(s string) bool { return strings.HasPrefix(s, command) })
	}
	for _, f := range all {
		same := func(o Firewall) bool { return program(o) == program(f) && opens(o) }
		said := slices.ContainsFunc(left, func(o Firewall) bool { return same(o) && slices.Equal(o.Steps, f.Steps) })
		if said || !opens(f) && slices.ContainsFunc(all, same) {
			continue
		}
		left = append(left, f)
	}
	return left
}

// typed turns steps into lines that can be pasted as a whole: words become comments.
func (w *Written) typed(steps []string) (lines []string) {
	for _, s := range steps {
		program, _, _ := strings.Cut(s, " ")
		if slices.Contains(firewallPrograms, program) {
			lines = append(lines, w.root(s))
		} else {
			lines = append(lines, "# "+s)
		}
	}
	return lines
}

// listed returns a line for each protocol: "TCP 22, 60000-61000".
func listed(ports []port.Range) (lines []string) {
	for _, proto := range []port.Proto{port.TCP, port.UDP} {
		var all []string
		for _, r := range ports {
			if r.Proto == proto {
				number, _, _ := strings.Cut(r.String(), "/")
				all = append(all, number)
			}
		}
		if len(all) > 0 {
			lines = append(lines, strings.ToUpper(proto.String())+" "+strings.Join(all, ", "))
		}
	}
	return lines
}

// unitOf returns the door's unit, "" for none.
func unitOf(d *config.Door) string {
	if d.Service == nil {
		return ""
	}
	return d.Service.Unit
}
