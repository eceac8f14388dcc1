package config

import "strings"

// mistakeCase is a text with mistakes, and all messages about them.
type mistakeCase struct {
	name, in string
	want     []string // without the file's name
}

var formCases = []mistakeCase{
	{"empty file", "", []string{
		`1: door: missing: there is nothing to guard: allowed are tables such as [door.ssh], which doorward init writes`}},
	{"no TOML", "[door.ssh]\nports = [\n", []string{`2: not TOML: array is incomplete`}},
	{"a key twice", "[gateway]\nstate = \"/a\"\nstate = \"/b\"\n", []string{
		`3: state: not TOML: key state is already defined`}},
	{"unknown keys everywhere, with a guess", `gatway = 1
[gateway]
stat = "/a"
[door.ssh]
ports = ["22/tcp"]
open-for = "30s"
colour = "red"
[door.ssh.service]
unit = "ssh.service"
units = ["a"]
[door.ssh.presence]
idel = "1h"
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001]
touch = [59000]
witin = "1m"
`, []string{
		`1: gatway: unknown key: did you mean "gateway"?: allowed are gateway, door`,
		`3: gateway.stat: unknown key: did you mean "state"?: allowed are state, control, metrics, records, host`,
		`6: door.ssh.open-for: unknown key: did you mean "open_for"?: allowed are ports, open_for, ` +
			`single_use, refuse, always, penalties, service, presence, knock`,
		`7: door.ssh.colour: unknown key: allowed are ports, open_for, single_use, refuse, always, penalties, service, presence, knock`,
		`10: door.ssh.service.units: unknown key: did you mean "unit"?: allowed are unit, start, stop, status, timeout`,
		`12: door.ssh.presence.idel: unknown key: did you mean "idle"?: allowed are idle, logins, connections`,
		`17: door.ssh.knock[0].witin: unknown key: did you mean "within"?: allowed are kind, listen, touch, order, ` +
			`within, judge, penalty, scope`,
	}},
	{"every key of a wrong type", `[gateway]
state = 1
control = ["/a"]
metrics = true
records = "log"
[door.ssh]
ports = "22/tcp"
open_for = 30
single_use = "no"
refuse = false
always = "192.0.2.0/24"
[door.ssh.service]
unit = 1.5
timeout = 1979-05-27
[door.ssh.presence]
idle = 60
logins = 5
connections = 0
[[door.ssh.knock]]
kind = "touch"
listen = 59000
touch = ["59000", "59000/tcp", 59000.0]
order = ["any"]
within = {}
judge = 60
penalty = inf
scope = 1
`, []string{
		`2: gateway.state: 1: an integer, not a string: allowed are absolute paths such as "/var/lib/doorward"`,
		`3: gateway.control: a list, not a string: allowed are absolute paths such as "/run/doorward/control.sock"`,
		`4: gateway.metrics: true: a boolean, not a string: allowed are "" for none, and an address with a port ` +
			`such as "127.0.0.1:9472", "[::1]:9472"`,
		`5: gateway.records: "log": a string, not a list: allowed are lists of ` + recordsForm,
		`7: door.ssh.ports: "22/tcp": a string, not a list: allowed are lists of ports and ranges such as ` +
			`"22/tcp", "60000-61000/udp"`,
		`8: door.ssh.open_for: 30: an integer, not a string: allowed are durations such as "30s", "5m", "1h"`,
		`9: door.ssh.single_use: "no": a string, not a boolean: allowed are true and false`,
		`10: door.ssh.refuse: false: a boolean, not a string: allowed are "drop" and "reject"`,
		`11: door.ssh.always: "192.0.2.0/24": a string, not a list: allowed are lists of prefixes such as ` +
			`"203.0.113.0/24", "2001:db8::/48"`,
		`13: door.ssh.service.unit: 1.5: a float, not a string: allowed are units such as "ssh.service", "ssh.socket"`,
		`14: door.ssh.service.timeout: 1979-05-27: a date or time, not a string: allowed are durations ` +
			`such as "30s", "5m", "1h"`,
		`16: door.ssh.presence.idle: 60: an integer, not a string: allowed are durations such as "30s", "5m", "1h", and "never"`,
		`17: door.ssh.presence.logins: 5: an integer, not a list: allowed are "auto", "journal", "off", ` +
			`and lists of files, newest first`,
		`18: door.ssh.presence.connections: 0: an integer, not a boolean: allowed are true and false`,
		`21: door.ssh.knock[0].listen: 59000: an integer, not a list: allowed are lists of port numbers such as ` +
			`[59000, 59001, 59002]`,
		`22: door.ssh.knock[0].touch[0]: "59000": a string, not an integer: allowed are port numbers, 1 to 65535`,
		`22: door.ssh.knock[0].touch[1]: "59000/tcp": a string, not an integer: allowed are port numbers, 1 to 65535`,
		`22: door.ssh.knock[0].touch[2]: 59000.0: a float, not an integer: allowed are port numbers, 1 to 65535`,
		`23: door.ssh.knock[0].order: a list, not a string: allowed are "any" and "given"`,
		`24: door.ssh.knock[0].within: a table, not a string: allowed are durations such as "30s", "5m", "1h"`,
		`25: door.ssh.knock[0].judge: 60: an integer, not a string: allowed are "at once", and intervals such as "every 1m"`,
		`26: door.ssh.knock[0].penalty: +Inf: a float, not a string: allowed are durations such as "30s", "5m", "1h"`,
		`27: door.ssh.knock[0].scope: 1: an integer, not a string: allowed are "source" and "door"`,
	}},
	{"tables that are none", `gateway = "x"
[door]
a = 1
[[door.b]]
ports = ["1/tcp"]
[door.c]
ports = ["2/tcp"]
service = "ssh.service"
presence = ["1h"]
[door.c.knock]
kind = "touch"
[door.d]
ports = ["3/tcp"]
knock = [1]
`, []string{
		`1: gateway: "x": a string, not a table: allowed are tables: write [gateway]`,
		`3: door.a: 1: an integer, not a table: allowed are tables: write [door.a]`,
		`4: door.b[0].knock: missing: allowed are one or more tables: write [[door.b[0].knock]]`,
		`4: door.b: a list of tables: allowed are one table: write [door.b]`,
		`8: door.c.service: "ssh.service": a string, not a table: allowed are tables: write [door.c.service]`,
		`9: door.c.presence: a list, not a table: allowed are tables: write [door.c.presence]`,
		`10: door.c.knock: one table, not a list of them: allowed are one or more tables: write [[door.c.knock]]`,
		`10: door.c.knock.listen: missing: allowed are lists of port numbers such as [59000, 59001, 59002]`,
		`10: door.c.knock.touch: missing: allowed are lists of port numbers such as [59000, 59001, 59002]`,
		`14: door.d.knock[0]: 1: an integer, not a table: allowed are tables: write [door.d.knock[0]]`,
	}},
	{"tables within a knock", ssh + oneKnock + "[door.ssh.knock.extra]\na = 1\n" + `[[door.ssh.knock]]
kind = "touch"
listen = [
  59100, # a comment
  59101,
]
touch = [59100]
[[door.ssh.knock.more]]
[[door.ssh.knock.more]]
[door.ssh.knock.more.still]
`, []string{
		`7: door.ssh.knock[0].extra: unknown key: allowed are kind, listen, touch, order, within, judge, penalty, scope`,
		`16: door.ssh.knock[1].more: unknown key: allowed are kind, listen, touch, order, within, judge, penalty, scope`,
	}},
	{"a name that is no word", strings.Repeat("x", 70) + " = 1\n\"op n\" = 1\n" + ssh + "refuse = \"\"\n" + oneKnock, []string{
		`1: ` + strings.Repeat("x", 70) + `: unknown key: allowed are gateway, door`,
		`2: "op n": unknown key: allowed are gateway, door`,
		`5: door.ssh.refuse: "": not one of the allowed words: allowed are "drop" and "reject"`,
	}},
	{"door is no table", "door = 1\n", []string{`1: door: 1: an integer, not a table: allowed are tables: write [door]`}},
	{"no doors in the table", "[door]\n", []string{
		`1: door: missing: there is nothing to guard: allowed are tables such as [door.ssh], which doorward init writes`}},
	{"a host", "[gateway]\nhost = \"gate:22\"\n" + ssh + oneKnock, []string{
		`2: gateway.host: "gate:22": not the name or address of a machine: allowed are "" for none, and names and addresses ` +
			`such as "gate.example.org"`,
	}},
	{"gateway paths", `[gateway]
state = "var/lib"
control = "/run/../run/x.sock"
metrics = "localhost:9472"
` + ssh + oneKnock, []string{
		`2: gateway.state: "var/lib": not an absolute path: allowed are absolute paths such as "/var/lib/doorward"`,
		`3: gateway.control: "/run/../run/x.sock": not a plain path: allowed are absolute paths such as "/run/doorward/control.sock"`,
		`4: gateway.metrics: "localhost:9472": not an address with a port: allowed are "" for none, and an address ` +
			`with a port such as "127.0.0.1:9472", "[::1]:9472"`,
	}},
	{"more gateway paths", `[gateway]
state = "/"
control = "/` + strings.Repeat("x", 107) + `"
metrics = "127.0.0.1:0"
` + ssh + oneKnock, []string{
		`2: gateway.state: "/": not a plain path: allowed are absolute paths such as "/var/lib/doorward"`,
		`3: gateway.control: "/` + strings.Repeat("x", 107) + `": 108 bytes long: allowed are 107 bytes for a socket's path`,
		`4: gateway.metrics: "127.0.0.1:0": port 0: allowed are "" for none, and an address with a port ` +
			`such as "127.0.0.1:9472", "[::1]:9472"`,
	}},
	{"records", `[gateway]
records = ["log", "jornal", 1, "log", "unix:dev/log", "unix:/dev//log", "unix:/` + strings.Repeat("x", 107) + `", "udp:loghost:514",
	"udp:192.0.2.10:0", "udp:[::ffff:192.0.2.1]:514", "udp:0.0.0.0:514", "udp:[fe80::1%eth0]:514", "tcp:192.0.2.10:514",
	"udp:192.0.2.10:514", "udp:192.0.2.11:514", "udp:192.0.2.12:514", "udp:192.0.2.13:514", "udp:192.0.2.14:514"]
` + ssh + oneKnock, []string{
		`2: gateway.records[1]: "jornal": did you mean "journal"?: allowed are ` + recordsForm,
		`2: gateway.records[2]: 1: an integer, not a string: allowed are ` + recordsForm,
		`2: gateway.records[3]: "log": listed twice: allowed are ` + recordsForm,
		`2: gateway.records[4]: "unix:dev/log": no absolute path after "unix:": allowed are ` + recordsForm,
		`2: gateway.records[5]: "unix:/dev//log": not a plain path: allowed are ` + recordsForm,
		`2: gateway.records[6]: "unix:/` + strings.Repeat("x", 107) + `": a path of 108 bytes: allowed are 107 bytes for a socket's path`,
		`2: gateway.records[7]: "udp:loghost:514": no address with a port after "udp:": allowed are ` + recordsForm,
		`3: gateway.records[8]: "udp:192.0.2.10:0": port 0: allowed are ` + recordsForm,
		`3: gateway.records[9]: "udp:[::ffff:192.0.2.1]:514": an IPv4 address in IPv6 form: allowed are ` + recordsForm,
		`3: gateway.records[10]: "udp:0.0.0.0:514": not an address of one host: allowed are ` + recordsForm,
		`3: gateway.records[11]: "udp:[fe80::1%eth0]:514": not an address of one host: allowed are ` + recordsForm,
		`3: gateway.records[12]: "tcp:192.0.2.10:514": not one of the allowed words: allowed are ` + recordsForm,
		`4: gateway.records[17]: "udp:192.0.2.14:514": one too many: allowed are 4 sockets and servers`,
	}},
	{"empty and mapped", `[gateway]
state = ""
control = "/a\u0000b"
metrics = "[::ffff:192.0.2.1]:9472"
` + ssh + oneKnock, []string{
		`2: gateway.state: "": empty: allowed are absolute paths such as "/var/lib/doorward"`,
		`3: gateway.control: "/a\x00b": has a zero byte: allowed are absolute paths such as "/run/doorward/control.sock"`,
		`4: gateway.metrics: "[::ffff:192.0.2.1]:9472": an IPv4 address in IPv6 form: allowed are "" for none, ` +
			`and an address with a port such as "127.0.0.1:9472", "[::1]:9472"`,
	}},
}

var doorCases = []mistakeCase{
	{"names", `[door.SSH]
ports = ["1/tcp"]
knock = [{kind = "touch", listen = [11, 12], touch = [11]}]
[door.a-name-of-25-characters-x]
ports = ["2/tcp"]
knock = [{kind = "touch", listen = [21, 22], touch = [21]}]
[door."a b"]
ports = ["3/tcp"]
knock = [{kind = "touch", listen = [31, 32], touch = [31]}]
[door.""]
ports = ["4/tcp"]
knock = [{kind = "touch", listen = [41, 42], touch = [41]}]
`, []string{
		`1: door.SSH: a name that starts with "S": allowed are 1 to 24 characters of a-z, 0-9, - and _, a letter first`,
		`4: door.a-name-of-25-characters-x: a name of 25 characters: allowed are 1 to 24 characters ` +
			`of a-z, 0-9, - and _, a letter first`,
		`7: door."a b": a name with characters that are not allowed: allowed are 1 to 24 characters ` +
			`of a-z, 0-9, - and _, a letter first`,
		`10: door."": a door without a name: allowed are 1 to 24 characters of a-z, 0-9, - and _, a letter first`,
	}},
	{"nothing but a name", "[door.ssh]\n", []string{
		`1: door.ssh.knock: missing: allowed are one or more tables: write [[door.ssh.knock]]`,
		`1: door.ssh.ports: missing: allowed are lists of ports and ranges such as "22/tcp", "60000-61000/udp"`,
	}},
	{"nothing in the lists", "[door.ssh]\nports = []\nknock = []\n", []string{
		`2: door.ssh.ports: []: empty: there is nothing to guard: allowed are lists of ports and ranges ` +
			`such as "22/tcp", "60000-61000/udp"`,
		`3: door.ssh.knock: []: empty: nobody could open the door: allowed are one or more tables: ` +
			`write [[door.ssh.knock]]`,
	}},
	{"ports", `[door.ssh]
ports = [
  22,
  "22",
  "22/sctp",
  "0/tcp",
  "70000/tcp",
  "30-20/udp", # backwards
  true,
]
` + oneKnock, []string{
		`3: door.ssh.ports[0]: 22: no protocol: allowed are ports and ranges such as "22/tcp", "60000-61000/udp"`,
		`4: door.ssh.ports[1]: "22": has no protocol: write "22/tcp" or "22/udp"`,
		`5: door.ssh.ports[2]: "22/sctp": protocol "sctp" is not known: allowed are tcp and udp`,
		`6: door.ssh.ports[3]: "0/tcp": port "0": allowed are 1 to 65535`,
		`7: door.ssh.ports[4]: "70000/tcp": port "70000": allowed are 1 to 65535`,
		`8: door.ssh.ports[5]: "30-20/udp": the range runs backwards: write "20-30/udp"`,
		`9: door.ssh.ports[6]: true: a boolean, not a string: allowed are ports and ranges such as "22/tcp", "60000-61000/udp"`,
	}},
	{"words", ssh + "refuse = \"regect\"\n" + oneKnock + "order = \"gven\"\nscope = \"visitor\"\n", []string{
		`3: door.ssh.refuse: "regect": did you mean "reject"?: allowed are "drop" and "reject"`,
		`8: door.ssh.knock[0].order: "gven": did you mean "given"?: allowed are "any" and "given"`,
		`9: door.ssh.knock[0].scope: "visitor": not one of the allowed words: allowed are "source" and "door"`,
	}},
	{"prefixes", ssh + `always = [
  "192.0.2.7/24",
  "2001:db8::1/48",
  "::ffff:192.0.2.0/120",
  "192.0.2.7",
  "fe80::1%eth0/64",
  "example.org",
  "198.51.100.0/24",
  "198.51.100.0/24",
  "198.51.100.128/25",
  "198.51.0.0/16",
]
` + oneKnock, []string{
		`4: door.ssh.always[0]: "192.0.2.7/24": host bits are set after the first 24: allowed are "192.0.2.0/24" ` +
			`for the prefix, and "192.0.2.7/32" for the one address`,
		`5: door.ssh.always[1]: "2001:db8::1/48": host bits are set after the first 48: allowed are "2001:db8::/48" ` +
			`for the prefix, and "2001:db8::1/128" for the one address`,
		`6: door.ssh.always[2]: "::ffff:192.0.2.0/120": an IPv4 prefix in IPv6 form: allowed are prefixes ` +
			`such as "203.0.113.0/24", "2001:db8::/48"`,
		`7: door.ssh.always[3]: "192.0.2.7": no prefix length: allowed are prefixes such as "203.0.113.0/24", "2001:db8::/48"`,
		`8: door.ssh.always[4]: "fe80::1%eth0/64": not a prefix: allowed are prefixes such as "203.0.113.0/24", "2001:db8::/48"`,
		`9: door.ssh.always[5]: "example.org": not a prefix: allowed are prefixes such as "203.0.113.0/24", "2001:db8::/48"`,
		`11: door.ssh.always[7]: "198.51.100.0/24": listed twice`,
		`12: door.ssh.always[8]: "198.51.100.128/25": "198.51.100.128/25" lies within "198.51.100.0/24"`,
		`13: door.ssh.always[9]: "198.51.0.0/16": "198.51.100.0/24" lies within "198.51.0.0/16"`,
	}},
	{"a grant of single use for everybody", ssh + "single_use = true\n" + oneKnock + "scope = \"door\"\n", []string{
		`3: door.ssh.single_use: true: a knock with scope = "door" opens to everybody: ` +
			`allowed are false, or scope = "source" for every knock`,
	}},
	{"nobody is seen", ssh + "presence = {idle = \"90m\", logins = \"off\", connections = false}\nservice.unit = \"ssh.service\"\n" +
		oneKnock + `[door.web]
ports = ["443/tcp"]
presence.connections = false
knock = [{kind = "touch", listen = [21, 23], touch = [21]}]
`, []string{
		`3: door.ssh.presence.idle: "90m": nobody would ever be seen: connections = false, and no logins are read; ` +
			`the door would go dark, and its service be stopped, while people are using it: allowed are "never"`,
		`11: door.web.presence.idle: "1h": the default does not work here: nobody would ever be seen: connections = false, ` +
			`and no logins are read; the door would go dark while people are using it: allowed are "never"`,
	}},
	{"whether anybody is seen is not known", `[door.ssh]
ports = ["22"]
presence = {logins = "off", connections = "no"}
` + oneKnock, []string{
		`2: door.ssh.ports[0]: "22": has no protocol: write "22/tcp" or "22/udp"`,
		`3: door.ssh.presence.connections: "no": a string, not a boolean: allowed are true and false`,
	}},
	{"open to everybody until never", ssh + "presence.idle = \"never\"\n" + oneKnock + "scope = \"door\"\n", []string{
		`3: door.ssh.presence.idle: "never": a knock with scope = "door" opens to everybody until the door goes dark: ` +
			`allowed are "1s" to "720h", or scope = "source" for every knock`,
	}},
	{"no idle", ssh + "presence.idle = \"nver\"\n" + oneKnock, []string{
		`3: door.ssh.presence.idle: "nver": not a duration: allowed are durations such as "30s", "5m", "1h", and "never"`,
	}},
	{"too long an idle", ssh + "presence.idle = \"721h\"\n" + oneKnock, []string{
		`3: door.ssh.presence.idle: "721h": too long: allowed are "1s" to "720h", and "never"`,
	}},
	{"logins", `[door.a]
ports = ["1/tcp"]
presence.logins = "jornal"
knock = [{kind = "touch", listen = [11, 12], touch = [11]}]
[door.b]
ports = ["2/tcp"]
presence.logins = "/var/log/secure"
knock = [{kind = "touch", listen = [21, 22], touch = [21]}]
[door.c]
ports = ["3/tcp"]
presence.logins = []
knock = [{kind = "touch", listen = [31, 32], touch = [31]}]
[door.d]
ports = ["4/tcp"]
presence.logins = ["secure", "/var/log/secure", 3, "/var/log/secure", "/var/log/"]
knock = [{kind = "touch", listen = [41, 42], touch = [41]}]
`, []string{
		`3: door.a.presence.logins: "jornal": did you mean "journal"?: allowed are "auto", "journal", "off", ` +
			`and lists of files, newest first`,
		`7: door.b.presence.logins: "/var/log/secure": a file, not a list of files: allowed are "auto", "journal", ` +
			`"off", and lists of files, newest first`,
		`11: door.c.presence.logins: []: empty: allowed are "auto", "journal", "off", and lists of files, newest first`,
		`15: door.d.presence.logins[0]: "secure": not an absolute path: allowed are absolute paths such as "/var/log/auth.log"`,
		`15: door.d.presence.logins[2]: 3: an integer, not a string: allowed are absolute paths such as "/var/log/auth.log"`,
		`15: door.d.presence.logins[3]: "/var/log/secure": listed twice`,
		`15: door.d.presence.logins[4]: "/var/log/": not a plain path: allowed are absolute paths such as "/var/log/auth.log"`,
	}},
}

var serviceCases = []mistakeCase{
	{"unit and commands", ssh + `[door.ssh.service]
unit = "ssh.service"
start = ["/usr/sbin/sshd"]
stop = ["/bin/true"]
` + oneKnock, []string{
		`5: door.ssh.service.start: both "unit" and "start": allowed are one of the two`,
	}},
	{"a unit's own stop", ssh + `[door.ssh.service]
unit = "ssh.service"
stop = ["/bin/true"]
status = ["/bin/true"]
` + oneKnock, []string{
		`5: door.ssh.service.stop: belongs to "start": systemd stops and watches a unit`,
		`6: door.ssh.service.status: belongs to "start": systemd stops and watches a unit`,
	}},
	{"nothing to start", ssh + "[door.ssh.service]\nstop = [\"/bin/true\"]\n" + oneKnock, []string{
		`3: door.ssh.service: neither "unit" nor "start": allowed are one of the two`,
	}},
	{"commands", ssh + `[door.ssh.service]
start = "/usr/sbin/sshd -D"
stop = ["kill", "sshd"]
status = ["/bin/sh", "-c\u0000", 1]
` + oneKnock, []string{
		`4: door.ssh.service.start: "/usr/sbin/sshd -D": a string, not a list: no shell splits it: allowed are lists ` +
			`such as ["/usr/sbin/sshd", "-D"]: a program's absolute path and its arguments`,
		`5: door.ssh.service.stop[0]: "kill": not an absolute path: allowed are absolute paths such as "/usr/sbin/sshd"`,
		`6: door.ssh.service.status[1]: "-c\x00": has a zero byte: allowed are lists such as ["/usr/sbin/sshd", "-D"]: ` +
			`a program's absolute path and its arguments`,
		`6: door.ssh.service.status[2]: 1: an integer, not a string: allowed are lists such as ["/usr/sbin/sshd", "-D"]: ` +
			`a program's absolute path and its arguments`,
	}},
	{"an empty command", ssh + "service = {start = [], timeout = \"2h\"}\n" + oneKnock, []string{
		`3: door.ssh.service.start: []: empty: allowed are lists such as ["/usr/sbin/sshd", "-D"]: ` +
			`a program's absolute path and its arguments`,
		`3: door.ssh.service.timeout: "2h": too long: allowed are "1s" to "1h"`,
	}},
	{"a unit without its kind", ssh + "service.unit = \"ssh\"\n" + oneKnock, []string{
		`3: door.ssh.service.unit: "ssh": ends neither in .service nor in .socket: allowed are units ` +
			`such as "ssh.service", "ssh.socket"`,
	}},
	{"a unit of another kind", ssh + "service.unit = \"multi-user.target\"\n" + oneKnock, []string{
		`3: door.ssh.service.unit: "multi-user.target": ends neither in .service nor in .socket: allowed are units ` +
			`such as "ssh.service", "ssh.socket"`,
	}},
	{"a unit's path", ssh + "service.unit = \"/lib/ssh.service\"\n" + oneKnock, []string{
		`3: door.ssh.service.unit: "/lib/ssh.service": has characters that are not allowed in a unit name: allowed are units ` +
			`such as "ssh.service", "ssh.socket"`,
	}},
	{"only a suffix", ssh + "service.unit = \".service\"\n" + oneKnock, []string{
		`3: door.ssh.service.unit: ".service": not a unit name: allowed are units such as "ssh.service", "ssh.socket"`,
	}},
	{"a template", ssh + "service.unit = \"openvpn@.service\"\n" + oneKnock, []string{
		`3: door.ssh.service.unit: "openvpn@.service": a template without an instance: allowed are units ` +
			`such as "ssh.service", "ssh.socket"`,
	}},
	{"one unit, two doors, the later one by name first", `[door.b]
ports = ["1/tcp"]
service.unit = "ssh.service"
knock = [{kind = "touch", listen = [11, 12], touch = [11]}]
[door.a]
ports = ["2/tcp"]
service.unit = "ssh.service"
knock = [{kind = "touch", listen = [21, 22], touch = [21]}]
`, []string{
		`7: door.a.service.unit: "ssh.service": door "a" starts and stops the unit of door "b", line 3: ` +
			`allowed are units of one door`,
	}},
	{"one unit, two doors", `[door.a]
ports = ["1/tcp"]
service.unit = "ssh.service"
knock = [{kind = "touch", listen = [11, 12], touch = [11]}]
[door.b]
ports = ["2/tcp"]
service.unit = "ssh.service"
knock = [{kind = "touch", listen = [21, 22], touch = [21]}]
`, []string{
		`7: door.b.service.unit: "ssh.service": door "b" starts and stops the unit of door "a", line 3: ` +
			`allowed are units of one door`,
	}},
}
