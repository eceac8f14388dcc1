package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const schemasIntro = `# JSON

What commands print with ` + "`--json`" + `, and what the [control API](../API.md) takes and answers. Each object below has a
schema (JSON Schema 2020-12) that a program can check it with. Every object has the key ` + "`api`" + `. Within a version keys
are added, and none is removed or changes its meaning or type: ignore keys that you do not know. A command that fails
prints an [error](#error), with whatever else there is to say.

`

// schema is a JSON schema, as far as docs/api uses the language.
type schema struct {
	Title       string             `json:"title"`
	Description string             `json:"description"`
	Type        any                `json:"type"` // a string, or a list of them
	Format      string             `json:"format"`
	Properties  map[string]*schema `json:"properties"`
	Items       *schema            `json:"items"`
	Required    []string           `json:"required"`
}

// schemas makes the page of all JSON objects from the schemas in a directory.
func schemas(dir string) (string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.schema.json"))
	if err != nil || len(paths) == 0 {
		return "", fmt.Errorf("no schemas in %s: %v", dir, err)
	}
	slices.Sort(paths)
	var b strings.Builder
	b.WriteString(schemasIntro)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		var s schema
		if err := json.Unmarshal(text, &s); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".schema.json")
		fmt.Fprintf(&b, "## %s { #%s }\n\n", name, name)
		if s.Title != "" {
			b.WriteString(escape(strings.ToUpper(s.Title[:1])+s.Title[1:]) + ". ")
		}
		fmt.Fprintf(&b, "Schema: [%s](../api/%[1]s).\n\n| key | type | |\n|---|---|---|\n", filepath.Base(path))
		rows(&b, "", &s)
		b.WriteString("\n")
	}
	return b.String(), nil
}

// rows writes a line of a table for each key of an object, those of objects in it
// behind it.
func rows(b *strings.Builder, prefix string, s *schema) {
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := s.Properties[name]
		text := strings.ReplaceAll(escape(strings.Join(strings.Fields(p.Description), " ")), "|", `\|`)
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, name, kind(p), text)
		rows(b, prefix+name+".", p)
		if p.Items != nil {
			rows(b, prefix+name+"[].", p.Items)
		}
	}
}

// kind says what a value is.
func kind(s *schema) string {
	name := ""
	switch t := s.Type.(type) {
	case string:
		name = t
	case []any:
		words := make([]string, len(t))
		for i, w := range t {
			words[i] = fmt.Sprint(w)
		}
		name = strings.Join(words, " or ")
	}
	if s.Items != nil && kind(s.Items) != "" {
		name = strings.Replace(name, "array", "list of "+kind(s.Items), 1)
	}
	if s.Format == "date-time" {
		name = strings.Replace(name, "string", "time", 1)
	}
	return name
}
