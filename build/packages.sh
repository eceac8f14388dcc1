#!/bin/sh
# Builds the packages of the daemon and of the client: .deb, .rpm and .apk for each
# architecture. packages.sh DIRECTORY [ARCHITECTURE...]; FORMATS=deb for those alone
#
# The same commit gives the same bytes: all files have the commit's time, and
# nothing comes from the machine that builds but the Go that go.mod names.
. "$(dirname "$0")/lib.sh"
out=$1
shift
[ $# -gt 0 ] || set -- amd64 arm64 arm7 riscv64
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
number=$(build/version.sh number)
SOURCE_DATE_EPOCH=$(build/version.sh time)
export SOURCE_DATE_EPOCH
mkdir -p "$out"
rm -f "$out"/*.deb "$out"/*.rpm "$out"/*.apk "$out/SHA256SUMS" # of another version
out=$(cd "$out" && pwd)
# The scripts' times and modes are in some of the packages.
cp -r packaging "$work/packaging"
chmod -R u=rwX,go=rX "$work/packaging"
find "$work/packaging" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

# stage FORMAT: what goes where, below $work/daemon and $work/client
stage() {
	daemon=$work/daemon client=$work/client
	rm -rf "$daemon" "$client"
	BIN=$work/bin build/install.sh "$daemon" /usr >/dev/null
	gzip -9n "$daemon"/usr/share/man/man?/*
	for path in bin share/bash-completion share/zsh share/fish share/man/man1; do
		mkdir -p "$client/usr/$(dirname "$path")"
		mv "$daemon/usr/$path" "$client/usr/$path"
	done
	install -D -m 644 -t "$daemon/usr/share/doc/doorward" README.md
	find docs -name '*.md' ! -path 'docs/model/*' | while read -r page; do # README's links find them
		install -D -m 644 "$page" "$daemon/usr/share/doc/doorward/$page"
	done
	install -D -m 644 -t "$daemon/usr/share/doc/doorward/examples" contrib/prometheus/doorward.rules.yml contrib/grafana/doorward.json
	case $1 in
	deb)
		mv "$client/usr/share/zsh/site-functions" "$client/usr/share/zsh/vendor-completions"
		install -D -m 755 packaging/doorward.init "$daemon/etc/init.d/doorward"
		debian "$daemon" doorward
		debian "$client" doorward-client
		;;
	apk)
		rm -r "$daemon/usr/lib" "$daemon/usr/share/dbus-1" # there is no systemd there
		install -D -m 755 packaging/doorward.openrc "$daemon/etc/init.d/doorward"
		;;
	esac
	[ "$1" = deb ] || for name in doorward doorward-client; do
		tree=$daemon
		[ $name = doorward ] || tree=$client
		install -D -m 644 -t "$tree/usr/share/licenses/$name" LICENSE "$work/THIRD-PARTY-LICENSES.gz"
	done
}

# debian TREE NAME: what Debian has in each package
debian() {
	install -D -m 644 packaging/copyright "$1/usr/share/doc/$2/copyright"
	install -D -m 644 -t "$1/usr/share/doc/$2" "$work/THIRD-PARTY-LICENSES.gz"
	build/changelog.sh "$2" | gzip -9n >"$1/usr/share/doc/$2/changelog.gz"
	install -D -m 644 "packaging/lintian/$2" "$1/usr/share/lintian/overrides/$2"
}

# pack FORMAT ARCHITECTURE
pack() {
	ARCH=$2 VERSION=$number RELEASE=1
	export ARCH VERSION RELEASE
	case $1 in
	deb) RELEASE= ;; # a native package's version has none
	apk) VERSION=$(echo "$number" | sed 's/+git\([0-9]*\).*/_git\1/') RELEASE=0 ;;
	esac
	for name in daemon client; do
		config=packaging/nfpm.yaml
		[ $name = daemon ] || config=packaging/nfpm-client.yaml
		(cd "$work" && STAGE=$work/$name "$nfpm" package --config "$config" --packager "$1" --target "$out" >log) || {
			cat "$work/log" >&2
			exit 1
		}
	done
}

nfpm=$(go -C build/tools tool -n nfpm)
build/programs.sh "$work/host" doorward
build/completions.sh "$work/host/doorward" "$work/bin/completions"
GOOS=linux build/licenses.sh ./cmd/doorwardd ./cmd/doorward | gzip -9n >"$work/THIRD-PARTY-LICENSES.gz"
for arch in "$@"; do
	step "packages for $arch"
	GOOS=linux GOARCH=$arch build/programs.sh "$work/bin" doorwardd doorward
	for format in ${FORMATS:-deb rpm apk}; do
		stage "$format"
		pack "$format" "$arch"
	done
done
ls -l "$out"
