#!/bin/sh
# Runs the tests of the packages that reach neither a network namespace nor the fence,
# with their tests' own imports and all that those import: the pure cores, readers of
# files and of messages, the rules. None needs root, and all together take less than a
# minute. Which packages these are is asked of the go command, so that no list rots.
. "$(dirname "$0")/lib.sh"

module=$(go list -m)
packages=$(go list -test -f '{{if .ForTest}}{{.ForTest}} {{join .Deps " "}}{{end}}' ./... |
	awk -v machine="^$module/(internal/(nstest|systemdtest|mutants|fence)|e2e/lab)\$" '
		{ all[$1]; for (i = 1; i <= NF; i++) if ($i ~ machine) reaches[$1] }
		END { for (p in all) if (!(p in reaches)) print p }' | sort)
case $packages in
*/internal/door*) ;;
*) echo "unit.sh: internal/door is not among the packages without a machine: $packages" >&2; exit 1 ;;
esac
step "tests of packages that need no machine"
# shellcheck disable=SC2086 # packages is a list of words
exec go test -short "$@" $packages
