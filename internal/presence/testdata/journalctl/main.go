// Command journalctl stands in for the real one: it prints the entries of the file
// "entries" beside it that its arguments select, and records the arguments in "calls".
//
// Other files beside it change what it does. If there is a file "fail", it prints that
// file as an error and fails; with "break", it does so after the first entry when it reads
// back; with "grumble", it prints the error but does not fail. With "endless", it repeats
// the last entry for ever when it reads back, and with "hang", it prints nothing and does
// not exit.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() { os.Exit(run(filepath.Dir(os.Args[0]), os.Args[1:])) }

func run(dir string, args []string) int {
	calls, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 3
	}
	fmt.Fprintln(calls, strings.Join(args, " "))
	calls.Close()
	if text, err := os.ReadFile(filepath.Join(dir, "fail")); err == nil {
		os.Stderr.Write(text)
		return 1
	}
	if _, err := os.Stat(filepath.Join(dir, "hang")); err == nil {
		time.Sleep(time.Hour) // until it is killed
	}
	text, _ := os.ReadFile(filepath.Join(dir, "entries"))
	lines := slices.Collect(strings.Lines(string(text)))
	for _, a := range args {
		cursor, from := strings.CutPrefix(a, "--cursor=")
		switch {
		case cursor == "bad":
			fmt.Fprintln(os.Stderr, "Failed to seek to cursor: Invalid argument")
			return 1
		case from: // from the entry with the cursor on
			i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, `"`+cursor+`"`) })
			lines = lines[max(i, 0):]
		case a == "--reverse":
			slices.Reverse(lines)
		case a == "--lines=1" && len(lines) > 1:
			lines = lines[len(lines)-1:]
		}
	}
	if len(lines) == 0 {
		fmt.Println("-- No entries --")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "grumble")); err == nil {
		os.Stderr.Write(text)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "break")); err == nil && slices.Contains(args, "--reverse") {
		os.Stdout.WriteString(lines[0])
		os.Stderr.Write(text)
		return 1
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, l := range lines {
		out.WriteString(l)
	}
	_, err = os.Stat(filepath.Join(dir, "endless"))
	for err == nil && slices.Contains(args, "--reverse") {
		_, err = out.WriteString(lines[len(lines)-1])
	}
	return 0
}
