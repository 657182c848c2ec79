# Everything builds into _build; tools that are not Go modules of ours are installed once into ~/.cache/pulsegrid
# (PULSEGRID_CACHE). tools/versions.env says which versions.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

include tools/versions.env
export PULSEGRID_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pulsegrid
# git may be absent or of another owner in CI; the version is stamped below.
export GOFLAGS += -buildvcs=false

VERSION  ?= $(shell sed -n 's/^  version: //p' builder-config.yaml)
OCB      := $(PULSEGRID_CACHE)/ocb-$(COLLECTOR_VERSION)/builder
LINT     := $(PULSEGRID_CACHE)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
ENGINE   := $(PULSEGRID_CACHE)/clickhouse-$(CHDB_VERSION)/libchdb.so
COLLECTOR := _build/collector/pulsegrid-collector
OPERATOR := _build/pulsegrid
ARGS     ?=# of `make run`: ARGS="--data DIR"
PKG      ?= ./...#  what `make test`, fuzz and bench take
# Packages tested at a time: each may run a broker, an engine and compilers of its own.
TEST_P   ?= 2
TEST_TIMEOUT ?= 20m#  a package
SCALE    ?= 1#  of test-fault and test-guards: how long that lasts which lasts minutes
FAULT    ?= .#  of test-fault: regular expression
GUARD    ?= .#  of test-guards: regular expression
SEED     ?= 0#  of both: of every random choice; 0: a new one
VULNDB   ?=#  of vuln: a mirror of the Go vulnerability database; empty: vuln.go.dev
FUZZTIME ?= 10m#  a fuzz target
FUZZMINIMIZETIME ?= 10s#  of that, an input that is new or fails is made smaller for no longer
BENCH    ?= .#  regular expression
COUNT    ?= 6#  times each benchmark

# What the two programs are built from: every Go and embedded file, not the tests.
SOURCES = $(shell find cmd distributions exporter extension internal processor receiver -type f \
	\( -name '*.go' -o -name '*.yaml' -o -name '*.sql' -o -name '*.json' \) -not -name '*_test.go' -not -path '*/testdata/*' 2>/dev/null)

.PHONY: help
help: ## Show this
	@echo "PulseGrid. make TARGET [VARIABLE=value]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: run
run: build ## Run a whole cell on this machine (ARGS="--data DIR ...")
	exec $(OPERATOR) local $(ARGS)

.PHONY: build
build: $(OPERATOR) $(COLLECTOR) $(ENGINE) ## Build the Collector and the pulsegrid command, with the engine that `pulsegrid local` needs

$(OPERATOR): $(SOURCES) go.mod go.sum
	@mkdir -p _build
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/pulsegrid

# ocb writes a module that imports our components, and compiles it.
$(COLLECTOR): $(SOURCES) go.mod go.sum builder-config.yaml | $(OCB)
	@mkdir -p _build
	$(OCB) --config builder-config.yaml > _build/ocb.log 2>&1 || { tail -40 _build/ocb.log >&2; exit 1; }
	@touch $@

$(OCB):
	tools/install.sh ocb
$(ENGINE):
	tools/install.sh clickhouse
$(LINT):
	tools/install.sh golangci-lint

.PHONY: tools
tools: ## Install every part that the tests run against
	tools/install.sh ocb clickhouse kafka iceberg telemetrygen versitygw python clients

.PHONY: test
test: tools build check lint ## What CI runs: tools, build, gofmt, vet, lint, every test under the race detector
	go test -race -p $(TEST_P) -timeout $(TEST_TIMEOUT) $(PKG)

.PHONY: test-fault
test-fault: tools build ## Every fault of docs/faults.md (FAULT=regexp SEED=n SCALE=0.1); outcomes go to _build/faults.jsonl
	rm -rf _build/faults.jsonl _build/certificates
	go test ./integration/fault -run 'TestFault/$(FAULT)' -count 1 -timeout 4h -v -args -all -seed $(SEED) -scale $(SCALE) -results $(CURDIR)/_build/faults.jsonl -certificates $(CURDIR)/_build/certificates

.PHONY: test-readers
test-readers: tools ## Every predicate on every column of the lake, by pyiceberg, DuckDB and Iceberg's Java library (SEED=n)
	go test ./integration/lakereaders -run TestEveryPredicate -count 1 -timeout 4h -v -args -seed $(SEED) -predicates 0 -rounds 4 -rows 200

.PHONY: fault-table
fault-table: ## Write the outcomes of test-fault into docs/faults.md
	go run ./integration/fault/faulttable

.PHONY: test-guards
test-guards: tools build ## Storm, outage and poison of docs/guards.md (GUARD=regexp SEED=n SCALE=0.1); outcomes go to _build/guards.jsonl
	go test ./integration/fault -run 'TestGuard/$(GUARD)' -count 1 -timeout 4h -v -args -seed $(SEED) -scale $(SCALE) -results $(CURDIR)/_build/guards.jsonl

.PHONY: guard-table
guard-table: ## Write the outcomes of test-guards into docs/guards.md
	go run ./integration/fault/faulttable -guards

.PHONY: check
check: ## gofmt and go vet
	@unformatted=$$(gofmt -l cmd distributions exporter integration internal receiver $(wildcard extension processor)); \
		test -z "$$unformatted" || { echo "gofmt -w these:"; echo "$$unformatted"; exit 1; }
	go vet ./...

.PHONY: lint
lint: $(LINT) ## golangci-lint (.golangci.yml), which also holds who may import whom
	$(LINT) run ./...

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME
	@packages=$$(go list $(PKG)); failed=; \
	for package in $$packages; do \
		tests=$$(go test -list '^Fuzz' $$package); \
		for target in $$(grep '^Fuzz' <<<"$$tests" || true); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime $(FUZZMINIMIZETIME) $$package \
				|| failed+=" $$package:$$target"; \
		done; \
	done; \
	test -z "$$failed" || { echo "failed (the inputs are in testdata/fuzz of the packages):$$failed"; exit 1; }

.PHONY: generate
generate: ## Run go generate
	go generate ./...

.PHONY: bench
bench: build ## Gateway and aggregator against the stock Collector, as ratios in one run (ARGS="-only gateway -rounds 1")
	tools/install.sh kafka peers
	go run ./integration/bench -peers "$$(tools/install.sh --dir peers)" $(ARGS)

.PHONY: microbench
microbench: ## The packages' benchmarks BENCH, COUNT times each, for benchstat
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout 60m $(PKG)

.PHONY: vuln
vuln: build ## Known vulnerabilities in the packages that the two programs are made of (VULNDB=URL of a mirror of vuln.go.dev, file:///DIR too)
	@failed=; for program in ./cmd/pulsegrid _build/collector; do \
		echo "== $$program"; go run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION) $(if $(VULNDB),-db $(VULNDB)) -scan package -C $$program . || failed=1; \
	done; test -z "$$failed"

.PHONY: clean
clean: ## Remove what was built; keeps the tools and pulsegrid-data
	rm -rf _build
