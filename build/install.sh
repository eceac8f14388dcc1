#!/bin/sh
# Puts the built programs and the files beside them where they belong, below
# $1 (DESTDIR, may be empty) with the prefix $2 (default /usr/local). Into a running system, that is
# without DESTDIR, it also makes the user and directories and has systemd and
# D-Bus see the new files. Nothing is started or enabled.
. "$(dirname "$0")/lib.sh"
root=${1:-} prefix=${2:-/usr/local} bin=${BIN:-bin}
umask 022

install -D -m 755 "$bin/doorwardd" "$root$prefix/sbin/doorwardd"
install -D -m 755 "$bin/doorward" "$root$prefix/bin/doorward"
for page in docs/man/*.[1578]; do
	install -D -m 644 "$page" "$root$prefix/share/man/man${page##*.}/${page##*/}"
done
install -D -m 644 "$bin"/completions/doorward.bash "$root$prefix/share/bash-completion/completions/doorward"
install -D -m 644 "$bin"/completions/doorward.zsh "$root$prefix/share/zsh/site-functions/_doorward"
install -D -m 644 "$bin"/completions/doorward.fish "$root$prefix/share/fish/vendor_completions.d/doorward.fish"
install -D -m 644 packaging/doorward.sysusers "$root$prefix/lib/sysusers.d/doorward.conf"
install -D -m 644 packaging/doorward.tmpfiles "$root$prefix/lib/tmpfiles.d/doorward.conf"
# D-Bus looks below /usr/share and /etc, whatever the prefix.
policies=/etc
[ "$prefix" != /usr ] || policies=/usr/share
install -D -m 644 packaging/doorward-dbus.conf "$root$policies/dbus-1/system.d/doorward.conf"

# placed SOURCE MODE TARGET: a file that names the programs' paths.
placed() {
	sed "s|/usr/sbin/doorwardd|$prefix/sbin/doorwardd|g; s|/usr/bin/doorward|$prefix/bin/doorward|g" "$1" |
		install -D -m "$2" /dev/stdin "$root$3"
}
placed packaging/doorward.service 644 "$prefix/lib/systemd/system/doorward.service"
if [ -z "$root" ] && [ ! -d /run/systemd/system ]; then
	if command -v openrc-run >/dev/null 2>&1; then
		placed packaging/doorward.openrc 755 /etc/init.d/doorward
	elif [ -d /etc/init.d ]; then
		placed packaging/doorward.init 755 /etc/init.d/doorward
	fi
fi

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
	systemd-sysusers
	systemd-tmpfiles --create doorward.conf
	systemctl daemon-reload
	busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig >/dev/null 2>&1 || true
fi
echo "next: ${SUDO_UID:+sudo }doorward init"
