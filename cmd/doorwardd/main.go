//go:build linux

// Landlock, which keeps the daemon from connecting out over TCP, knows nothing of
// MPTCP, and a listener of that kind could be turned into a connection.
//
//go:debug multipathtcp=0

// Command doorwardd is the daemon: it guards the doors of its configuration
// until it is told to end, and leaves the fence standing when it does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/daemon"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/removal"
	"github.com/doorward/doorward/internal/version"
)

const usage = `doorwardd guards the doors of a configuration: services stay dark until a
visitor knocks right, and go dark again when nobody has been in for a while.

usage:
  doorwardd [-c FILE]            guard the doors until SIGTERM
  doorwardd [-c FILE] --check    check the configuration; change nothing
  doorwardd --cleanup            remove the fence: every port is reachable again
  doorwardd [-c FILE] --retire   before doorward is removed: open the doors to SSH
                                 and VPNs for good; --all opens every door
  doorwardd --version

options:
  -c FILE   the configuration (default ` + config.DefaultPath + `)

signals:
  SIGTERM, SIGINT   end. The fence stands and grants run out by themselves;
                    services and sessions stay as they are.
  SIGHUP            read the configuration again. One with a mistake, or that was
                    rolled back, changes nothing, nor does any while another
                    waits to be kept; the log and doorward log say so. doorward
                    apply does the same, and answers.
  SIGUSR1           turn debugging messages on or off.

It needs CAP_NET_ADMIN for the fence, and permission to start and stop the units that
its doors name. Operators talk to it with doorward(1): doorward status.

exit status: 0 when it was told to end, 1 when it could not go on, 2 when the
command line cannot be understood.
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("doorwardd", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	path := flags.String("c", config.DefaultPath, "")
	check := flags.Bool("check", false, "")
	cleanup := flags.Bool("cleanup", false, "")
	retire := flags.Bool("retire", false, "")
	all := flags.Bool("all", false, "")
	showVersion := flags.Bool("version", false, "")
	launch := flags.Bool("launcher", false, "") // the daemon's own: see internal/launcher
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(os.Stderr, "doorwardd: error: argument %q is not understood\ndoorwardd: hint: doorwardd --help\n", flags.Arg(0))
		return 2
	}
	var err error
	switch {
	case *showVersion:
		fmt.Println("doorwardd", version.Number())
	case *check:
		err = checkConfig(*path)
	case *cleanup:
		err = cleanUp()
	case *retire:
		err = removal.Run(context.Background(), removal.Options{Config: *path, All: *all, Out: os.Stdout})
	case *launch:
		err = daemon.Launch(*path, daemon.NewLogger(new(slog.LevelVar)))
	default:
		level := new(slog.LevelVar)
		d := daemon.Daemon{ConfigPath: *path, Version: version.Number(), Level: level, Log: daemon.NewLogger(level)}
		err = d.Serve(context.Background())
	}
	if err != nil {
		complain(os.Stderr, daemon.ErrorPrefix(), err)
		if errors.Is(err, fence.ErrBusy) || errors.Is(err, removal.ErrRuns) {
			fmt.Fprint(os.Stderr, stopFirst)
		}
		if errors.Is(err, removal.ErrUnknown) {
			fmt.Fprint(os.Stderr, mendFirst)
		}
		return 1
	}
	return 0
}

// complain prints an error, the prefix in front of each of its lines: each is an entry
// of the journal.
func complain(w io.Writer, prefix string, err error) {
	for line := range strings.Lines("doorwardd: error: " + err.Error() + "\n") {
		fmt.Fprint(w, prefix+line)
	}
}

// stopFirst is for whoever would take the fence down while a daemon keeps it up.
const stopFirst = `doorwardd: hint: systemctl stop doorward
doorwardd: hint: or, to open a door while the daemon runs: doorward open DOOR --source any --for 1h
`

// mendFirst is for whoever would remove doorward with a configuration from which the
// doors cannot be told.
const mendFirst = `doorwardd: hint: correct the configuration, and try again
doorwardd: hint: or, to open every door: systemctl stop doorward; doorwardd --retire --all
`

// cleanUp removes the fence, and says what it did.
func cleanUp() error {
	stood, err := fence.Stands()
	if err == nil {
		err = fence.Cleanup()
	}
	switch {
	case err != nil:
		return err
	case stood:
		fmt.Println("removed the nftables table inet doorward: every port is reachable again, " +
			"and services that doorward has stopped stay stopped")
	default:
		fmt.Println("there is no nftables table inet doorward: nothing was guarded")
	}
	return nil
}

func checkConfig(path string) error {
	c, _, err := config.Load(path)
	if err != nil {
		return err
	}
	for _, w := range c.Warnings() {
		fmt.Println("warning:", w)
	}
	fmt.Printf("%s: no mistakes; doorward check describes its doors in words\n", path)
	return nil
}
