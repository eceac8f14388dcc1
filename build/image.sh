#!/bin/sh
# Builds the container image: image.sh [PLATFORM...]. It goes to $OUT (dist/image),
# as an OCI image layout; no container engine is needed. The same commit gives the
# same bytes.
. "$(dirname "$0")/lib.sh"
export CGO_ENABLED=0

out=${OUT:-dist/image}
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
[ $# -gt 0 ] || set -- linux/amd64 linux/arm64 linux/arm/v7 linux/riscv64

programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
trap 'exit 130' INT TERM
for platform in "$@"; do
	step "build for $platform"
	os=${platform%%/*} rest=${platform#*/}
	arch=${rest%%/*} arm=
	[ "$arch" != arm ] || arm=${rest#*/v}
	GOOS=$os GOARCH=$arch GOARM=$arm go build -trimpath -o "$programs/$platform/" ./cmd/doorwardd ./cmd/doorward
	shift
	set -- "$@" "$platform=$programs/$platform"
done

step "the image $out, version $version"
mkdir -p "$(dirname "$out")"
rm -rf "$out"
go -C build/tools run ./image -o "$(realpath -m "$out")" -version "$version" -epoch "$epoch" -license "$PWD/LICENSE" "$@"
