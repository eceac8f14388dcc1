#!/bin/sh
# Has the command write completions for shells: completions.sh PROGRAM DIRECTORY
. "$(dirname "$0")/lib.sh"

mkdir -p "$2"
for shell in bash zsh fish; do
	"$1" completion "$shell" >"$2/doorward.$shell"
done
