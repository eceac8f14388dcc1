package config

var knockCases = []mistakeCase{
	{"kinds that are to come, and one that is not", ssh + `[[door.ssh.knock]]
kind = "sequence"
ports = ["7000/tcp", "8000/udp"]
[[door.ssh.knock]]
kind = "fwknop"
[[door.ssh.knock]]
kind = "morse"
[[door.ssh.knock]]
listen = [1]
`, []string{
		`4: door.ssh.knock[0].kind: "sequence": this version of doorward does not support this kind of knock yet: allowed are "sealed" and "touch"`,
		`7: door.ssh.knock[1].kind: "fwknop": this version of doorward does not support this kind of knock yet: allowed are "sealed" and "touch"`,
		`9: door.ssh.knock[2].kind: "morse": unknown kind of knock: allowed are "sealed" and "touch"`,
		`10: door.ssh.knock[3].kind: missing: allowed are "sealed" and "touch"`,
		`10: door.ssh.knock[3].touch: missing: allowed are lists of port numbers such as [59000, 59001, 59002]`,
	}},
	{"a kind under another key, and more", ssh + `[[door.ssh.knock]]
type = "touch"
listen = [59000]
touch = [59001]
withn = "1m"
penalty = 5
`, []string{
		`3: door.ssh.knock[0].kind: missing: allowed are "sealed" and "touch"`,
		`4: door.ssh.knock[0].type: unknown key: did you mean "kind"?: allowed are ` +
			`kind, listen, touch, order, within, judge, penalty, scope`,
		`6: door.ssh.knock[0].touch[0]: 59001: not in "listen": nobody would hear it: allowed are ports of door.ssh.knock[0].listen`,
		`7: door.ssh.knock[0].withn: unknown key: did you mean "within"?: allowed are ` +
			`kind, listen, touch, order, within, judge, penalty, scope`,
		`8: door.ssh.knock[0].penalty: 5: an integer, not a string: allowed are durations such as "30s", "5m", "1h"`,
	}},
	{"a kind misspelt, of another type, and not there", ssh + `[[door.ssh.knock]]
kind = "tuch"
listen = [0]
touch = [59000]
[[door.ssh.knock]]
kind = 5
order = "givn"
listen = [59000, 59001]
touch = [59000]
[[door.ssh.knock]]
kid = "morse"
`, []string{
		`4: door.ssh.knock[0].kind: "tuch": unknown kind of knock: did you mean "touch"?: allowed are "sealed" and "touch"`,
		`5: door.ssh.knock[0].listen[0]: 0: not a port: allowed are port numbers, 1 to 65535`,
		`8: door.ssh.knock[1].kind: 5: an integer, not a string: allowed are "sealed" and "touch"`,
		`9: door.ssh.knock[1].order: "givn": did you mean "given"?: allowed are "any" and "given"`,
		`12: door.ssh.knock[2].kind: missing: allowed are "sealed" and "touch"`,
	}},
	{"one table for a list, and a list for one table", ssh + `[[door.ssh.service]]
unit = "ssh"
[door.ssh.knock]
kind = "touch"
listen = [59000]
tuoch = [59000]
`, []string{
		`3: door.ssh.service: a list of tables: allowed are one table: write [door.ssh.service]`,
		`4: door.ssh.service[0].unit: "ssh": ends neither in .service nor in .socket: allowed are units such as "ssh.service", "ssh.socket"`,
		`5: door.ssh.knock: one table, not a list of them: allowed are one or more tables: write [[door.ssh.knock]]`,
		`5: door.ssh.knock.touch: missing: allowed are lists of port numbers such as [59000, 59001, 59002]`,
		`8: door.ssh.knock.tuoch: unknown key: did you mean "touch"?: allowed are ` +
			`kind, listen, touch, order, within, judge, penalty, scope`,
	}},
	{"an empty knock", ssh + "[[door.ssh.knock]]\nkind = \"touch\"\n", []string{
		`3: door.ssh.knock[0].listen: missing: allowed are lists of port numbers such as [59000, 59001, 59002]`,
		`3: door.ssh.knock[0].touch: missing: allowed are lists of port numbers such as [59000, 59001, 59002]`,
	}},
	{"empty lists", ssh + "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [59000]\ntouch = []\n", []string{
		`6: door.ssh.knock[0].touch: []: empty: allowed are lists of port numbers such as [59000, 59001, 59002]`,
	}},
	{"numbers", ssh + `[[door.ssh.knock]]
kind = "touch"
listen = [0, 59000, 59001, 59000, -1]
touch = [59000, 65536, 59000]
[[door.ssh.knock]]
kind = "touch"
listen = [59100, 59101]
touch = [59102]
`, []string{
		`5: door.ssh.knock[0].listen[0]: 0: not a port: allowed are port numbers, 1 to 65535`,
		`5: door.ssh.knock[0].listen[3]: 59000: listed twice`,
		`5: door.ssh.knock[0].listen[4]: -1: not a port: allowed are port numbers, 1 to 65535`,
		`6: door.ssh.knock[0].touch[1]: 65536: not a port: allowed are port numbers, 1 to 65535`,
		`6: door.ssh.knock[0].touch[2]: 59000: listed twice`,
		`10: door.ssh.knock[1].touch[0]: 59102: not in "listen": nobody would hear it: allowed are ports of door.ssh.knock[1].listen`,
	}},
	{"durations", ssh + "open_for = \"30\"\n[door.ssh.presence]\nidle = \"-1h\"\n" + oneKnock +
		"within = \"0s\"\npenalty = \"1d\"\njudge = \"every 1 m\"\n", []string{
		`3: door.ssh.open_for: "30": no unit: allowed are durations such as "30s", "5m", "1h"`,
		`5: door.ssh.presence.idle: "-1h": negative: allowed are "1s" to "720h", and "never"`,
		`10: door.ssh.knock[0].within: "0s": zero: allowed are "1s" to "1h"`,
		`11: door.ssh.knock[0].penalty: "1d": days and weeks are not units: write hours: ` +
			`allowed are durations such as "30s", "5m", "1h"`,
		`12: door.ssh.knock[0].judge: "every 1 m": a duration has no spaces: allowed are durations such as "30s", "5m", "1h"`,
	}},
	{"more durations", ssh + "open_for = \"\"\n[door.ssh.presence]\nidle = \"999999h\"\n" + oneKnock +
		"within = \"999ms\"\npenalty = \"1ms\"\njudge = \"every 10ms\"\n", []string{
		`3: door.ssh.open_for: "": empty: allowed are durations such as "30s", "5m", "1h"`,
		`5: door.ssh.presence.idle: "999999h": too long: allowed are "1s" to "720h", and "never"`,
		`10: door.ssh.knock[0].within: "999ms": too short: allowed are "1s" to "1h"`,
		`11: door.ssh.knock[0].penalty: "1ms": too short: allowed are "0s" for none, and "1s" to "720h"`,
		`12: door.ssh.knock[0].judge: "every 10ms": too short: allowed are "1s" to "1h"`,
	}},
	{"no duration at all", ssh + "open_for = \"soon\"\n" + oneKnock + "judge = \"1m\"\n", []string{
		`3: door.ssh.open_for: "soon": not a duration: allowed are durations such as "30s", "5m", "1h"`,
		`8: door.ssh.knock[0].judge: "1m": neither "at once" nor "every" and an interval: allowed are "at once", ` +
			`and intervals such as "every 1m"`,
	}},
	{"within longer than the looks", ssh + oneKnock + "within = \"2m\"\njudge = \"every 90s\"\n", []string{
		`7: door.ssh.knock[0].within: "2m": longer than the interval of the looks, "1m30s": allowed are "1s" to "1m30s", ` +
			`or a longer interval in door.ssh.knock[0].judge`,
	}},
	{"the default within longer than the looks", ssh + oneKnock + "judge = \"every 10s\"\n", []string{
		`3: door.ssh.knock[0].within: "1m": the default is longer than the interval of the looks, "10s": ` +
			`allowed are "1s" to "10s", or a longer interval in door.ssh.knock[0].judge`,
	}},
}

var disjointCases = []mistakeCase{
	{"overlaps", `[door.b]
ports = ["20-30/tcp", "25/tcp", "25/udp"]
knock = [{kind = "touch", listen = [59000, 59001], touch = [59000]}]
[door.a]
ports = ["22/tcp"]
knock = [{kind = "touch", listen = [59010, 59011], touch = [59010]}]
`, []string{
		`2: door.b.ports[1]: "25/tcp": overlaps "20-30/tcp" of the same door`,
		`5: door.a.ports[0]: "22/tcp": door "a" overlaps "20-30/tcp" of door "b", line 2: allowed are ports that only one door guards`,
	}},
	{"guarded and listened on", `[door.a]
ports = ["59000/tcp", "59001/udp"]
knock = [{kind = "touch", listen = [59000, 59001], touch = [59000]}]
[door.b]
ports = ["22/tcp"]
knock = [{kind = "touch", listen = [59002, 59000], touch = [59002]}]
`, []string{
		`3: door.a.knock[0].listen[0]: 59000: a listener of door "a" is on a guarded port: "59000/tcp" of door "a", line 2: ` +
			`allowed are ports that no door guards: the fence would keep every touch away`,
		`6: door.b.knock[0].listen[1]: 59000: a listener of door "b" is on a guarded port: "59000/tcp" of door "a", line 2: ` +
			`allowed are ports that no door guards: the fence would keep every touch away`,
		`6: door.b.knock[0].listen[1]: 59000: door "b" listens on a port of another knock: door "a", line 3: ` +
			`allowed are ports that only one knock listens on`,
	}},
	{"one listener, two knocks of a door", ssh + oneKnock + oneKnock, []string{
		`9: door.ssh.knock[1].listen[0]: 59000: door "ssh" listens on a port of another knock: door "ssh", line 5: ` +
			`allowed are ports that only one knock listens on`,
		`9: door.ssh.knock[1].listen[1]: 59001: door "ssh" listens on a port of another knock: door "ssh", line 5: ` +
			`allowed are ports that only one knock listens on`,
	}},
	{"a listener where the metrics are", "gateway.metrics = \"127.0.0.1:59001\"\n" + ssh + oneKnock, []string{
		`6: door.ssh.knock[0].listen[1]: 59001: the port of gateway.metrics, "127.0.0.1:59001": ` +
			`allowed are ports that nothing else listens on`,
	}},
	{"metrics behind a door", "gateway.metrics = \"[::]:9472\"\n[door.m]\nports = [\"9472/tcp\"]\n" +
		"knock = [{kind = \"touch\", listen = [1, 2], touch = [1]}]\n", nil},
}
