#!/bin/sh
# Prints CHANGELOG.md in the form of Debian's changelogs, deb-changelog(5):
# changelog.sh PACKAGE. Its headings are "## Unreleased", which is the version that
# is built, and "## 1.2.3, 2027-01-31"; below are lists, and lines between them.
. "$(dirname "$0")/lib.sh"

number=$(build/version.sh number)
wrong=$(grep '^## ' CHANGELOG.md | grep -Evx '## (Unreleased|[0-9.]+, [0-9]{4}-[0-9]{2}-[0-9]{2})' || true)
case $number in
*git*) ;;
*)
	if ! grep -Eqx "## $number, [0-9-]+" CHANGELOG.md || grep -qx '## Unreleased' CHANGELOG.md; then
		wrong="\"## $number, $(date -u +%Y-%m-%d)\" is missing, or \"## Unreleased\" is left"
	fi
	;;
esac
if [ -n "$wrong" ]; then
	echo "changelog.sh: headings of CHANGELOG.md are not as they should be: $wrong" >&2
	exit 1
fi

# Each heading gets its date in the form that is wanted.
while read -r line; do
	case $line in
	'## Unreleased') echo "## $number $(date -u -R -d "@$(build/version.sh time)")" ;;
	'## '*) version=${line#\#\# } && echo "## ${version%%,*} $(date -u -R -d "${version##*, }")" ;;
	*) echo "$line" ;;
	esac
done <CHANGELOG.md | awk -v package="$1" '
	# paragraph prints what has been read of one, in lines of at most 79 characters.
	function paragraph(  words, n, i, line) {
		n = split(text, words, " ")
		line = first
		for (i = 1; i <= n; i++) {
			if (i > 1 && length(line) + length(words[i]) >= 79) { print line; line = "    " }
			line = line (line ~ / $/ ? "" : " ") words[i]
		}
		if (n) print line
		text = ""
	}
	function trailer() {
		paragraph()
		if (when) print "\n -- doorward maintainers <doorward@users.noreply.github.com>  " when "\n"
	}
	/^## / { trailer(); when = $0; sub(/^## [^ ]* /, "", when); print package " (" $2 ") unstable; urgency=medium\n"; next }
	!when { next }
	/^$/ { paragraph(); print; next }
	/^- / { paragraph(); first = "  * "; $1 = "" }
	text == "" && !/^ / { first = "  " }
	{ text = text " " $0 }
	END { trailer() }
' | cat -s
