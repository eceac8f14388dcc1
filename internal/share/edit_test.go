package share

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
	"github.com/doorward/doorward/internal/touch"
)

type editCase struct {
	name     string
	in, want string
	knock    int
	err      string
}

func editCases() []editCase {
	const head = "[door.ssh]\nports = [\"22/tcp\"]\n"
	return []editCase{
		{
			name: "comments, order and layout stay",
			in: "# mine\n" + head + "[[door.ssh.knock]]\n\ttouch  =  [ 59000,59_002 ]   # 59000, 59002\n" +
				"listen = [59000, # first\r\n\n  0xe679,\n  59002,]\nkind = \"touch\"\n# 59000",
			want: "# mine\n" + head + "[[door.ssh.knock]]\n\ttouch  =  [ 21001,21003 ]   # 59000, 59002\n" +
				"listen = [21001, # first\r\n\n  21002,\n  21003,]\nkind = \"touch\"\n# 59000",
		},
		{
			name: "the second of two knocks", knock: 1,
			in: head + "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [1, 2, 3]\ntouch = [1, 2]\n" +
				"[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [59000, 59001, 59002]\ntouch = [59000, 59001]\n",
			want: head + "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [1, 2, 3]\ntouch = [1, 2]\n" +
				"[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [21001, 21002, 21003]\ntouch = [21001, 21003]\n",
		},
		{
			name: "a list of inline tables",
			in:   head + "knock = [{kind = \"touch\", listen = [59000, 59001, 59002], touch = [59000, 59002]}]\n",
			want: head + "knock = [{kind = \"touch\", listen = [21001, 21002, 21003], touch = [21001, 21003]}]\n",
		},
		{
			name: "dotted and quoted keys",
			in: "door.\"ssh\".ports = [\"22/tcp\"]\n" +
				"door.'ssh'.knock = [{\"kind\" = \"touch\", touch = [59000, 59002], listen = [59000, 59001, 59002]}]\n",
			want: "door.\"ssh\".ports = [\"22/tcp\"]\n" +
				"door.'ssh'.knock = [{\"kind\" = \"touch\", touch = [21001, 21003], listen = [21001, 21002, 21003]}]\n",
		},
		{
			name: "doors all in one",
			in: "[door]\nssh = {ports = [\"22/tcp\"], knock = [{kind = \"touch\", " +
				"touch = [59000, 59002], listen = [59000, 59001, 59002]}]}\n" +
				"web = {ports = [\"443/tcp\"], knock = [{kind = \"touch\", touch = [7], listen = [7]}]}\n",
			want: "[door]\nssh = {ports = [\"22/tcp\"], knock = [{kind = \"touch\", " +
				"touch = [21001, 21003], listen = [21001, 21002, 21003]}]}\n" +
				"web = {ports = [\"443/tcp\"], knock = [{kind = \"touch\", touch = [7], listen = [7]}]}\n",
		},
		{
			name: "the new knock is guarded",
			in: "[door.ssh]\nports = [\"21002/tcp\"]\n[[door.ssh.knock]]\nkind = \"touch\"\n" +
				"listen = [59000, 59001, 59002]\ntouch = [59000, 59002]\n",
			err: "f: the new knock does not fit: ",
		},
		{
			name: "another shape",
			in:   head + "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [59000, 59001]\ntouch = [59000]\n",
			err:  `f: the knock of door "ssh" cannot be changed without changing something else`,
		},
		{
			name: "no such knock", knock: 1,
			in:  head + "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [59000, 59001]\ntouch = [59000]\n",
			err: `f: door "ssh" has no knock 2`,
		},
	}
}

// editPorts edits a knock of touched ports to have other ports.
func editPorts(text []byte, door string, i int, listen, touched []uint16) ([]byte, error) {
	var r touch.Rule
	if c, err := config.Parse("f", text); err == nil {
		for _, d := range c.Doors {
			if d.Name == door && i < len(d.Knocks) {
				r = d.Knocks[i].Rule.(touch.Rule)
			}
		}
	}
	r.Listen, r.Touch = listen, touched
	edits := map[string]string{}
	for n, p := range listen {
		edits[fmt.Sprintf("listen.%d", n)] = fmt.Sprint(p)
	}
	for n, p := range touched {
		edits[fmt.Sprintf("touch.%d", n)] = fmt.Sprint(p)
	}
	return Edit("f", text, door, i, r, edits)
}

// word is a kind whose secret is a string.
type word struct{ touch.Kind }

type wordRule struct {
	touch.Rule
	word string
}

func (word) Name() string { return "word" }

func (k word) Read(t *tables.Table) knock.Rule {
	w, _ := t.At("word").Text("words")
	return wordRule{k.Kind.Read(t).(touch.Rule), w}
}

// Secrets may be strings, however they are written.
func TestEditStrings(t *testing.T) {
	kinds.All = append(kinds.All, word{})
	defer func() { kinds.All = kinds.All[:len(kinds.All)-1] }()
	for _, was := range []string{`"old"`, `'old'`, `"""old"""`, `"o\u006cd"`} {
		const text = "[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]] # \"old\"\nkind = \"word\"\nword  =  %s # old\n" +
			"listen = [7]\ntouch = [7]\n"
		before := fmt.Sprintf(text, was)
		c, err := config.Parse("f", []byte(before))
		if err != nil {
			t.Fatal(err)
		}
		fresh := c.Doors[0].Knocks[0].Rule.(wordRule)
		fresh.word = "n\"ew"
		got, err := Edit("f", []byte(before), "ssh", 0, fresh, map[string]string{"word": `"n\"ew"`})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(fmt.Sprintf(text, `"n\"ew"`), string(got)); d != "" {
			t.Error(d)
		}
	}
}

func TestEdit(t *testing.T) {
	for _, tt := range editCases() {
		t.Run(tt.name, func(t *testing.T) {
			got, err := editPorts([]byte(tt.in), "ssh", tt.knock, []uint16{21001, 21002, 21003}, []uint16{21001, 21003})
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
					t.Errorf("error %v, want %q...", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestEditReference edits the file that has every key, and the article's, and edits
// them back: all bytes are as they were.
func TestEditReference(t *testing.T) {
	for name, text := range map[string]string{"reference": config.Reference(), "article": config.LikeTheArticle()} {
		c, err := config.Parse(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		d := c.Doors[0]
		k := d.Knocks[0].Rule.(touch.Rule)
		fresh := []uint16{21001, 21002, 21003, 21004, 21005}[:len(k.Listen)]
		edited, err := editPorts([]byte(text), d.Name, 0, fresh, fresh[:len(k.Touch)])
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(edited, []byte(text)) {
			t.Errorf("%s: nothing changed", name)
		}
		back, err := editPorts(edited, d.Name, 0, k.Listen, k.Touch)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(text, string(back)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestEditTouchesNothingElse: between the numbers of a knock there may be any
// white space and comments, which are all there afterwards.
func TestEditTouchesNothingElse(t *testing.T) {
	space := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{
			"", " ", "\t", "\n", "\r\n", "# 59000, 59001]\n", "# touch = [1]\n", "  # \u00fc \"'\n"}), 0, 4).Draw(t, "s"), "")
	})
	rapid.Check(t, func(t *rapid.T) {
		var old, want strings.Builder
		both := func(s string) { old.WriteString(s); want.WriteString(s) }
		list := func(key string, is, becomes []string) {
			both(key + " = [")
			for i := range is {
				both(space.Draw(t, "before"))
				old.WriteString(is[i])
				want.WriteString(becomes[i])
				both(space.Draw(t, "after"))
				both(",")
			}
			both(space.Draw(t, "last") + "]\n")
		}
		both("[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"touch\"\n")
		list("listen", []string{"59000", "0xE679", "+59002"}, []string{"21001", "21002", "21003"})
		list("touch", []string{"59_000", "59002"}, []string{"21001", "21003"})
		got, err := editPorts([]byte(old.String()), "ssh", 0, []uint16{21001, 21002, 21003}, []uint16{21001, 21003})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want.String(), string(got)); d != "" {
			t.Error(d)
		}
	})
}
