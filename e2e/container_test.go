//go:build linux

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/doorward/doorward/e2e/lab"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nstest"
)

// TestTheContainer runs the container image as the compose file says: with that user
// and no capabilities but those, in the machine's network, under Docker's seccomp
// profile. A knock opens a door, an end of the container leaves the fence, and the
// next one knows the grant.
func TestTheContainer(t *testing.T) {
	nstest.Need(t, "crun")
	s := newSite(t)
	// crun does not work where there are controllers of both versions of cgroups; it is
	// to use none of either.
	s.run(s.server, "mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
	c := s.bundle()
	s.must(os.MkdirAll(s.lab.Path("etc"), 0o750))
	s.must(os.Chown(s.lab.Path("etc"), 0, c.user))
	config := s.lab.Path("etc/doorward.toml")
	s.must(os.WriteFile(config, []byte(webDoor(`open_for = "10m"`, touchKnock)+
		"[door.vpn]\nports = [\"1194/tcp\"]\nservice = { unit = \"vpn.service\" }\n[door.vpn.presence]\nlogins = \"off\"\n"+
		"[[door.vpn.knock]]\nkind = \"touch\"\nlisten = [79, 59011]\ntouch = [79, 59011]\n"+
		"[door.panel]\nports = [\"8443/tcp\"]\n[door.panel.presence]\nlogins = \"off\"\n[[door.panel.knock]]\nkind = \"sealed\"\nport = 24831\n"), 0o640))
	s.must(os.WriteFile(s.lab.Path("etc/sealed.key"), fmt.Appendf(nil, "key %s\nprofile %s\n",
		base64.StdEncoding.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString(make([]byte, 16))), 0o640))
	s.must(os.WriteFile(s.lab.Path("etc/authorized_keys"), nil, 0o640))
	for _, name := range []string{"doorward.toml", "sealed.key", "authorized_keys"} {
		s.must(os.Chown(s.lab.Path("etc/"+name), 0, c.user))
	}
	s.serve(s.server, ":8080")

	c.start()
	s.refuses(s.stranger, gate4, "8080")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	s.refuses(s.stranger, gate4, "8080")
	c.isLockedIn()
	if out, err := c.exec("/bin/sh", "-c", "true"); err == nil || !strings.Contains(out+err.Error(), "No such file") {
		t.Errorf("there is a shell in the container: %v: %s", err, out)
	}
	c.saysThatThereIsNoDBus()
	if out, err := c.exec("doorward", "invite", "--door", "panel", "--for", "alice", "--host", gate4); err != nil || !strings.Contains(out, "doorward-invite:") {
		t.Errorf("the container invites nobody: %v: %s", err, out)
	}

	c.end()
	s.says(s.table(), `chain`)
	s.refuses(s.stranger, gate4, "8080")
	s.admits(s.visitor, gate4, "8080")
	c.start()
	if out, err := c.exec("doorward", "status", "web"); err != nil || !strings.Contains(out, visitor4) {
		t.Errorf("the container that was started again does not know the grant: %v: %s", err, out)
	}
	c.end()
	c.removesTheFence()
	var null unix.Stat_t
	if err := unix.Stat(os.DevNull, &null); err != nil || null.Uid != 0 {
		t.Errorf("%s belongs to user %d, %v: crun has given it to the container's", os.DevNull, null.Uid, err)
	}
}

// container is what an engine would run.
type container struct {
	*site
	dir     string // the bundle
	user    int
	health  []string // the command of the compose file's health check
	process *lab.Process
	pid     int // the daemon's, outside
}

// bundle makes the image for this machine, and a bundle of it and the compose file.
func (s *site) bundle() *container {
	s.t.Helper()
	platform := "linux/" + runtime.GOARCH
	image := exec.CommandContext(s.t.Context(), "../build/image.sh", s.lab.Path("image"), platform)
	// Whatever has changed since, the programs are built once.
	image.Env = append(os.Environ(), "VERSION=0.0.0", "COMMIT=test", "SOURCE_DATE_EPOCH=0")
	if out, err := image.CombinedOutput(); err != nil {
		s.t.Fatalf("build/image.sh: %v\n%s", err, out)
	}
	compose, err := filepath.Abs("../contrib/compose/compose.yaml")
	s.must(err)
	c := &container{site: s, dir: s.lab.Path("bundle")}
	tool := exec.CommandContext(s.t.Context(), "go", "-C", "../build/tools", "run", "./bundle", "-compose", compose, "-service", "doorward",
		"-image", s.lab.Path("image"), "-platform", platform, "-o", c.dir)
	if out, err := tool.CombinedOutput(); err != nil {
		s.t.Fatalf("bundle: %v\n%s", err, out)
	}
	path := filepath.Join(c.dir, "config.json")
	text, err := os.ReadFile(path)
	s.must(err)
	var spec struct {
		Process     struct{ User struct{ UID int } }
		Annotations map[string]string
	}
	s.must(json.Unmarshal(text, &spec))
	c.user, c.health = spec.Process.User.UID, strings.Fields(spec.Annotations["healthcheck"])
	// What the compose file takes from the machine's /etc/doorward, the test has.
	here := strings.Replace(string(text), `"source": "/etc/doorward"`, fmt.Sprintf(`"source": %q`, s.lab.Path("etc")), 1)
	if here == string(text) {
		s.t.Fatalf("the compose file does not mount /etc/doorward:\n%s", text)
	}
	s.must(os.WriteFile(path, []byte(here), 0o600))
	return c
}

// crun are the arguments with which crun touches nothing of the machine's.
func (c *container) crun(args ...string) []string {
	return append([]string{"--root=" + c.lab.Path("crun"), "--cgroup-manager=disabled"}, args...)
}

// exec runs a program in the container, as `docker compose exec` does.
func (c *container) exec(args ...string) (string, error) {
	user := fmt.Sprintf("--user=%d:%d", c.user, c.user)
	return c.inside(append([]string{"exec", user, "doorward"}, args...)...)
}

// inside runs crun for a program that it starts in a container. What that reads and
// writes crun gives to its user, and /dev/null is the machine's.
func (c *container) inside(args ...string) (string, error) {
	cmd := c.server.Command(c.t.Context(), "crun", c.crun(args...)...)
	cmd.Stdin = strings.NewReader("")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("crun %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// start starts the container, and waits for its health.
func (c *container) start() {
	c.t.Helper()
	pidFile := c.lab.Path("pid")
	var err error
	c.process, err = c.server.Start("crun", c.crun("run", "--bundle="+c.dir, "--pid-file="+pidFile, "doorward")...)
	c.must(err)
	if len(c.health) == 0 {
		c.t.Fatal("the compose file has no health check")
	}
	c.until("the health check is passed", func() error {
		_, err := c.exec(c.health...)
		if err != nil {
			err = fmt.Errorf("%w; the container says: %s", err, c.process.Output())
		}
		return err
	})
	pid, err := os.ReadFile(pidFile)
	c.must(err)
	c.pid, err = strconv.Atoi(string(pid))
	c.must(err)
}

// end ends the container as engines do.
func (c *container) end() {
	c.t.Helper()
	c.run(c.server, "crun", c.crun("kill", "doorward", "TERM")...)
	<-c.process.Ended()
	if out := c.process.Output(); !strings.Contains(out, `"signal":"terminated"`) {
		c.t.Errorf("the daemon did not end when asked to:\n%s", out)
	}
}

// removesTheFence runs the container as `docker compose run` does, with another program.
func (c *container) removesTheFence() {
	c.t.Helper()
	path := filepath.Join(c.dir, "config.json")
	text, err := os.ReadFile(path)
	c.must(err)
	var spec map[string]any
	c.must(json.Unmarshal(text, &spec))
	spec["process"].(map[string]any)["args"] = []string{"doorwardd", "--cleanup"}
	text, err = json.Marshal(spec)
	c.must(err)
	c.must(os.WriteFile(path, text, 0o600))
	_, err = c.inside("run", "--bundle="+c.dir, "cleanup")
	c.must(err)
	if tables := c.run(c.server, "nft", "list", "tables"); strings.Contains(tables, "doorward") {
		c.t.Errorf("the fence still stands: %s", tables)
	}
	c.admits(c.stranger, gate4, "8080")
}

// isLockedIn checks that the daemon has locked itself in, and has nothing left to give
// up.
func (c *container) isLockedIn() {
	c.t.Helper()
	status := fmt.Sprintf("/proc/%d/status", c.pid)
	text, err := os.ReadFile(status)
	c.must(err)
	// CAP_NET_ADMIN and CAP_NET_BIND_SERVICE, capabilities(7): bits 12 and 10.
	for _, want := range []string{"Uid:\t" + strings.Repeat(fmt.Sprintf("%d\t", c.user), 3), "CapPrm:\t0000000000001400",
		"CapEff:\t0000000000001400", "CapBnd:\t0000000000001400", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(text), want) {
			c.t.Errorf("the daemon's status has no %q:\n%s", want, text)
		}
	}
	if out := c.process.Output(); strings.Contains(out, "not confined") {
		c.t.Errorf("the container keeps the daemon from locking itself in:\n%s", out)
	}
}

// saysThatThereIsNoDBus knocks at a door whose service is a unit of the machine, and
// checks that the message says what the container lacks.
func (c *container) saysThatThereIsNoDBus() {
	c.t.Helper()
	c.touch(c.visitor, gate4, "79", "59011")
	c.until("the failure is recorded", func() error {
		out, err := c.exec("doorward", "log", "vpn")
		if err == nil && (!strings.Contains(out, "cannot reach systemd over D-Bus") || !strings.Contains(out, "a container needs the machine's socket")) {
			err = fmt.Errorf("the trail has: %s", out)
		}
		return err
	})
}
