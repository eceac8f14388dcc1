# doorward. `make help` lists what there is; a newcomer needs `make demo` to see it work
# and `make unit` after a change.
# The programs they use come from Debian's packages, by build/deps.sh.

GO     ?= $(or $(shell command -v go),/usr/local/go/bin/go)
PREFIX ?= /usr/local
DESTDIR ?=
# sudo where it is needed and there; root's PATH may lack the directory of go.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || ! command -v sudo >/dev/null || echo sudo -E env "PATH=$$PATH")
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export CGO_ENABLED ?= 0

.PHONY: all help build packages dist image cross install uninstall demo unit test mutants model campaign campaign-mutants bench lint fuzz generate deps site clean
all: build

help: # this list
	@awk -F ':[^#]*# ' '/^[a-z-]+:.*# / {printf "  %-17s %s\n", $$1, $$2}' Makefile

build: # the two programs, static, into bin/
	@build/programs.sh bin doorwardd doorward
	@build/completions.sh bin/doorward bin/completions

packages: # .deb, .rpm and .apk, into dist/; ARCHES=amd64 for one
	@build/packages.sh dist $(ARCHES)

image: # the container image, into dist/image; PLATFORMS=linux/amd64
	@build/image.sh dist/image $(PLATFORMS)

dist: # archives, SBOMs and SHA256SUMS; after packages and image
	@build/dist.sh dist

cross: # does it build for other systems?
	@build/cross.sh

install: build # into PREFIX (/usr/local) below DESTDIR; starts nothing
	@build/install.sh "$(DESTDIR)" "$(PREFIX)"

uninstall: # takes it away and locks nobody out; PURGE=1 for all
	@build/uninstall.sh "$(DESTDIR)" "$(PREFIX)" $(if $(PURGE),purge)

demo: build # the story of a door, with a real sshd
	@build/deps.sh demo
	$(GO) build -trimpath -o bin/demo ./e2e/demo
	@$(AS_ROOT) bin/demo -bin bin

unit: # tests without root or a network; less than a minute
	@build/unit.sh

test: # every test, as root; up to 20 minutes
	@build/deps.sh test
	@$(AS_ROOT) build/test.sh

mutants: # plants faults into the code: is each noticed? RUN=NAME
	@build/deps.sh test
	@$(AS_ROOT) $(GO) test -vet=off -v -timeout 2h -run '^TestMutants$$/$(RUN)' ./internal/gateway ./internal/fence

model: # spin goes through all states of docs/model
	@build/deps.sh model
	@build/model.sh

campaign: FOR ?= 10m
SEED ?= 1
campaign: build # attacks the promise: FOR=30m SEED=7
	@build/deps.sh test
	$(GO) build -trimpath -o bin/campaign ./e2e/campaign
	@$(AS_ROOT) bin/campaign -bin bin -for $(FOR) -seed $(SEED)

campaign-mutants: # does the campaign find faults planted into the daemon?
	@build/deps.sh test
	$(GO) build -trimpath -o bin/campaign ./e2e/campaign
	@$(AS_ROOT) bin/campaign -faults all -seed $(SEED)

bench: build # measures doorward beside knockd and fwknopd, then under load
	@build/deps.sh bench
	$(GO) build -trimpath -o bin/bench ./bench
	@$(AS_ROOT) bin/bench -bin bin

lint: # gofmt, vet, staticcheck, go.mod, workflows, vulnerabilities
	@build/lint.sh

fuzz: FOR ?= 10s
fuzz: # every fuzz target; FOR=10m for ten minutes each
	@FOR="$(FOR)" build/fuzz.sh

site: # the documentation as a site, into bin/site
	@build/deps.sh site
	@build/site.sh

generate: # manual pages, docs/METRICS.md and docs/api, from the sources
	$(GO) generate ./...
	$(GO) run ./cmd/doorward man
	UPDATE_GOLDEN=1 $(GO) test -count=1 -run '^TestMetricsAreDocumented$$' ./internal/control
	UPDATE_GOLDEN=1 $(GO) test -count=1 -run '^TestSchemas$$' ./cmd/doorward

deps: # installs what all of the above need from Debian's packages
	@build/deps.sh demo test bench

clean: # removes what was built
	rm -rf bin dist
