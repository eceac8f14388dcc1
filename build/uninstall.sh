#!/bin/sh
# Takes away what install.sh has put below $1 (DESTDIR, may be empty) with the prefix
# $2 (default /usr/local). In a running system, that is without DESTDIR, the daemon is
# stopped first, and nobody stays locked out: see packaging/scripts. $3 is "purge" to
# take away configuration, state and user as well.
. "$(dirname "$0")/lib.sh"
root=${1:-} prefix=${2:-/usr/local} purge=${3:-}

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

# script NAME ARGUMENT: a package's script, for where the programs are here.
script() {
	sed "s|/usr/sbin/doorwardd|$prefix/sbin/doorwardd|g" "packaging/scripts/$1" >"$tree/$1"
	sh "$tree/$1" "$2"
}

here= other=
if [ -z "$root" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "uninstall.sh: this needs root: sudo make uninstall" >&2
		exit 1
	fi
	if [ "$prefix" != /usr ] && [ -x /usr/sbin/doorwardd ]; then
		echo "uninstall.sh: /usr/sbin/doorwardd, from a package, stays, and so does what it guards; only files below $prefix are removed"
		other=yes
	else
		here=yes
		script prerm remove
	fi
fi

# What install.sh would put there now.
mkdir -p "$tree/bin/completions"
touch "$tree/bin/doorwardd" "$tree/bin/doorward" "$tree/bin/completions/doorward.bash" \
	"$tree/bin/completions/doorward.zsh" "$tree/bin/completions/doorward.fish"
BIN=$tree/bin build/install.sh "$tree/root" "$prefix" >/dev/null
(cd "$tree/root" && find . -type f) | while read -r path; do
	rm -f "$root/${path#./}"
done

# The unit below $prefix came before the package's: what runs, and what starts at boot,
# is to be the package's now.
if [ -n "$other" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	if [ -L /etc/systemd/system/sysinit.target.wants/doorward.service ]; then
		systemctl --quiet reenable doorward.service
	fi
	systemctl try-restart doorward.service
fi

if [ -n "$here" ]; then
	rm -f /etc/init.d/doorward
	script postrm remove
	[ "$purge" != purge ] || script postrm purge
fi
