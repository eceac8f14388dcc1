#!/bin/sh
# Builds the documentation as a site, below bin/site: what people write in docs,
# and the reference, which build/site makes from the programs' own sources.
. "$(dirname "$0")/lib.sh"
pages=$PWD/bin/site-pages site=$PWD/bin/site

go run ./build/site "$pages"
SITE_PAGES=$pages SITE_DIR=$site mkdocs --quiet build --strict --clean -f build/site/mkdocs.yml
echo "the site is built: open $site/index.html, or: python3 -m http.server -d bin/site"
