package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/pages"
)

// documentation are all pages, and the manual pages as the text that they show.
func documentation(t *testing.T) []pages.Page {
	t.Helper()
	all, err := pages.Read("../..", "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "contrib")
	if err != nil {
		t.Fatal(err)
	}
	manuals, err := filepath.Glob("../../docs/man/*.[1-8]")
	if err != nil || len(manuals) == 0 {
		t.Fatalf("manual pages: %q, %v", manuals, err)
	}
	for _, path := range manuals {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pages.Page{Name: path, Text: unroff(string(text))})
	}
	return all
}

// unroff turns a manual page into Markdown: what is between .nf and .fi is a block
// of code, and what is bold is code within text.
func unroff(text string) string {
	text = regexp.MustCompile(`(?m)^\d+\. .*\n`).ReplaceAllString(text, "") // steps in words
	text = regexp.MustCompile(`(?m)^\.nf$`).ReplaceAllString(text, "```sh")
	text = regexp.MustCompile(`(?m)^\.fi$`).ReplaceAllString(text, "```\n")
	text = regexp.MustCompile(`\\fB(.*?)\\fR`).ReplaceAllString(text, "`$1`")
	return strings.NewReplacer(`\-`, "-", `\e`, `\`, `\&`, "", `\fI`, "", `\fR`, "").Replace(text)
}

// others are commands that may have doorward among their arguments.
var others = []string{"systemctl", "journalctl", "apt", "apk", "dnf", "usermod", "man", "install", "chown", "groups"}

// ours are the arguments of doorward in a command of sh, which may stand behind
// other words: sudo, if, ProxyCommand. False if doorward is not called.
func ours(words []string) (args []string, ok bool) {
	for i, w := range words {
		if slices.Contains(others, w) {
			return nil, false
		}
		if w == "doorward" || w == "bin/doorward" {
			return words[i+1:], i+1 < len(words) && words[i+1] != "doorward"
		}
	}
	return nil, false
}

// parses says why a command line of doorward's is not understood.
func parses(args []string) error {
	e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	root := newRoot(e)
	root.InitDefaultHelpCmd()
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if c.Name() == "help" {
		if named, _, err := root.Find(c.Flags().Args()); err != nil || named == root && c.Flags().NArg() > 0 {
			return errors.New("there is no help about that")
		}
		return nil
	}
	if help, err := c.Flags().GetBool("help"); err == nil && help {
		return nil
	}
	return c.ValidateArgs(c.Flags().Args())
}

// words in capitals stand for something; one of these it will be.
var standIns = [][2]string{{"60s", "60s"}, {"192.0.2.7", "192.0.2.7"}, {"1", "ssh"}, {"22", "ssh"}, {"status", "status"}}

var capitals = regexp.MustCompile(`^[A-Z]+$`)

// understood is parses for a line of documentation, with words in capitals.
func understood(args []string) (err error) {
	for _, in := range standIns {
		try := slices.Clone(args)
		for i, a := range try {
			if capitals.MatchString(a) {
				try[i] = in[1]
				if i > 0 && strings.HasPrefix(try[i-1], "-") {
					try[i] = in[0]
				}
			}
		}
		if err = parses(try); err == nil {
			return nil
		}
	}
	return err
}

// mentioned says which of a command and its flags does not exist, for a line that
// leaves out what is clear, such as `doorward close` in running text.
func mentioned(args []string) error {
	root := newRoot(&env{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }})
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if c == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("command %q is not known", rest[0])
	}
	for _, a := range rest {
		if name, _, _ := strings.Cut(strings.TrimPrefix(a, "--"), "="); strings.HasPrefix(a, "--") && name != "" &&
			c.Flags().Lookup(name) == nil && c.InheritedFlags().Lookup(name) == nil && name != "help" {
			return fmt.Errorf("unknown flag: --%s", name)
		}
	}
	return nil
}

// Whatever a page says to type is a command that there is, with its flags.
func TestDocumentedCommandsAreUnderstood(t *testing.T) {
	manual, err := os.ReadFile("../../docs/man/doorwardd.8")
	if err != nil {
		t.Fatal(err)
	}
	daemonFlags := unroff(string(manual))
	blocks, spans := 0, 0
	for _, p := range documentation(t) {
		all, err := p.Blocks()
		if err != nil {
			t.Error(err)
			continue
		}
		for _, b := range all {
			if b.Language == "toml" || b.Language == "json" {
				continue
			}
			for _, words := range pages.Commands(b.Text) {
				if flag := strangeFlag(words, daemonFlags); flag != "" {
					t.Errorf("%s: %q: doorwardd(8) has no %s", b.At(), words, flag)
				}
				if args, ok := ours(words); ok {
					blocks++
					if err := understood(args); err != nil {
						t.Errorf("%s: %q: %v", b.At(), words, err)
					}
				}
			}
		}
		for _, text := range p.Spans() {
			text = strings.TrimPrefix(text, "sudo ")
			if !strings.HasPrefix(text, "doorward ") || strings.ContainsAny(text, "[|…") || strings.Contains(text, "...") || strings.HasSuffix(text, " ") {
				continue // a synopsis, or a label of the protocol
			}
			spans++
			for _, words := range pages.Commands(text) {
				if args, ok := ours(words); ok {
					if understood(args) == nil {
						continue
					}
					if err := mentioned(args); err != nil {
						t.Errorf("%s: `%s`: %v", p.Name, text, err)
					}
				}
			}
		}
	}
	if blocks < 60 || spans < 60 {
		t.Errorf("looked at %d commands in blocks and %d in text: that is not all of them", blocks, spans)
	}
}

// strangeFlag is a flag of doorwardd in a command that its manual does not have.
func strangeFlag(words []string, manual string) string {
	at := slices.IndexFunc(words, func(w string) bool { return strings.HasSuffix(w, "doorwardd") })
	if at < 0 || slices.ContainsFunc(words[:at], func(w string) bool { return slices.Contains(others, w) }) {
		return ""
	}
	for _, w := range words[at+1:] {
		if strings.HasPrefix(w, "-") && !strings.Contains(manual, "\n`"+w+"`") {
			return w
		}
	}
	return ""
}

// What the test above must take for a mistake.
func TestUndocumentableCommands(t *testing.T) {
	for line, want := range map[string]string{
		"doorward opne ssh":                  `command "opne" is not known`,
		"sudo doorward open ssh --fro 1h":    "unknown flag: --fro",
		"if doorward apply --confirm 60":     `invalid argument "60" for "--confirm" flag`,
		"doorward status ssh web":            "one DOOR only",
		"doorward help opne":                 "there is no help about that",
		"doorward knock gate --wait 22 -- x": "",
	} {
		args, ok := ours(pages.Commands(line)[0])
		if !ok {
			t.Errorf("%q is not seen to be doorward's", line)
			continue
		}
		err := understood(args)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", line, err, want)
		} else if want == "" && err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if got := strangeFlag([]string{"sudo", "doorwardd", "-c", "x", "--clean"}, "\n`-c` FILE\n"); got != "--clean" {
		t.Errorf("the flag that doorwardd does not have: got %q", got)
	}
	for line, want := range map[string]string{"doorward opne": `command "opne" is not known`, "doorward open --fro": "unknown flag: --fro", "doorward open --for": ""} {
		args, _ := ours(pages.Commands(line)[0])
		if err := mentioned(args); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("`%s` in a text: got %v, want %q", line, err, want)
		}
	}
	for _, line := range []string{"systemctl stop doorward ssh", "sudo apt remove doorward", "doorward"} {
		if args, ok := ours(pages.Commands(line)[0]); ok {
			t.Errorf("%q: taken for doorward with %q", line, args)
		}
	}
}

// base is the configuration that a page's part belongs to.
const base = `
[door.ssh]
ports = ["22/tcp"]
[[door.ssh.knock]]
kind = "touch"
listen = [24117, 26533, 28904]
touch = [28904, 24117]
[door.vpn]
ports = ["1194/udp"]
[[door.vpn.knock]]
kind = "touch"
listen = [24118, 26534, 28905]
touch = [28905, 24118]
`

// A configuration on a page is one that check finds nothing wrong with, alone or,
// if the page says that it is a part, in a whole one.
func TestDocumentedConfigurations(t *testing.T) {
	seen := 0
	for _, p := range documentation(t) {
		all, err := p.Blocks()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if b.Language != "toml" {
				continue
			}
			seen++
			text := b.Text
			if strings.HasSuffix(b.Title, ", in part") {
				text = merged(t, base, text)
			}
			if _, err := config.Parse(b.Page, []byte(text)); err != nil {
				t.Errorf("%s: %v", b.At(), err)
			}
		}
	}
	if seen < 4 {
		t.Errorf("looked at %d configurations: that is not all of them", seen)
	}
}

// merged is the configuration that both texts say together; the second wins.
func merged(t *testing.T, whole, part string) string {
	t.Helper()
	var a, b map[string]any
	if err := errors.Join(toml.Unmarshal([]byte(whole), &a), toml.Unmarshal([]byte(part), &b)); err != nil {
		t.Fatal(err)
	}
	var merge func(a, b map[string]any)
	merge = func(a, b map[string]any) {
		for k, v := range b {
			below, ok := v.(map[string]any)
			if into, both := a[k].(map[string]any); ok && both {
				merge(into, below)
			} else {
				a[k] = v
			}
		}
	}
	merge(a, b)
	text, err := toml.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
