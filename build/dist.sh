#!/bin/sh
# Builds archives for systems without packages: the visitor's command for Linux,
# macOS and Windows, the daemon with it for Linux; beside each program its SBOM
# (CycloneDX), and SHA256SUMS of all that lies there, packages too.
# dist.sh DIRECTORY [OS/ARCHITECTURE...]
#
# The same commit gives the same bytes, as with packages.sh.
. "$(dirname "$0")/lib.sh"
out=$1
shift
[ $# -gt 0 ] || set -- linux/amd64 linux/arm64 linux/arm7 linux/riscv64 \
	darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
number=$(build/version.sh number)
time=$(build/version.sh time)
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/*.tar.gz "$out"/*.zip "$out"/*.cdx.json "$out/SHA256SUMS" # of another version

# archive TREE: packs $work/TREE under its name, for Windows as a .zip
archive() {
	find "$work/$1" -exec touch -h -d "@$time" {} +
	case $1 in
	*_windows_*)
		# Without extra fields, and with times in UTC, which a .zip does not say.
		(cd "$work" && find "$1" | sort | TZ=UTC zip -q -X "$out/$1.zip" -@)
		;;
	*)
		tar -C "$work" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner -cf - "$1" |
			gzip -9n >"$out/$1.tar.gz"
		;;
	esac
}

# sbom PROGRAM NAME: what is linked into it. The licences are looked for where the
# build has taken the modules from, and doorward itself is not there. The build has
# checked them against go.sum; the tool does not read that and would ask the checksum
# database.
sbom() {
	GOPROXY=off GOSUMDB=off GOFLAGS=-mod=mod "$work/cyclonedx-gomod" bin -json -std -licenses -noserial -notimestamp \
		-version "v$number" -output "$out/$2.cdx.json" "$1" 2>"$work/log" || {
		cat "$work/log" >&2
		exit 1
	}
}

# client OS_ARCHITECTURE: what a visitor needs
client() {
	tree=$work/doorward-client_${number}_$1
	install -D -m 755 -t "$tree" "$work/bin"/*
	install -D -m 644 -t "$tree" LICENSE "$work/THIRD-PARTY-LICENSES"
	case $1 in
	windows_*) ;;
	*)
		install -D -m 644 -t "$tree/completions" "$work"/completions/*
		install -D -m 644 -t "$tree/man" docs/man/doorward.1 docs/man/doorward-knock.1
		;;
	esac
	archive "${tree##*/}"
}

# daemon OS_ARCHITECTURE: what make install and make uninstall need, where they look
# for it: build/install.sh there is what make install is here
daemon() {
	tree=$work/doorward_${number}_$1
	install -D -m 755 -t "$tree/bin" "$work/bin/doorwardd" "$work/bin/doorward"
	install -D -m 644 -t "$tree/bin/completions" "$work"/completions/*
	install -D -m 755 -t "$tree/build" build/lib.sh build/*install.sh
	install -D -m 644 -t "$tree/docs/man" docs/man/*.[1578]
	install -D -m 644 -t "$tree/packaging" packaging/doorward*.*
	install -D -m 644 -t "$tree/packaging/scripts" packaging/scripts/p*
	install -D -m 644 -t "$tree" LICENSE "$work/THIRD-PARTY-LICENSES" README.md CHANGELOG.md
	archive "${tree##*/}"
}

# An SBOM names the program that made it by its hash.
CGO_ENABLED=0 go -C build/tools build -trimpath -o "$work/cyclonedx-gomod" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
build/programs.sh "$work/host" doorward
build/completions.sh "$work/host/doorward" "$work/completions"
for target in "$@"; do
	step "archives for $target"
	GOOS=${target%/*} GOARCH=${target#*/}
	export GOOS GOARCH
	name=${GOOS}_$GOARCH
	rm -rf "${work:?}/bin"
	build/licenses.sh ./cmd/doorward >"$work/THIRD-PARTY-LICENSES"
	build/programs.sh "$work/bin" doorward
	client "$name"
	sbom "$work/bin"/* "doorward_${number}_$name"
	if [ "$GOOS" = linux ]; then
		build/licenses.sh ./cmd/doorward ./cmd/doorwardd >"$work/THIRD-PARTY-LICENSES"
		build/programs.sh "$work/bin" doorwardd
		daemon "$name"
		sbom "$work/bin/doorwardd" "doorwardd_${number}_$name"
	fi
	unset GOOS GOARCH
done
cd "$out" || exit
find . -maxdepth 1 -type f ! -name SHA256SUMS | sed 's|^\./||' | sort | xargs sha256sum >"$work/sums"
install -m 644 "$work/sums" SHA256SUMS
cat SHA256SUMS
