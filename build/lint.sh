#!/bin/sh
# gofmt, go vet and staticcheck must find nothing, in the module of the tools as well;
# go.mod and go.sum are as go mod tidy leaves them; actionlint has nothing to say of the
# workflows. govulncheck says what it knows where its database can be reached.
. "$(dirname "$0")/lib.sh"

step gofmt
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not as gofmt writes them: $unformatted" >&2
	exit 1
fi

step "go mod tidy"
for module in . build/tools; do
	go -C "$module" mod tidy -diff || { echo "run: go -C $module mod tidy" >&2; exit 1; }
done

step vet
go vet ./...
go -C build/tools vet ./...

step staticcheck
go tool staticcheck ./...
staticcheck=$(go tool -n staticcheck)
(cd build/tools && "$staticcheck" ./...)

step actionlint
go -C build/tools tool actionlint "$PWD"/.github/workflows/*.yml

step govulncheck
if out=$(go tool govulncheck ./... 2>&1); then
	echo "no known vulnerability is called"
else
	case $out in
	*"fetching vulnerabilities"*) echo "skipped: the vulnerability database is out of reach" ;;
	*) echo "$out" >&2; exit 1 ;;
	esac
fi
