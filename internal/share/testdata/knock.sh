#!/bin/sh
# The knock of door "ssh" at gate.example.org, made on 2026-11-24.
# Keep it to yourself, like a password. Read it before you run it with sh: whoever
# knows your public key could have sent you something else. It needs doorward, nc,
# bash or telnet, whichever is there.

host='gate.example.org'
ports='59000 59002'
each=3 # seconds that one touch may take

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# limited COMMAND...: ends it when its time is up
limited() {
	"$@" </dev/null 2>/dev/null &
	job=$!
	( sleep "$each"; kill "$job" ) >/dev/null 2>&1 &
	watch=$!
	wait "$job" 2>/dev/null
	status=$?
	kill "$watch" 2>/dev/null
	wait "$watch" 2>/dev/null
	return "$status"
}

by_nc() { limited nc -z -w "$each" "$host" "$1" >/dev/null; }
by_bash() { limited bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$1"; }
# telnet's exit status tells nothing, so its words must
by_telnet() { limited telnet "$host" "$1" | grep '^Connected to' >/dev/null; }

main() {
	if have doorward; then
		exec doorward knock "$host" --touch 59000,59002 --wait 22 </dev/null
	fi
	if have nc && nc -h 2>&1 | grep -e '-z' -e 'z]' >/dev/null; then
		by=nc
	elif have bash; then
		by=bash
	elif have telnet; then
		by=telnet
	else
		say "knock: none of doorward, nc, bash and telnet is here"
		return 1
	fi
	for port in $ports; do
		if ! "by_$by" "$port"; then
			say "knock: $port/tcp on $host does not answer (tried with $by): is the network up? is this the newest knock?"
			return 1
		fi
	done
	sleep 1
	say "knocked on $host. Connect within 30s."
}

main
