//go:build linux

package presence

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// entry is one entry of the journal as `journalctl -o json` prints it: names
// and values as systemd.journal-fields(7) and systemd's JOURNAL_EXPORT_FORMATS
// describe them.
type entry struct {
	cursor string
	time   time.Time
	fields map[string]json.RawMessage
}

// parseEntry reads one line of journalctl's output.
func parseEntry(line []byte) (entry, bool) {
	var e entry
	if err := json.Unmarshal(line, &e.fields); err != nil {
		return entry{}, false
	}
	micros, ok := e.field("__REALTIME_TIMESTAMP")
	n, err := strconv.ParseInt(micros, 10, 64)
	if !ok || err != nil || n < 0 {
		return entry{}, false
	}
	e.time = time.UnixMicro(n)
	e.cursor, ok = e.field("__CURSOR")
	return e, ok && e.cursor != ""
}

// field returns a field's value. journalctl writes text as a string, and bytes
// that are no text as a list of numbers; a field that an entry has more than
// once (a list of values) or that is too long (null) counts as missing.
func (e *entry) field(name string) (string, bool) {
	raw, ok := e.fields[name]
	if !ok || len(raw) == 0 {
		return "", false
	}
	if raw[0] == '"' {
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err == nil
	}
	var numbers []uint8
	var wide []uint16 // []uint8 would be read as base64
	if err := json.Unmarshal(raw, &wide); err != nil || len(wide) == 0 {
		return "", false
	}
	for _, n := range wide {
		if n > 255 {
			return "", false
		}
		numbers = append(numbers, uint8(n))
	}
	return string(numbers), true
}

// login returns what the entry is: isLogin, noLogin or cutShort. Whoever wrote it is read
// from the fields that journald itself adds (those with an underscore): sshd's monitor,
// which accepts logins, is root. A program may choose its own name (_COMM), but only
// root's count here, and the executable, where journald was able to see it, must be
// sshd's as well: a set-user-ID program that is called through a link named sshd is not.
// The unit is not a criterion: sshd's processes move into a session's scope, and a door
// may run sshd itself. What sshd wrote to standard error (sshd -e) does not count: a
// visitor's name keeps its line breaks there, and journald makes an entry of each line.
func (e *entry) login() (Login, verdict) {
	uid, _ := e.field("_UID")
	name, _ := e.field("_COMM")
	if uid != "0" || !slices.ContainsFunc(sshdNames, func(n string) bool { return comm(n) == name }) {
		return Login{}, noLogin
	}
	if _, there := e.fields["_EXE"]; there {
		// An upgrade replaces the file under the running daemon.
		exe, ok := e.field("_EXE")
		name := exe[strings.LastIndexByte(exe, '/')+1:]
		if !ok || !isSSHDName(strings.TrimSuffix(name, " (deleted)")) {
			return Login{}, noLogin
		}
	}
	message, ok := e.field("MESSAGE")
	if !ok || len(message) > maxLogin {
		return Login{}, noLogin
	}
	login, what := tell(message)
	if way, _ := e.field("_TRANSPORT"); way == "stdout" && what == isLogin {
		what = noStamp
	}
	login.Time, login.Where = e.time, "journal"
	return login, what
}

// comm is what the kernel keeps of a program's name: TASK_COMM_LEN of linux/sched.h.
func comm(name string) string { return name[:min(len(name), 15)] }
