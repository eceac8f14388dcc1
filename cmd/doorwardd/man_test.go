//go:build linux

package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The page is written by hand; what --help names must be in it.
func TestTheManualPageNamesWhatTheHelpNames(t *testing.T) {
	text, err := os.ReadFile("../../docs/man/doorwardd.8")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.ReplaceAll(string(text), `\-`, "-")
	for _, word := range regexp.MustCompile(`--[a-z]+|SIG[A-Z0-9]+`).FindAllString(usage, -1) {
		if !strings.Contains(page, word) {
			t.Errorf("docs/man/doorwardd.8 lacks %s", word)
		}
	}
}
