//go:build linux

package sealed

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	kind "github.com/doorward/doorward/internal/sealed"
)

// A machine with a secret knocks with the program, over both families; its file is read
// again while the daemon runs, and is not used where everybody may read it.
func TestAMachinesSecret(t *testing.T) {
	s := newSite(t, "")
	s.more = fmt.Sprintf("secrets = %q", s.lab.Path("secrets"))
	s.configure()
	coded := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{5}, 32))
	s.write("secrets", "backup "+coded+" doors=\"web\"\n")
	s.start()
	l := newLaptop(s)
	in := profile.Directory(filepath.Join(s.lab.Path("home"), ".config", "doorward", "profiles"))
	s.write("secret", coded+"\n")
	s.must(in.Save(profile.Profile{Name: "gate", Hosts: []string{gate4, gate6}, Port: port, Carriers: []string{"udp"}, Suite: seal.Hybrid,
		Gateway: s.peer, Doors: []string{"web"}, Key: profile.Key{Secret: s.lab.Path("secret")}}, false))
	l.want(0, "open until ", "knock", "gate")
	s.has("web", visitor4+" sealed backup", visitor6+" sealed backup")
	s.admits(s.visitor, gate4, "8080")
	l.want(6, "does not open this door", "knock", "gate", "panel")

	s.must(os.Chmod(s.lab.Path("secrets"), 0o604))
	s.reload()
	s.warns("secrets\"")
	l.want(0, "open until ", "knock", "gate") // as it was before

	s.write("secrets", "# none\n")
	s.reload()
	s.has("web")
	l.want(6, "the gateway does not accept this", "knock", "gate")
	s.refuses(s.visitor, gate4, "8080")

	s.write("secrets", "backup "+coded+"\n")
	s.reload()
	s.until("the secret counts again", func() error {
		if out, status := l.run("knock", "gate"); status != 0 {
			return fmt.Errorf("%d: %s", status, out)
		}
		return nil
	})
	do[kind.Done](s, kind.OrderLock, kind.KeyArgs{Key: "backup"})
	s.has("web")
	l.want(6, "locked", "knock", "gate")
	s.recorded(audit.EventAlarm, "", 1)
}
