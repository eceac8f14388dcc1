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

step "tests with the race detector"
# Many of them wait more than they compute.
CGO_ENABLED=1 go test -p $(($(nproc) * 2)) -race -short -timeout 15m $(go list ./... | grep -v '/e2e')

step "what is long, without it"
go test -timeout 8m ./internal/fence ./internal/store

step "whole-system tests"
# Most of their time is waiting; the daemon is what may race, not the tests.
DOORWARD_RACE=1 CGO_ENABLED=1 go test -timeout 8m -parallel 6 $(go list ./... | grep '/e2e' | grep -v '/e2e/demo$')

FOR=${FOR:-5s} build/fuzz.sh # make fuzz takes longer

step "the demo"
go test -count=1 -v -timeout 3m ./e2e/demo
