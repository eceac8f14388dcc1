#!/bin/sh
# Builds what must build elsewhere: the visitor's command on other systems, the
# daemon on other Linux machines. Nothing is kept.
. "$(dirname "$0")/lib.sh"
export CGO_ENABLED=0

for target in linux/arm64 darwin/amd64 darwin/arm64 windows/amd64; do
	step "cross-build cmd/doorward for $target"
	GOOS=${target%/*} GOARCH=${target#*/} go build -o /dev/null ./cmd/doorward
done
step "vet cmd/doorward for windows, with its tests"
GOOS=windows go vet ./cmd/doorward
for arch in arm64 arm riscv64; do
	step "cross-build cmd/doorwardd for linux/$arch"
	GOOS=linux GOARCH=$arch go build -o /dev/null ./cmd/doorwardd
done
