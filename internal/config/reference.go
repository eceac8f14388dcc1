package config

import _ "embed"

//go:embed reference.toml
var reference string

//go:embed article.toml
var article string

// Reference returns a configuration that has every key, each with its meaning,
// what is allowed, and its default as its value where it has one.
func Reference() string { return reference }

// LikeTheArticle returns the configuration with which doorward does what the
// article "Port Knocking Simplified" of 2005 did, number by number.
func LikeTheArticle() string { return article }
