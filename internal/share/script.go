package share

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Script is what a user's script has to know. All of it is checked already:
// Host by CheckHost, Door and ports by the configuration.
type Script struct {
	Door  string
	Host  string
	Touch []uint16      // in the order in which they are touched
	Wait  uint16        // TCP port that tells that the door is open, 0 for none
	Then  string        // a sentence: when to connect
	Made  time.Time     // shown by its date
	Each  time.Duration // the longest that one touch may take, whole seconds
}

// Shell is the script for any POSIX sh. It may be read from a pipe: all of it is
// a function, so that it is read to the end before anything is run, and no
// program that it starts gets to see its standard input.
func (s *Script) Shell() string {
	wait := ""
	if s.Wait != 0 {
		wait = fmt.Sprintf(" --wait %d", s.Wait)
	}
	return s.fill(shell, "@wait@", wait, "@ports@", joinPorts(s.Touch, " "), "@list@", joinPorts(s.Touch, ","),
		"@each@", strconv.Itoa(int(s.Each/time.Second)))
}

// PowerShell is the script for Windows PowerShell 5.1 and PowerShell 7. It is
// one block, so that nothing of it stays in the session that runs it.
func (s *Script) PowerShell() string {
	return s.fill(powerShell, "@ports@", joinPorts(s.Touch, ", "),
		"@each@", strconv.Itoa(int(s.Each/time.Millisecond)))
}

func (s *Script) fill(text string, more ...string) string {
	pairs := append([]string{"@door@", s.Door, "@host@", s.Host, "@then@", s.Then,
		"@made@", s.Made.Format(time.DateOnly)}, more...)
	return strings.NewReplacer(pairs...).Replace(text)
}

func joinPorts(ports []uint16, sep string) string {
	var s []string
	for _, p := range ports {
		s = append(s, strconv.Itoa(int(p)))
	}
	return strings.Join(s, sep)
}

const shell = `#!/bin/sh
# The knock of door "@door@" at @host@, made on @made@.
# Keep it to yourself, like a password. Run it with sh, best straight from the
# encrypted file. It needs doorward, nc, bash or telnet, whichever is there.

host='@host@'
ports='@ports@'
each=@each@ # seconds that one touch may take

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
		exec doorward knock "$host" --touch @list@@wait@ </dev/null
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
	say "knocked on $host. @then@"
}

main
`

const powerShell = `# The knock of door "@door@" at @host@, made on @made@.
# Keep it to yourself, like a password. It works in Windows PowerShell 5.1 and in
# PowerShell 7; run it straight from the encrypted file.
& {
    $server = '@host@'
    $ports = @(@ports@)
    $each = @each@ # milliseconds that one touch may take

    function Send-Touch($Address, $Port) {
        $client = New-Object System.Net.Sockets.TcpClient($Address.AddressFamily)
        try {
            return ($client.ConnectAsync($Address, $Port).Wait($each) -and $client.Connected)
        } catch {
            return $false
        } finally {
            $client.Close()
        }
    }

    try {
        $found = @([System.Net.Dns]::GetHostAddresses($server))
    } catch {
        Write-Warning "knock: $server is not known: is the network up?"
        return
    }
    $complete = $false
    foreach ($family in @('InterNetworkV6', 'InterNetwork')) {
        foreach ($address in @($found | Where-Object { $_.AddressFamily -eq $family })) {
            $done = 0
            foreach ($port in $ports) {
                if (-not (Send-Touch $address $port)) { break }
                $done++
            }
            if ($done -eq $ports.Count) {
                $complete = $true
                Write-Host "knocked on $address"
            } else {
                Write-Host "knock: $($ports[$done])/tcp on $address does not answer"
            }
            if ($done -gt 0) { break }
        }
    }
    if (-not $complete) {
        Write-Warning 'knock: not complete: is the network up? is this the newest knock?'
        return
    }
    Start-Sleep -Seconds 1
    Write-Host '@then@'
}
`
