#!/bin/sh
# Installs what `make demo`, `make test`, `make model`, `make site` and `make bench` need from
# Debian's packages: deps.sh SET..., a set being one of those. Quick and silent when
# all is there. A program that is there already is left as it is.
#
# Some packages bring a service (an SSH server, the bench's peers). None is started:
# apt runs in a mount namespace of its own, where a policy-rc.d that forbids it
# lies over the machine's; the machine's file is never written, not even when this
# script is killed. A service that came with a package installed here is not
# started at the next boot either. The machine's own sshd is not touched.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Each line: the program looked for, the package that brings it, its service if any.
demo='nft nftables
ip iproute2
nsenter util-linux
sshd openssh-server ssh
ssh openssh-client
nmap nmap'
model='spin spin
gcc gcc'
site='mkdocs mkdocs'
test="$demo
$model
$site
telnet telnet
nc.openbsd netcat-openbsd
socat socat
conntrack conntrack
mosh-server mosh
script bsdutils
age age
pgrep procps
zstd zstd
busybox busybox
bzip2 bzip2
promtool prometheus prometheus
systemd-nspawn systemd-container
debootstrap debootstrap
iptables iptables
ufw ufw ufw
firewalld firewalld firewalld
dbus-daemon dbus
crun crun
ansible-playbook ansible-core
ansible-lint ansible-lint
git git
rsync rsync
borg borgbackup
autossh autossh
curl curl
psql postgresql-client
rpm rpm
lintian lintian
zip zip"
bench="$demo
iptables iptables
knockd knockd knockd
fwknopd fwknop-server fwknop-server
fwknop fwknop-client"

# missing prints the lines of $1 whose program is not on PATH.
missing() {
	echo "$1" | while read -r program package service; do
		command -v "$program" >/dev/null 2>&1 || echo "$program $package $service"
	done
}

# missing_module prints the line of a module of Debian's Python that it does not find.
missing_module() {
	/usr/bin/python3 -c "import $1" 2>/dev/null || echo "python3 $2"
}

wanted=
for set in "$@"; do
	case $set in
	demo) wanted="$wanted$(missing "$demo")
" ;;
	test) wanted="$wanted$(missing "$test")
$(missing_module cryptography python3-cryptography)
" ;;
	model) wanted="$wanted$(missing "$model")
" ;;
	site) wanted="$wanted$(missing "$site")
" ;;
	bench) wanted="$wanted$(missing "$bench")
" ;;
	*) echo "deps.sh: unknown set \"$set\": allowed are demo, test, model, site and bench" >&2; exit 2 ;;
	esac
done
packages=$(echo "$wanted" | awk 'NF {print $2}' | sort -u | tr '\n' ' ')
services=$(echo "$wanted" | awk 'NF > 2 {print $3}' | sort -u)
case " $packages" in *" gcc "*) packages="$packages libc6-dev" ;; esac
case " $packages" in *" mkdocs "*) packages="$packages mkdocs-material" ;; esac

if [ -z "$packages" ]; then
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	if command -v sudo >/dev/null 2>&1; then
		exec sudo "$0" "$@"
	fi
	echo "deps.sh: these packages are missing and installing them needs root: $packages" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "deps.sh: no apt-get here; install what brings these Debian packages: $packages" >&2
	exit 1
fi

# The guard needs a file to lie over. An empty one that cannot be executed is no
# policy, so a leftover of it would be harmless.
policy=/usr/sbin/policy-rc.d
scratch=$(mktemp -d)
guard=$scratch/policy-rc.d
made=
cleanup() {
	rm -rf "$scratch"
	if [ -n "$made" ] && [ ! -s "$policy" ]; then
		rm -f "$policy"
	fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
printf '#!/bin/sh\nexit 101\n' >"$guard"
chmod 755 "$guard"
if [ ! -e "$policy" ]; then
	: >"$policy"
	made=1
fi

echo "installing from Debian's packages (no service is started): $packages"
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -o DPkg::Lock::Timeout=300"
$apt update >/dev/null || echo "deps.sh: apt-get update failed; going on with the lists there are" >&2
# shellcheck disable=SC2086 # apt and packages are lists of words
unshare --mount --propagation private sh -eu -c '
	mount --bind "$1" "$2"
	shift 2
	exec "$@"
' sh "$guard" "$policy" $apt install -y --no-install-recommends $packages >"$scratch/log" 2>&1 || {
	cat "$scratch/log" >&2
	echo "deps.sh: apt-get could not install: $packages" >&2
	exit 1
}

for service in $services; do
	if command -v systemctl >/dev/null 2>&1; then
		systemctl --quiet disable "$service.service" >/dev/null 2>&1 || true
		systemctl --quiet disable "$service.socket" >/dev/null 2>&1 || true
	fi
	if command -v update-rc.d >/dev/null 2>&1; then
		update-rc.d "$service" disable >/dev/null 2>&1 || true
	fi
	echo "the new service \"$service\" is neither started nor enabled; to have it: systemctl enable --now $service"
done
