package share

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree reads a directory: names, modes and contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		all[e.Name()] = info.Mode().String() + " " + text
	}
	return all
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestStage(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	write(t, conf, "old", 0o640)
	before := tree(t, dir)
	change, err := Stage([]File{
		{Path: filepath.Join(dir, "new"), Text: []byte("secret"), Mode: 0o600},
		{Path: conf, Text: []byte("young"), Keep: true, Was: []byte("old")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer change.Close()
	// Until Commit the places are as they were, and nobody else can read what is to be
	// new there.
	for name, now := range tree(t, dir) {
		if was, known := before[name]; known && was != now {
			t.Errorf("%s changed before Commit", name)
		} else if !known && !strings.HasPrefix(now, "-rw-------") && !strings.Contains(now, "young") {
			t.Errorf("%s waits as %s", name, now)
		}
	}
	if err := change.Commit(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"new": "-rw------- secret", "conf": "-rw-r----- young"}
	if d := cmp.Diff(want, tree(t, dir)); d != "" {
		t.Error(d)
	}
	if err := change.Undo(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, tree(t, dir)); d != "" {
		t.Errorf("after Undo: %s", d)
	}
}

// TestStageAllOrNothing: whatever fails, at whatever moment, leaves the
// directory as it was.
func TestStageAllOrNothing(t *testing.T) {
	tests := []struct {
		name  string
		files func(dir string) []File
		spoil func(t *testing.T, dir string) // between Stage and Commit
		err   string
	}{
		{
			name: "no directory",
			files: func(dir string) []File {
				return []File{{Path: dir + "/a", Mode: 0o600}, {Path: dir + "/no/b", Mode: 0o600}}
			},
			err: "no such file or directory",
		},
		{
			name: "something else is there",
			files: func(dir string) []File {
				return []File{{Path: dir + "/a", Mode: 0o600}, {Path: dir + "/sub", Mode: 0o600}}
			},
			err: "there is something other than a regular file",
		},
		{
			name: "what is to be kept is not there",
			files: func(dir string) []File {
				return []File{{Path: dir + "/a", Mode: 0o600}, {Path: dir + "/gone", Keep: true}}
			},
			err: "no such file or directory",
		},
		{
			name: "changed by somebody else",
			files: func(dir string) []File {
				return []File{{Path: dir + "/a", Text: []byte("x"), Mode: 0o600},
					{Path: dir + "/conf", Text: []byte("young"), Keep: true, Was: []byte("older")}}
			},
			err: "somebody else has changed it meanwhile",
		},
		{
			name: "a place is taken at the last moment",
			files: func(dir string) []File {
				return []File{{Path: dir + "/conf", Text: []byte("young"), Keep: true}, {Path: dir + "/late", Mode: 0o600}}
			},
			spoil: func(t *testing.T, dir string) {
				if err := os.Mkdir(dir+"/late", 0o700); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.Remove(dir + "/late") })
			},
			err: "file exists",
		},
		{
			name: "what is to be new is there",
			files: func(dir string) []File {
				return []File{{Path: dir + "/a", Mode: 0o600}, {Path: dir + "/conf", New: true, Mode: 0o600}}
			},
			err: "file already exists",
		},
		{
			name: "what is to be new comes at the last moment",
			files: func(dir string) []File {
				return []File{{Path: dir + "/conf", Text: []byte("young"), Keep: true}, {Path: dir + "/late", New: true, Mode: 0o600}}
			},
			spoil: func(t *testing.T, dir string) {
				if err := os.Symlink("conf", dir+"/late"); err != nil {
					t.Fatal(err)
				}
			},
			err: "file exists",
		},
		{
			name: "what is kept is not what is replaced",
			files: func(dir string) []File {
				return []File{{Path: dir + "/conf", Text: []byte("young"), Backup: true, Mode: 0o600}}
			},
			spoil: func(t *testing.T, dir string) {
				write(t, dir+"/conf", "edited", 0o640)
			},
			err: "somebody else has changed it meanwhile",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "conf"), "old", 0o640)
			if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			change, err := Stage(tt.files(dir))
			if err == nil {
				if tt.spoil != nil {
					tt.spoil(t, dir)
					before = tree(t, dir)
					for _, s := range change.staged {
						delete(before, s.temp)
					}
				}
				err = change.Commit()
				change.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want ...%q", err, tt.err)
			}
			after := tree(t, dir)
			if d := cmp.Diff(before, after); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestStageFollowsLinks: a configuration that is a symbolic link stays one.
func TestStageFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "real"), "old", 0o600)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	change, err := Stage([]File{{Path: link, Text: []byte("young"), Keep: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer change.Close()
	if err := change.Commit(); err != nil {
		t.Fatal(err)
	}
	got := tree(t, dir)
	if got["real"] != "-rw------- young" || !slices.Contains(strings.Fields(got["link"]), "Lrwxrwxrwx") {
		t.Errorf("%q", got)
	}
}

// TestStagePlanted: what another user could have put in place is neither followed
// nor written beside.
func TestStagePlanted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to another user")
	}
	const stranger = 54321
	tests := []struct {
		name  string
		plant func(dir string) error
		file  File // its path is below the test's directory
		err   string
	}{
		{
			name:  "a link in the place",
			plant: func(dir string) error { return os.Symlink(dir+"/victim", dir+"/knock") },
			file:  File{Path: "knock", Mode: 0o600},
			err:   "there is something other than a regular file",
		},
		{
			name:  "a link that leads nowhere yet",
			plant: func(dir string) error { return os.Symlink(dir+"/none", dir+"/knock") },
			file:  File{Path: "knock", Mode: 0o600},
			err:   "there is something other than a regular file",
		},
		{
			name:  "somebody else's directory",
			plant: func(dir string) error { return errors.Join(os.Mkdir(dir+"/d", 0o755), os.Chown(dir+"/d", stranger, 0)) },
			file:  File{Path: "d/knock", Mode: 0o600},
			err:   "belongs to user number 54321",
		},
		{
			name: "a directory by somebody else's link",
			plant: func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/tmp", 0o700), os.Chmod(dir+"/tmp", 0o777|os.ModeSticky), os.Mkdir(dir+"/etc", 0o755),
					os.Symlink(dir+"/etc", dir+"/tmp/out"), os.Lchown(dir+"/tmp/out", stranger, 0))
			},
			file: File{Path: "tmp/out/knock", Mode: 0o600},
			err:  "belongs to user number 54321",
		},
		{
			name:  "a directory that all may write to",
			plant: func(dir string) error { return errors.Join(os.Mkdir(dir+"/d", 0o700), os.Chmod(dir+"/d", 0o777)) },
			file:  File{Path: "d/knock", Mode: 0o600},
			err:   "may be written by everybody",
		},
		{
			name:  "somebody else's file that is to be kept",
			plant: func(dir string) error { return os.Chown(dir+"/victim", stranger, 0) },
			file:  File{Path: "victim", Keep: true},
			err:   "belongs to user number 54321",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "victim"), "old", 0o600)
			if err := tt.plant(dir); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			tt.file.Path, tt.file.Text = filepath.Join(dir, tt.file.Path), []byte("young")
			change, err := Stage([]File{tt.file})
			if err == nil {
				err = change.Commit()
				change.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want ...%q", err, tt.err)
			}
			if d := cmp.Diff(before, tree(t, dir)); d != "" {
				t.Errorf("it has changed: %s", d)
			}
		})
	}
}

// TestStageBackup: what was there stays under a new name, as it was, except that others
// than its group cannot read it.
func TestStageBackup(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	link := filepath.Join(dir, "link")
	write(t, conf+".~3~", "older", 0o600)
	write(t, conf+".~x~", "no number", 0o600)
	write(t, conf+".~9223372036854775807~", "too great", 0o600)
	write(t, conf+"x.~7~", "another's", 0o600)
	write(t, conf, "old", 0o644)
	if err := os.Symlink("conf", link); err != nil {
		t.Fatal(err)
	}
	replace := func(f File) string {
		t.Helper()
		change, err := Stage([]File{f})
		if err != nil {
			t.Fatal(err)
		}
		defer change.Close()
		if err := change.Commit(); err != nil {
			t.Fatal(err)
		}
		return change.Backup(f.Path)
	}
	if got := replace(File{Path: conf, Text: []byte("young"), Mode: 0o600, Backup: true}); got != conf+".~4~" {
		t.Errorf("kept as %q", got)
	}
	if got := replace(File{Path: link, Text: []byte("younger"), Keep: true, Backup: true}); got != conf+".~5~" {
		t.Errorf("kept as %q", got)
	}
	if got := replace(File{Path: dir + "/first", Text: []byte("new"), Mode: 0o600, New: true, Backup: true}); got != "" {
		t.Errorf("nothing is kept as %q", got)
	}
	want := map[string]string{"conf.~3~": "-rw------- older", "conf.~x~": "-rw------- no number", "conf.~9223372036854775807~": "-rw------- too great", "confx.~7~": "-rw------- another's",
		"conf.~4~": "-rw-r----- old", "conf.~5~": "-rw------- young", "conf": "-rw------- younger", "link": "Lrwxrwxrwx ", "first": "-rw------- new"}
	if d := cmp.Diff(want, tree(t, dir)); d != "" {
		t.Error(d)
	}
}

// TestStageReplacesHardLinks: a place that is another name of a file gets a file
// of its own.
func TestStageReplacesHardLinks(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "victim"), "old", 0o600)
	if err := os.Link(filepath.Join(dir, "victim"), filepath.Join(dir, "knock")); err != nil {
		t.Fatal(err)
	}
	change, err := Stage([]File{{Path: filepath.Join(dir, "knock"), Text: []byte("young"), Mode: 0o600}})
	if err != nil {
		t.Fatal(err)
	}
	defer change.Close()
	if err := change.Commit(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"victim": "-rw------- old", "knock": "-rw------- young"}
	if d := cmp.Diff(want, tree(t, dir)); d != "" {
		t.Error(d)
	}
}
