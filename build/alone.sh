#!/bin/sh
# Prints the packages in whose tests nothing runs side by side, so that the race detector
# would see nothing there: neither their code, nor their tests, nor what they import of
# this module starts a goroutine, by itself or through net/http or a terminal program.
# What makes namespaces and machines for tests may be imported: tests wait for it.
. "$(dirname "$0")/lib.sh"

module=$(go list -m)
starts='(^|[^[:alnum:]_.])go (func|[[:alnum:]_.]+\()|\.Go\(|\.Parallel\(|\.RunParallel\(|AfterFunc\(|"net/http|tea\.NewProgram\('
code=$(grep -rlE "$starts" --include='*.go' . | sed '/_test\.go$/d')
tests=$(grep -rlE "$starts" --include='*_test.go' . || true)
go list -test -f '{{if .ForTest}}{{.ForTest}} {{join .Deps " "}}{{end}}' ./... |
	awk -v code="$code" -v tests="$tests" -v module="$module" '
		# note puts the packages of files into a set.
		function note(files, set,  names, i, n) {
			n = split(files, names, "\n")
			for (i = 1; i <= n; i++) {
				sub(/^\./, module, names[i])
				sub(/\/[^\/]*$/, "", names[i])
				set[names[i]]
			}
		}
		BEGIN { note(code, starts); note(code "\n" tests, busy); machine = "^" module "/internal/(nstest|systemdtest)$" }
		{ all[$1]; for (i = 2; i <= NF; i++) if (($i in starts) && $i !~ machine) busy[$1] }
		END { for (p in all) if (!(p in busy)) print p }' | sort
