package control

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
)

// maxPasswd bounds what is read of passwd(5), in bytes.
const maxPasswd = 1 << 20

// userNames are the names of this machine's users as they were at the start. A process
// in the sandbox can read the file that was /etc/passwd then, but no other that takes
// its place (landlock(7)), as one does whenever a user is added.
type userNames map[uint32]string

// namesNow reads the names from /etc/passwd. If that fails there are none.
func namesNow() userNames {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return nil
	}
	defer f.Close()
	return readNames(f)
}

func readNames(r io.Reader) userNames {
	names := make(userNames)
	lines := bufio.NewScanner(io.LimitReader(r, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 3 || fields[0] == "" {
			continue
		}
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if _, again := names[uint32(uid)]; err == nil && !again { // the first entry counts, as for getpwuid(3)
			names[uint32(uid)] = fields[0]
		}
	}
	return names
}

// of names a user for people: "alice (uid 1000)", or "uid 1000" if the user has no name
// on this machine.
func (n userNames) of(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	name := n[uid]
	if u, err := user.LookupId(id); err == nil && u.Username != "" {
		name = u.Username
	}
	if name == "" {
		return "uid " + id
	}
	return fmt.Sprintf("%s (uid %s)", name, id)
}
