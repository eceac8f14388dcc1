#!/bin/sh
# Runs every fuzz target there is for FUZZTIME each; none has to be listed here.
. "$(dirname "$0")/lib.sh"
time=${FUZZTIME:-5s}

grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do
	package=$(dirname "$file")
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
		step "fuzz $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" </dev/null || exit 1
	done || exit 1
done
