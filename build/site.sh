#!/bin/sh
# Builds the documentation as a site, into bin/site: what people write in docs, and
# the reference, which build/site makes from the programs' own sources.
. "$(dirname "$0")/lib.sh"
site=$PWD/bin/site

go run ./build/site bin/site-pages
mkdocs --quiet build --strict --clean -f bin/site-pages/mkdocs.yml -d "$site"
echo "the site is built: open $site/index.html; its search needs a server: python3 -m http.server -d bin/site"
