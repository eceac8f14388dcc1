//go:build unix

package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// stranger is a user who is neither root nor whoever runs the tests.
const stranger = 54321

// asRoot skips a test that gives files to others.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to another user")
	}
}

// place is a file, directory, pipe or link that a test makes.
type place struct {
	name  string // below the test's directory; with a "/" at its end, a directory
	mode  fs.FileMode
	owner int
	link  string // what a symbolic link leads to, "" for none; "DIR" is the test's directory
	fifo  bool
}

func (p place) make(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, p.name)
	var err error
	switch {
	case p.link != "":
		err = os.Symlink(strings.ReplaceAll(p.link, "DIR", dir), path)
	case p.fifo:
		err = syscall.Mkfifo(path, 0o600)
	case strings.HasSuffix(p.name, "/"):
		err = os.Mkdir(path, 0o700)
	default:
		err = os.WriteFile(path, []byte("text"), 0o600)
	}
	if err == nil && p.link == "" {
		err = os.Chmod(path, p.mode)
	}
	if err == nil && p.owner != 0 {
		err = os.Lchown(path, p.owner, p.owner)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const openDirectory = 0o777 | fs.ModeSticky

// TestRead: a file is read if nobody else could have written it or put it there.
func TestRead(t *testing.T) {
	asRoot(t)
	tests := []struct {
		name   string
		places []place
		path   string // below the test's directory
		err    string // the end of it; "DIR" is the test's directory
	}{
		{name: "root's", places: []place{{name: "f", mode: 0o640}}, path: "f"},
		{name: "readable by everybody", places: []place{{name: "f", mode: 0o644}}, path: "f"},
		{
			name: "somebody else's", places: []place{{name: "f", mode: 0o600, owner: stranger}}, path: "f",
			err: `"DIR/f" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/f`,
		},
		{
			name: "writable by everybody", places: []place{{name: "f", mode: 0o646}}, path: "f",
			err: `"DIR/f" may be written by everybody: allowed is its owner alone; to fix it: chmod go-w DIR/f`,
		},
		{
			name: "writable by its group", places: []place{{name: "f", mode: 0o660}}, path: "f",
			err: `"DIR/f" may be written by its group: allowed is its owner alone; to fix it: chmod go-w DIR/f`,
		},
		{
			name:   "in a directory of somebody else",
			places: []place{{name: "d/", mode: 0o755, owner: stranger}, {name: "d/f", mode: 0o600}}, path: "d/f",
			err: `"DIR/d" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/d, if nobody else needs it, or use another directory`,
		},
		{
			name:   "in a directory below one of somebody else",
			places: []place{{name: "d/", mode: 0o755, owner: stranger}, {name: "d/e/", mode: 0o755}, {name: "d/e/f", mode: 0o600}},
			path:   "d/e/f", err: `"DIR/d" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/d, if nobody else needs it, or use another directory`,
		},
		{
			name:   "in a directory that everybody may write to",
			places: []place{{name: "it's/", mode: 0o777}, {name: "it's/f", mode: 0o600}}, path: "it's/f",
			err: `"DIR/it's" may be written by everybody: allowed is its owner alone; to fix it: chmod go-w 'DIR/it'\''s'`,
		},
		{
			name:   "in a directory that its group may write to",
			places: []place{{name: "d/", mode: 0o770}, {name: "d/f", mode: 0o600}}, path: "d/f",
			err: `"DIR/d" may be written by its group: allowed is its owner alone; to fix it: chmod go-w DIR/d`,
		},
		{
			name:   "root's in a sticky directory",
			places: []place{{name: "tmp/", mode: openDirectory}, {name: "tmp/f", mode: 0o600}}, path: "tmp/f",
		},
		{
			name:   "below a directory of somebody else in a sticky one",
			places: []place{{name: "tmp/", mode: openDirectory}, {name: "tmp/d/", mode: 0o755, owner: stranger}, {name: "tmp/d/f", mode: 0o600}},
			path:   "tmp/d/f", err: `"DIR/tmp/d" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/tmp/d, if nobody else needs it, or use another directory`,
		},
		{
			name:   "a link of root's",
			places: []place{{name: "f", mode: 0o600}, {name: "l", link: "f"}}, path: "l",
		},
		{
			name: "a link of somebody else in a sticky directory",
			places: []place{{name: "tmp/", mode: openDirectory}, {name: "f", mode: 0o600},
				{name: "tmp/l", link: "../f", owner: stranger}},
			path: "tmp/l", err: `"DIR/tmp/l" belongs to user number 54321: allowed are root and the user who runs this; to fix it: use another path`,
		},
		{
			name:   "a link to somebody else's",
			places: []place{{name: "f", mode: 0o600, owner: stranger}, {name: "l", link: "DIR/f"}}, path: "l",
			err: `"DIR/f" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/f`,
		},
		{
			name: "back over a link",
			places: []place{{name: "a/", mode: 0o755}, {name: "a/f", mode: 0o600, owner: stranger}, {name: "a/b/", mode: 0o755},
				{name: "l", link: "a/b"}, {name: "f", mode: 0o600}},
			path: "l/../f", err: `"DIR/a/f" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/a/f`,
		},
		{
			name: "back into a sticky directory",
			places: []place{{name: "tmp/", mode: openDirectory}, {name: "tmp/a/", mode: 0o755},
				{name: "f", mode: 0o600}, {name: "tmp/l", link: "../f", owner: stranger}},
			path: "tmp/a/../l", err: `"DIR/tmp/l" belongs to user number 54321: allowed are root and the user who runs this; to fix it: use another path`,
		},
		{name: "links in a circle", places: []place{{name: "l", link: "l"}}, path: "l", err: "too many levels of symbolic links"},
		{name: "a pipe", places: []place{{name: "f", fifo: true, mode: 0o600}}, path: "f", err: `"DIR/f" is not a regular file`},
		{name: "a directory", places: []place{{name: "d/", mode: 0o700}}, path: "d", err: `"DIR/d" is not a regular file`},
		{name: "nothing", path: "f", err: "open DIR/f: no such file or directory"},
		{name: "below a file", places: []place{{name: "f", mode: 0o600}}, path: "f/g", err: "open DIR/f: not a directory"},
		{name: "too long", places: []place{{name: "f", mode: 0o600}}, path: "f", err: `"DIR/f" is longer than 3 bytes`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, p := range tt.places {
				p.make(t, dir)
			}
			limit := int64(4)
			if tt.name == "too long" {
				limit = 3
			}
			// Not filepath.Join: it would take ".." away.
			text, err := Read(dir+"/"+tt.path, limit)
			if tt.err == "" {
				if string(text) != "text" || err != nil {
					t.Errorf("got %q, %v", text, err)
				}
				return
			}
			if want := strings.ReplaceAll(tt.err, "DIR", dir); err == nil || text != nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("got %q and error\n%v\nwant ...%s", text, err, want)
			}
		})
	}
}

// TestReadFromHere: a path that begins at the working directory is judged from
// the root as well.
func TestReadFromHere(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	for _, p := range []place{{name: "d/", mode: 0o777}, {name: "d/e/", mode: 0o755}, {name: "d/e/f", mode: 0o600}} {
		p.make(t, dir)
	}
	t.Chdir(filepath.Join(dir, "d/e"))
	_, err := Read("./f", 4)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Path != filepath.Join(dir, "d") {
		t.Errorf("error %v, want one about %s/d", err, dir)
	}
}

// TestGiven: what somebody hands in may be anybody's, but it neither hangs nor
// fills the memory.
func TestGiven(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	for _, p := range []place{{name: "f", mode: 0o666, owner: stranger}, {name: "p", fifo: true, mode: 0o666}} {
		p.make(t, dir)
	}
	if text, err := Given(dir+"/f", 4); string(text) != "text" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	for _, path := range []string{dir + "/p", "/dev/zero", dir} {
		if _, err := Given(path, 4); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: error %v, want %v", path, err, ErrNotRegular)
		}
	}
	if _, err := Given(dir+"/f", 3); err == nil || !strings.HasSuffix(err.Error(), "is longer than 3 bytes") {
		t.Errorf("error %v for a text that is too long", err)
	}
}

// TestDirectory: root writes only where nobody else can put anything.
func TestDirectory(t *testing.T) {
	asRoot(t)
	tests := []struct {
		name   string
		places []place
		path   string
		also   []int
		want   string // below the test's directory; "" for an error
	}{
		{name: "root's", places: []place{{name: "d/", mode: 0o755}}, path: "d", want: "d"},
		{name: "root's, by a link", places: []place{{name: "d/", mode: 0o755}, {name: "l", link: "d"}}, path: "l", want: "d"},
		{name: "somebody else's", places: []place{{name: "d/", mode: 0o755, owner: stranger}}, path: "d"},
		{name: "somebody else's who is allowed", places: []place{{name: "d/", mode: 0o755, owner: stranger}},
			path: "d", also: []int{stranger}, want: "d"},
		{name: "writable by everybody", places: []place{{name: "d/", mode: 0o777}}, path: "d"},
		{name: "writable by its group", places: []place{{name: "d/", mode: 0o775}}, path: "d"},
		{name: "sticky", places: []place{{name: "d/", mode: openDirectory}}, path: "d"},
		{name: "below a sticky one", places: []place{{name: "d/", mode: openDirectory}, {name: "d/e/", mode: 0o700}}, path: "d/e", want: "d/e"},
		{name: "a planted link", places: []place{{name: "d/", mode: openDirectory}, {name: "e/", mode: 0o700},
			{name: "d/l", link: "../e", owner: stranger}}, path: "d/l"},
		{name: "a file", places: []place{{name: "f", mode: 0o600}}, path: "f"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, p := range tt.places {
				p.make(t, dir)
			}
			got, err := Directory(filepath.Join(dir, tt.path), tt.also...)
			switch {
			case tt.want == "" && err == nil:
				t.Errorf("%q is accepted", got)
			case tt.want != "" && (err != nil || got != filepath.Join(dir, tt.want)):
				t.Errorf("got %q, %v; want %s", got, err, tt.want)
			}
		})
	}
}

// TestOwnGroup: what an unprivileged user's own group may write is theirs to
// judge, and what everybody may is not.
func TestOwnGroup(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []place{{name: "d/", mode: 0o775, owner: stranger}, {name: "d/f", mode: 0o664, owner: stranger},
		{name: "d/g", mode: 0o666, owner: stranger}, {name: "r", mode: 0o664}} {
		p.make(t, dir)
	}
	as(t, stranger, func() {
		if _, err := Read(dir+"/d/f", 4); err != nil {
			t.Errorf("one's own: %v", err)
		}
		for _, name := range []string{"/d/g", "/r"} {
			if _, err := Read(dir+name, 4); err == nil {
				t.Errorf("%s is read, want an error", name)
			}
		}
	})
}

// as runs f with another user's effective number.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	if err := errors.Join(syscall.Setegid(uid), syscall.Seteuid(uid)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(syscall.Seteuid(0), syscall.Setegid(0)); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// TestReadSecret: what everybody may read is no secret, whoever it belongs to.
func TestReadSecret(t *testing.T) {
	asRoot(t)
	for _, tt := range []struct {
		place
		err string
	}{
		{place{name: "f", mode: 0o600}, ""},
		{place{name: "f", mode: 0o640}, ""},
		{place{name: "f", mode: 0o644}, `"DIR/f" may be read by everybody, and is a secret: allowed are its owner and its group; to fix it: chmod o= DIR/f`},
		{place{name: "f", mode: 0o602}, `"DIR/f" may be written by everybody: allowed is its owner alone; to fix it: chmod go-w DIR/f`},
		{place{name: "f", mode: 0o600, owner: stranger}, `"DIR/f" belongs to user number 54321: allowed are root and the user who runs this; to fix it: chown root DIR/f`},
	} {
		dir := t.TempDir()
		tt.make(t, dir)
		text, err := ReadSecret(filepath.Join(dir, "f"), 4)
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), dir, "DIR")
		}
		if got != tt.err || (string(text) == "text") != (tt.err == "") {
			t.Errorf("%v: read %q with error %q, want %q", tt.mode, text, got, tt.err)
		}
	}
}
