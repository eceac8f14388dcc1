#!/bin/sh
# Builds programs for GOOS and GOARCH (or "arm7"), static and reproducible: the same sources
# give the same bytes in whatever directory. programs.sh DIRECTORY PROGRAM...
#
# What the go command would write down of the repository (-buildvcs) is left out: it
# depends on which tags a clone has. version.sh says the version instead.
. "$(dirname "$0")/lib.sh"
out=$1
shift

# As packagers call 32-bit ARM with a floating-point unit.
if [ "${GOARCH:-}" = arm7 ]; then
	export GOARCH=arm GOARM=7
fi

mkdir -p "$out"
for program in "$@"; do
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$(build/version.sh ldflags)" -o "$out/" "./cmd/$program"
done
