# What the scripts beside it share; sourced, not run.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C # what is sorted is sorted alike everywhere
export PATH LC_ALL

# step prints a heading with the time since the start of the outermost script, so that a
# slow step shows. If STEPS is a file, the steps are noted there with their times.
BEGUN=${BEGUN:-$(date +%s)}
export BEGUN
step() {
	printf '\n== %s  (%ss)\n' "$*" $(($(date +%s) - BEGUN))
	[ -z "${STEPS:-}" ] || echo "$(date +%s) $*" >>"$STEPS"
}
