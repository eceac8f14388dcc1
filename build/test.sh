#!/bin/sh
# Everything that `make test` does, in the order in which a mistake shows soonest.
# The demo is the last test. Without root the tests that need it are skipped, and
# each says so; in CI (CI=true) a skipped one is a failed one. In the end it says how
# long each step took, and which packages took longest.
. "$(dirname "$0")/lib.sh"

work=$(mktemp -d)
STEPS=$work/steps
export STEPS
# report says what took long, however the tests ended.
report() {
	status=$?
	printf '\nseconds of each step:\n'
	{ cat "$STEPS" && date +%s; } | awk 'NR > 1 { printf "%5d  %s\n", $1 - last, name } { last = $1; sub(/^[0-9]* /, ""); name = $0 }'
	printf '\nseconds of the slowest packages, which are tested side by side:\n'
	sed -n 's/^\(ok\|FAIL\)  *\t\([^ \t]*\)\t\([0-9.]*\)s.*/\3 \2/p' "$work/log" | sort -rn | head | awk '{ printf "%7.1f  %s\n", $1, $2 }'
	wait # for what is built alongside
	rm -rf "$work"
	exit "$status"
}
: >"$work/log"
trap report EXIT
trap 'exit 130' INT TERM

# tests runs tests of packages and notes how long each took. lint.sh has had go vet look,
# and it need not look again.
tests() {
	{ STEPS='' go test -vet=off "$@" && : >"$work/passed"; } | tee -a "$work/log"
	rm "$work/passed" 2>/dev/null
}

if [ "$(id -u)" != 0 ]; then
	echo "not root: whatever needs network namespaces is skipped"
fi

build/lint.sh
build/cross.sh
build/model.sh models

step "tests of the tools"
(cd build/tools && tests ./...)

alone=$(build/alone.sh | grep -v '/e2e/')
others=$(go list ./... | grep -v '/e2e' | grep -vxF "$alone")
step "tests in which nothing runs side by side"
tests -timeout 10m $alone

step "the others, with the race detector"
# Many of them wait more than they compute; those that take longest begin first.
slow=$(go list ./packaging ./contrib/ansible ./internal/gateway ./internal/store)
(
	export CGO_ENABLED=1
	tests -p $(($(nproc) * 2)) -race -short -timeout 25m $slow $(echo "$others" | grep -vxF "$slow")
)

step "what -short and the race detector leave out of them"
leave='testing[.]Short[(]|[^.]race[.]Skip[(]'
long=$(go list -f '{{range .TestGoFiles}}{{$.Dir}}/{{.}}
{{end}}{{range .XTestGoFiles}}{{$.Dir}}/{{.}}
{{end}}' $others | xargs grep -lE "$leave")
names=$(awk -v leave="$leave" '/^func / { sub(/\(.*/, "", $2); name = $2 }
	$0 ~ leave { if (name !~ /^Test/) { print FILENAME ": only a test may leave itself out" >"/dev/stderr"; exit 1 }
		printf "%s%s", bar, name; bar = "|" }' $long)
tests -parallel 8 -timeout 20m -run "^($names)\$" $(dirname $long | sort -u)

step "whole-system tests"
# Most of their time is waiting, in which the fuzz targets are built; the daemon is what
# may race, not the tests.
FUZZERS=$work/fuzzers
export FUZZERS
mkdir "$FUZZERS"
STEPS='' nice build/fuzz.sh build >"$work/fuzzers.log" 2>&1 &
fuzzers=$!
(
	export DOORWARD_RACE=1
	tests -timeout 8m -p $(($(nproc) * 2)) -parallel 6 $(go list ./... | grep '/e2e' | grep -v '/e2e/demo$')
)
wait "$fuzzers" || { cat "$work/fuzzers.log" >&2; exit 1; }

FOR=${FOR:-5s} build/fuzz.sh # make fuzz takes longer

step "the demo"
tests -count=1 -v -timeout 3m ./e2e/demo
