#!/bin/sh
# Everything that `make test` does, in the order in which a mistake shows soonest.
# The demo is the last test. Without root the tests that need it are skipped, and
# each says so; in CI (CI=true) a skipped one is a failed one.
. "$(dirname "$0")/lib.sh"

if [ "$(id -u)" != 0 ]; then
	echo "not root: whatever needs network namespaces is skipped"
fi

build/lint.sh
build/cross.sh
build/model.sh models

# lint.sh has had go vet look, and it need not look again.
step "tests of the tools"
go -C build/tools test -vet=off ./...

step "tests with the race detector"
# Many of them wait more than they compute; those that take longest begin first.
slow="./packaging ./contrib/ansible ./internal/gateway ./internal/store"
CGO_ENABLED=1 go test -vet=off -p $(($(nproc) * 2)) -race -short -timeout 25m \
	$slow $(go list ./... | grep -v '/e2e' | grep -vxF "$(go list $slow)")

step "what -short leaves out, without it"
long=$(grep -rl 'testing\.Short()' --include='*_test.go' cmd internal)
names=$(awk '/^func / { sub(/\(.*/, "", $2); name = $2 }
	/testing\.Short\(\)/ { if (name !~ /^Test/) { print FILENAME ": testing.Short() is for tests" >"/dev/stderr"; exit 1 }
		printf "%s%s", bar, name; bar = "|" }' $long)
go test -vet=off -parallel 8 -timeout 8m -run "^($names)\$" $(dirname $long | sort -u | sed 's|^|./|')

step "whole-system tests"
# Most of their time is waiting; the daemon is what may race, not the tests.
DOORWARD_RACE=1 CGO_ENABLED=1 go test -vet=off -timeout 8m -parallel 6 $(go list ./... | grep '/e2e' | grep -v '/e2e/demo$')

FOR=${FOR:-5s} build/fuzz.sh # make fuzz takes longer

step "the demo"
go test -vet=off -count=1 -v -timeout 3m ./e2e/demo
