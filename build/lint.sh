#!/bin/sh
# gofmt, go vet and staticcheck must find nothing; govulncheck says what it knows
# where its database can be reached.
. "$(dirname "$0")/lib.sh"

step gofmt
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not as gofmt writes them: $unformatted" >&2
	exit 1
fi

step vet
go vet ./...

step staticcheck
go tool staticcheck ./...

step govulncheck
if out=$(go tool govulncheck ./... 2>&1); then
	echo "no known vulnerability is called"
else
	case $out in
	*"fetching vulnerabilities"*) echo "skipped: the vulnerability database is out of reach" ;;
	*) echo "$out" >&2; exit 1 ;;
	esac
fi
