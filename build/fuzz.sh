#!/bin/sh
# Runs every fuzz target there is for FOR each; none has to be listed here. As many
# run at a time as there are processors, with one worker each: that is as quick as
# all workers for one after the other, and no target's start leaves them idle.
# What a target found stands in its package's testdata, to be committed with what
# mends it. `fuzz.sh build` only builds them, into the directory FUZZERS, from which
# a later fuzz.sh with the same FUZZERS takes them.
. "$(dirname "$0")/lib.sh"

# only_time_was_up LOG: says whether a target failed only for the end of its time.
# Before Go 1.27 fuzzing now and then takes that for one (go.dev/issue/75804); one of
# the target itself names an input.
only_time_was_up() {
	grep -qx '    context deadline exceeded' "$1" && ! grep -q 'written to testdata\|--- FAIL: .*/' "$1"
}

# binary PACKAGE: the path of its tests
binary() { echo "$WORK/$(echo "$1" | tr / -).test"; }

# one PACKAGE TARGET: runs one, says what came of it
one() {
	name=$1/$2
	log=$WORK/log-$(echo "$name" | tr / -)
	if (
		cd "$1"
		"$(binary "$1")" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$FOR" \
			-test.fuzzminimizetime 20x -test.parallel 1 -test.fuzzcachedir "$CACHE/$1"
	) >"$log" 2>&1 || only_time_was_up "$log"; then
		echo "ok   $name  $(sed -n 's/.*\(execs: [0-9]*\).*\(total: [0-9]*\).*/\1, inputs \2/p' "$log" | tail -n 1)"
		return
	fi
	input=$(sed -n 's|.*written to testdata/fuzz/||p' "$log" | tail -n 1)
	[ -n "$input" ] || input=$(sed -n 's|.*--- FAIL: \(Fuzz[^ ]*/[^ ]*\).*|\1|p' "$log" | tail -n 1)
	{
		echo "FAIL $name"
		cat "$log"
		echo "again: go test -run '^${input:-$2}\$' ./$1"
	} >"$log-whole"
	cat "$log-whole" # at once, so that two failures do not mix
	return 1
}

case $# in
1) [ "$1" = build ] || exec go test -c -fuzz . -o "$(binary "$1")" "./$1" ;;
2)
	one "$1" "$2"
	exit
	;;
esac

FOR=${FOR:-10s}
WORK=${FUZZERS:-}
[ -n "$WORK" ] || WORK=$(mktemp -d)
CACHE=$(go env GOCACHE)/fuzz/$(go list -m)
export FOR WORK CACHE
[ -n "${FUZZERS:-}" ] || trap 'rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM

grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*(' . |
	sed 's|^\./\(.*\)/[^/]*:func \(.*\)($|\1 \2|' | sort >"$WORK/targets"
step "fuzz $(wc -l <"$WORK/targets") targets for $FOR each"
if [ ! -e "$WORK/built" ]; then
	# The package that imports most is built first, alone: it compiles what the others share.
	cut -d' ' -f1 "$WORK/targets" | uniq | sed 's|^|./|' | xargs go list -f '{{len .Deps}} {{.ImportPath}}' |
		sort -rn | sed "s|.* $(go list -m)/||" >"$WORK/packages"
	build/fuzz.sh "$(head -n 1 "$WORK/packages")"
	sed 1d "$WORK/packages" | xargs -P "$(nproc)" -n 1 build/fuzz.sh
	step "built"
	: >"$WORK/built"
fi
[ "${1:-}" != build ] || exit 0
xargs -P "$(nproc)" -n 2 build/fuzz.sh <"$WORK/targets"
step "fuzzed"
