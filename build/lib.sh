# What the scripts beside it share; sourced, not run.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C # what is sorted is sorted alike everywhere
export PATH LC_ALL

# step prints a heading with the time since the start, so that a slow step shows.
begun=$(date +%s)
step() { printf '\n== %s  (%ss)\n' "$*" $(($(date +%s) - begun)); }
