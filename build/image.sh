#!/bin/sh
# Builds the container image, as an OCI image layout; no container engine is needed.
# image.sh DIRECTORY [PLATFORM...]. What is in DIRECTORY is replaced, and beside it an
# archive of the same is written. The same commit gives the same bytes.
. "$(dirname "$0")/lib.sh"
umask 022
out=$(realpath -m "$1")
shift
if [ -e "$out" ] && [ ! -e "$out/oci-layout" ]; then
	echo "image.sh: \"$out\" is there and is no image: remove it, or name another directory" >&2
	exit 1
fi
[ $# -gt 0 ] || set -- linux/amd64 linux/arm64 linux/arm/v7 linux/riscv64

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
for platform in "$@"; do
	GOOS=${platform%%/*} GOARCH=${platform#*/} GOARM=
	case $GOARCH in
	arm/v*) GOARM=${GOARCH#arm/v} GOARCH=arm ;;
	esac
	export GOOS GOARCH GOARM
	build/programs.sh "$work/$platform" doorwardd doorward
	shift
	set -- "$@" "$platform=$work/$platform"
done
unset GOOS GOARCH GOARM

mkdir "$work/licenses"
cp LICENSE "$work/licenses/"
GOOS=linux build/licenses.sh ./cmd/doorwardd ./cmd/doorward | gzip -9n >"$work/licenses/THIRD-PARTY-LICENSES.gz"

version=$(build/version.sh number) epoch=$(build/version.sh time)
rm -rf "$out"
go -C build/tools run ./image -o "$out" -version "$version" -epoch "$epoch" -licenses "$work/licenses" "$@"
archive=$(dirname "$out")/doorward_${version}_oci.tar
tar -C "$out" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=a=rX,u+w --mtime="@$epoch" \
	-cf "$archive" oci-layout index.json blobs
echo "$out and $archive: doorward $version"
