package config

import (
	_ "embed"
	"strings"

	"github.com/doorward/doorward/internal/kinds"
)

//go:embed reference.toml
var reference string

//go:embed article.toml
var article string

// Reference returns a configuration that has every key, each with its meaning,
// what is allowed, and its default as its value where it has one. The kinds of
// knock document their own.
func Reference() string {
	const header = "[[door.ssh.knock]]\n\n"
	text, rest, _ := strings.Cut(reference, header)
	for _, k := range kinds.All {
		text += header + k.Reference() + "\n"
	}
	return text + rest
}

// LikeTheArticle returns the configuration with which doorward does what the
// article "Port Knocking Simplified" of 2005 did, number by number.
func LikeTheArticle() string { return article }
