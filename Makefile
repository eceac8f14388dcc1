# doorward. A newcomer needs two: `make demo` and `make test`.
# The programs they use come from Debian's packages, by build/deps.sh.

GO     ?= $(or $(shell command -v go),/usr/local/go/bin/go)
PREFIX ?= /usr/local
DESTDIR ?=
# sudo where it is needed and there; root's PATH may lack the directory of go.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || ! command -v sudo >/dev/null || echo sudo -E env "PATH=$$PATH")
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export CGO_ENABLED ?= 0

.PHONY: all build packages dist cross install uninstall demo test model campaign campaign-mutants bench lint fuzz generate deps clean
all: build

build: # the two programs, static, into bin/
	@build/programs.sh bin doorwardd doorward
	@build/completions.sh bin/doorward bin/completions

packages: # .deb, .rpm and .apk of daemon and client, into dist/; ARCHES=amd64 for one
	@build/packages.sh dist $(ARCHES)

dist: # archives for Linux, macOS and Windows, SBOMs and SHA256SUMS, into dist/; after make packages
	@build/dist.sh dist

cross: # the visitor's side builds everywhere, the daemon on other Linuxes
	@build/cross.sh

install: build # programs, unit and the files beside it; starts nothing
	@build/install.sh "$(DESTDIR)" "$(PREFIX)"

uninstall: # takes it away, and locks nobody out; PURGE=1: configuration, state and user too
	@build/uninstall.sh "$(DESTDIR)" "$(PREFIX)" $(if $(PURGE),purge)

demo: build # the story of a door, in two network namespaces, with a real sshd
	@build/deps.sh demo
	$(GO) build -trimpath -o bin/demo ./e2e/demo
	@$(AS_ROOT) bin/demo -bin bin

test: # everything that can be wrong; needs root for most of it
	@build/deps.sh test
	@$(AS_ROOT) build/test.sh

model: # spin goes through all states of docs/model, and finds what each mutant breaks
	@build/deps.sh model
	@build/model.sh

campaign: FOR ?= 10m
SEED ?= 1
campaign: build # attacks the promise: FOR=30m SEED=7
	@build/deps.sh test
	$(GO) build -trimpath -o bin/campaign ./e2e/campaign
	@$(AS_ROOT) bin/campaign -bin bin -for $(FOR) -seed $(SEED)

campaign-mutants: # plants faults into the daemon: is each found, and when?
	@build/deps.sh test
	$(GO) build -trimpath -o bin/campaign ./e2e/campaign
	@$(AS_ROOT) bin/campaign -faults all -seed $(SEED)

bench: build # doorward, knockd and fwknopd measured in one run, then doorward under load
	@build/deps.sh bench
	$(GO) build -trimpath -o bin/bench ./bench
	@$(AS_ROOT) bin/bench -bin bin

lint: # gofmt, vet, staticcheck, known vulnerabilities
	@build/lint.sh

fuzz: FOR ?= 10s
fuzz: # every fuzz target; FOR=10m for longer each
	@FOR="$(FOR)" build/fuzz.sh

generate: # what is made from the sources: manual pages, docs/METRICS.md, docs/api
	$(GO) generate ./...
	$(GO) run ./cmd/doorward man
	UPDATE_GOLDEN=1 $(GO) test -count=1 -run '^TestMetricsAreDocumented$$' ./internal/control
	UPDATE_GOLDEN=1 $(GO) test -count=1 -run '^TestSchemas$$' ./cmd/doorward

deps: # what all of the above needs
	@build/deps.sh demo test bench

clean:
	rm -rf bin dist
