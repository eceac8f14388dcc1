package main

import (
	"strings"
)

const configurationIntro = `# Configuration

The file, by default ` + "`/etc/doorward/doorward.toml`" + `, is [TOML](https://toml.io/en/v1.0.0). ` + "`doorward init`" + ` writes a
first one, ` + "`doorward check`" + ` reports every mistake in it at once, and ` + "`doorward apply --confirm 60s`" + ` puts a
changed one into use. The same text is doorward.toml(5) and ` + "`doorward init --reference`" + `.

`

// configuration turns the configuration's reference, TOML whose comments explain
// each key, into a page with a heading for each table and each key.
func configuration(reference string) string {
	var b strings.Builder
	b.WriteString(configurationIntro)
	var comment []string
	var code []string
	table := ""
	flush := func() {
		if len(code) == 0 {
			return
		}
		first := code[0]
		if key, _, ok := strings.Cut(first, " = "); ok {
			b.WriteString("### `" + key + "` { #" + anchor(table+"-"+key) + " }\n\n")
		} else {
			table = strings.Trim(first, "[]")
			b.WriteString("## `" + first + "` { #" + anchor(table) + " }\n\n")
		}
		b.WriteString(prose(comment))
		if strings.Contains(first, " = ") {
			b.WriteString("```toml\n" + strings.Join(code, "\n") + "\n```\n\n")
		}
		comment, code = nil, nil
	}
	for line := range strings.Lines(reference) {
		line = strings.TrimSuffix(line, "\n")
		text, isComment := strings.CutPrefix(line, "#")
		switch {
		case isComment:
			flush()
			comment = append(comment, strings.TrimPrefix(text, " "))
		case strings.TrimSpace(line) == "":
			if len(code) == 0 && len(comment) > 0 && table == "" {
				b.WriteString(prose(comment)) // about the file as a whole
				comment = nil
			}
			flush()
		case strings.HasPrefix(line, "[") || len(code) == 0 || !strings.HasPrefix(code[0], "["):
			if len(code) > 0 && startsKey(line) {
				flush() // keys in a row, each with its own heading
			}
			code = append(code, line)
		default:
			flush()
			code = append(code, line)
		}
	}
	flush()
	return b.String()
}

// startsKey says whether a line begins a key or a table, and does not go on with
// a value.
func startsKey(line string) bool {
	return strings.HasPrefix(line, "[") || line != "" && line[0] != ' ' && line[0] != ']' && strings.Contains(line, " = ")
}

// prose turns a comment into Markdown: what is indented stays as it is.
func prose(comment []string) string {
	if len(comment) == 0 {
		return ""
	}
	var b strings.Builder
	literal := false
	fence := func(want bool) {
		if want != literal {
			b.WriteString(map[bool]string{true: "\n```text\n", false: "```\n\n"}[want])
			literal = want
		}
	}
	for _, line := range comment {
		fence(strings.HasPrefix(line, "  "))
		if !literal {
			line = escape(line)
		}
		b.WriteString(line + "\n")
	}
	fence(false)
	return strings.TrimRight(b.String(), "\n") + "\n\n"
}

// escape keeps Markdown from reading what stands for itself. Code between
// backquotes, and what is quoted, is left alone.
func escape(line string) string {
	parts := strings.Split(line, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", "&lt;", "[", `\[`).Replace(parts[i])
	}
	return strings.Join(parts, "`")
}

// anchor is text as the target of a link: a-z, 0-9, - and _.
func anchor(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(text))
}
