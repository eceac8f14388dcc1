#!/bin/sh
# Says which version is built: version.sh [number | commit | time | ldflags]
#
#	number   1.2.3 at the tag v1.2.3; after it, and before any tag as 0.0.0,
#	         1.2.3+gitTIME.COMMIT, which package managers sort after 1.2.3 and
#	         before 1.2.4, a later commit after an earlier one
#	commit   the commit, with "-modified" after it if files differ from it
#	time     the commit's time in seconds, which all built files have as theirs
#	ldflags  flags for the linker: no symbol table, and the version
#
# VERSION, COMMIT and SOURCE_DATE_EPOCH in the environment are believed. Without a git
# repository the first and the last are needed for packages; programs alone can be
# built without, and then say that their version is unknown.
. "$(dirname "$0")/lib.sh"

lacks() {
	echo "version.sh: no git repository here to take the $1 from; set $2 in the environment" >&2
	exit 1
}

# Not one of a directory above, into which an archive of the sources was unpacked.
git_here() { [ -e .git ] && git rev-parse --git-dir >/dev/null; }

modified() { [ -z "$(git status --porcelain)" ] || echo "$1"; }

number() {
	if [ -n "${VERSION:-}" ]; then
		echo "$VERSION"
		return
	fi
	git_here || lacks version VERSION
	changed=$(modified .modified)
	if tag=$(git describe --tags --exact-match --match 'v[0-9]*' HEAD 2>/dev/null) && [ -z "$changed" ]; then
		echo "${tag#v}"
		return
	fi
	tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD 2>/dev/null) || tag=v0.0.0
	echo "${tag#v}+git$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd.%h --abbrev=8)$changed"
}

commit() {
	if [ -n "${COMMIT:-}" ]; then
		echo "$COMMIT"
	elif git_here; then
		echo "$(git rev-parse HEAD)$(modified -modified)"
	fi
}

seconds() {
	if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
		echo "$SOURCE_DATE_EPOCH"
		return
	fi
	git_here || lacks time SOURCE_DATE_EPOCH
	git log -1 --format=%ct
}

case ${1:-number} in
number) number ;;
commit) commit ;;
time) seconds ;;
ldflags)
	package=github.com/doorward/doorward/internal/version
	if [ -n "${VERSION:-}" ] || git_here; then
		echo "-s -w -X $package.number=$(number) -X $package.commit=$(commit)"
	else
		echo "-s -w"
	fi
	;;
*)
	echo "version.sh: \"$1\" is not understood: allowed are number, commit, time and ldflags" >&2
	exit 2
	;;
esac
