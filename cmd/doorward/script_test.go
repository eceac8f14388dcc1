package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain also puts this very program on PATH as doorward, for the scripts and
// for tests that start it themselves.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"doorward": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true})
}
