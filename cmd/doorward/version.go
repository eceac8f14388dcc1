package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/version"
)

const versionHelp = `Print the version of this program, and of the daemon that answers at the control
socket, if there is one. After an upgrade the two differ until the daemon is restarted.

doorward --version prints the first line alone, and asks no daemon.

Exit status: 0 whether a daemon answers or not; 2 when the command line is wrong.`

const versionExamples = `  doorward version
  doorward version --json | jq -r .daemon`

// versionJSON is what version --json prints.
type versionJSON struct {
	Version string  `json:"version"` // such as "1.2.3", or "unknown"
	Commit  string  `json:"commit"`  // that it was built from, or "unknown"
	Go      string  `json:"go"`      // which Go built it
	System  string  `json:"system"`  // for which operating system and architecture, such as "linux/amd64"
	Daemon  *string `json:"daemon"`  // the version of the daemon, null if none answers
}

func newVersion(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version [--json]",
		Short:   "print the version of this program and of the daemon",
		Long:    versionHelp,
		Example: versionExamples,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return printVersion(c.Context(), e, e.client(c), asJSON)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// thisVersion is the version of this program, without the daemon's.
func thisVersion() versionJSON {
	return versionJSON{Version: version.Number(), Commit: version.Commit(), Go: runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH}
}

// String is the version for people, on one line.
func (v versionJSON) String() string {
	return fmt.Sprintf("doorward %s (commit %s, %s, %s)", v.Version, v.Commit, v.Go, v.System)
}

// printVersion prints the version of this program and of the daemon.
func printVersion(ctx context.Context, e *env, daemon *control.Client, asJSON bool) error {
	const limit = 2 * time.Second // a hung daemon is no reason to wait for long
	daemon.Timeout = limit
	v := thisVersion()
	s, err := daemon.Status(ctx)
	if err == nil {
		v.Daemon = &s.Version
	}
	if asJSON {
		return printJSON(e.stdout, v)
	}
	text := v.String() + "\n"
	told, _ := errors.AsType[*control.Error](err)
	switch {
	case err == nil && s.Version == v.Version:
		text += fmt.Sprintf("doorwardd %s\n", output.Text(s.Version))
	case err == nil:
		text += fmt.Sprintf("doorwardd %s: another version than this program's; systemctl restart doorward brings the installed one\n",
			output.Text(s.Version))
	case told == nil || told.Code != control.CodeDown: // a machine without a daemon is a visitor's
		text += fmt.Sprintf("doorwardd: version unknown: %s\n", output.Text(err.Error()))
	}
	_, err = fmt.Fprint(e.stdout, text)
	return err
}
