#!/bin/sh
# Prints the licences of the code of others that is linked into programs, for GOOS:
# licenses.sh PACKAGE... Whoever is given a program is to be given them, too.
. "$(dirname "$0")/lib.sh"

heading() { printf '\n%s\n\n' "---- $1 ----"; }

echo "The programs of doorward contain code of others, under these licences."
heading "Go, its runtime and standard library"
cat "$(go env GOROOT)/LICENSE"
# Of each package, what lies beside it and in the directories above, up to its module's.
# shellcheck disable=SC2016 # the template's $ is the template's
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}} {{.Dir}} {{$.Dir}}{{end}}{{end}}' "$@" |
	sort -u | while read -r module root dir; do
	while :; do
		for file in "$dir"/*; do
			case ${file##*/} in
			[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]* | [Cc][Oo][Pp][Yy][Ii][Nn][Gg]* | NOTICE* | PATENTS*)
				[ ! -f "$file" ] || echo "$module${file#"$root"} $file"
				;;
			esac
		done
		[ "$dir" != "$root" ] || break
		dir=$(dirname "$dir")
	done
done | sort -u | while read -r name file; do
	heading "$name"
	cat "$file"
done
