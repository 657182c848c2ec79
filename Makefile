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
TEST_P   ?= 3
# Of integration tests, which wait more than they compute.
INTEGRATION_P ?= 3
# SQLite is C that was translated to Go. Its memory is its own, from mmap, where the race detector sees nothing (docs/decisions/0071).
RACE      = -race $(foreach p,modernc.org/sqlite/lib modernc.org/libc/... modernc.org/memory,-gcflags=$(p)=-race=false)
TEST_TIMEOUT ?= 90m#  a package, on a machine that is busy
BUILD_USUALLY = minutes where nothing was built before, else seconds
SCALE    ?= 1#  of test-fault, test-guards and rehearse: how long that lasts which lasts minutes
FAULT    ?= .#  of test-fault: regular expression
PROBE    ?=#  of test-fault: not empty: a probe measures beside the agents, and is held against the rig's own count; docs/faults.md has ten faults for it
GUARD    ?= .#  of test-guards: regular expression
REHEARSAL ?= .#  of rehearse: regular expression
SHORTEN  ?= 1#  of rehearse: durations of the rules are divided by this
ALERT_RATE ?= 10000#  of test-alerts: live events a second
ALERT_SAMPLES ?= 200#  of test-alerts: events whose alert is timed
SEED     ?= 0#  of these and of test-backfill: of every random choice; 0: a new one
SIZE_GIB ?= 5#  of test-backfill: JSON that is loaded, before compression
LIVE_RATE ?= 0#  of test-backfill: live events a second; 0: what takes half of this machine's CPU, which is measured first
VULNDB   ?=#  of vuln: a mirror of the Go vulnerability database; empty: vuln.go.dev
FUZZTIME ?= 10m#  a fuzz target
FUZZMINIMIZETIME ?= 10s#  of that, an input that is new or fails is made smaller for no longer
BENCH    ?= .#  regular expression
COUNT    ?= 6#  times each benchmark

# What the two programs are built from: every Go and embedded file, not the tests.
SOURCES = $(shell find cmd distributions exporter extension internal orchestration processor receiver -type f \
	\( -name '*.go' -o -name '*.yaml' -o -name '*.sql' -o -name '*.json' \) -not -name '*_test.go' -not -path '*/testdata/*' -not -path 'orchestration/devserver/*' 2>/dev/null)

.PHONY: help
help: ## Show this
	@echo "PulseGrid. make TARGET [VARIABLE=value]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: run
run: build ## Run a whole cell on this machine (ARGS="--data DIR ...")
	exec $(OPERATOR) local $(ARGS)

# The engine comes over the network while Go compiles.
.PHONY: build
build: ## Build the Collector and the pulsegrid command, with the engine that `pulsegrid local` needs
	@$(MAKE) -s -j2 $(ENGINE) $(OPERATOR) $(COLLECTOR)

$(OPERATOR): $(SOURCES) go.mod go.sum
	@mkdir -p _build
	tools/step.sh "building $@: the command" "$(BUILD_USUALLY)" go build -v -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/pulsegrid

# ocb writes a module that imports our components, and compiles it. It comes after the command, with which it shares most packages.
$(COLLECTOR): $(SOURCES) go.mod go.sum builder-config.yaml | $(OCB) $(OPERATOR)
	@mkdir -p _build
	tools/step.sh "building $@: gateway and aggregator" "$(BUILD_USUALLY)" $(OCB) --config builder-config.yaml
	@touch $@

$(OCB):
	@tools/install.sh ocb
$(ENGINE):
	@tools/install.sh clickhouse
$(LINT):
	tools/install.sh golangci-lint

.PHONY: tools
tools: ## Install every part that the tests run against
	tools/install.sh ocb clickhouse kafka iceberg telemetrygen versitygw promtool amtool prometheus alertmanager node_exporter python clients temporal

# The longest packages come first, so that none is alone at the end. vet is lint's (govet), and neither check's nor each test's again. The parts of integration tests are the
# built programs, in which the race detector would see nothing.
.PHONY: test
test: tools build format lint vuln-if-reachable ## What CI runs: tools, build, gofmt, lint with vet, vuln where its database is reachable, every test, under the race detector but for integration
	status=0; packages=$$(go list $(PKG)); \
	run() { [ -z "$$1" ] || go test $$2 -vet=off -timeout $(TEST_TIMEOUT) $$1 || status=1; }; \
	of() { grep -E "$$1" <<< "$$packages" | grep -vE "$$2" || true; }; \
	{ run "$$(of '/(cmd|exporter|receiver)/' /integration/; of . '/(cmd|exporter|receiver|integration)/')" "$(RACE) -p $(TEST_P)"; \
	run "$$(of '/integration/(observability|fault|flow)$$' '^$$'; of /integration/ '/(observability|fault|flow)$$')" "-p $(INTEGRATION_P)"; (exit $$status); } | tee _build/test.log || { \
		echo; echo "what failed, without the logs of its parts (whole: _build/test.log):"; \
		grep -E '^ *--- FAIL|^ *[a-z_]+_test\.go:[0-9]+: |Error( Trace)?:|expected *:|actual *:|Messages:|^panic:|DATA RACE|^FAIL' _build/test.log | cut -c1-300 | tail -n 100; exit 1; }

.PHONY: test-fault
test-fault: tools build ## Every fault of docs/faults.md (FAULT=regexp SEED=n SCALE=0.1; PROBE=1: with a probe beside the agents); outcomes go to _build/faults.jsonl, logs of those that fail to _build/fault-logs
	rm -rf _build/faults.jsonl _build/certificates _build/fault-logs
	go test ./integration/fault -run 'TestFault/$(FAULT)' -count 1 -timeout 4h -v -args -all $(if $(PROBE),-probe) -seed $(SEED) -scale $(SCALE) -results $(CURDIR)/_build/faults.jsonl -certificates $(CURDIR)/_build/certificates -logs $(CURDIR)/_build/fault-logs

.PHONY: test-readers
test-readers: tools ## Every predicate on every column of the lake, by pyiceberg, DuckDB and Iceberg's Java library (SEED=n)
	go test ./integration/lakereaders -run TestEveryPredicate -count 1 -timeout 4h -v -args -seed $(SEED) -predicates 0 -rounds 4 -rows 200

.PHONY: fault-table
fault-table: ## Write the outcomes of test-fault into docs/faults.md
	go run ./integration/fault/faulttable

.PHONY: test-guards
test-guards: tools build ## Storm, outage, poison and hostile requests of docs/guards.md (GUARD=regexp SEED=n SCALE=0.1); outcomes go to _build/guards.jsonl
	go test ./integration/fault -run 'TestGuard/$(GUARD)' -count 1 -timeout 4h -v -args -all -seed $(SEED) -scale $(SCALE) -results $(CURDIR)/_build/guards.jsonl -logs $(CURDIR)/_build/fault-logs

.PHONY: guard-table
guard-table: ## Write the outcomes of test-guards into docs/guards.md
	go run ./integration/fault/faulttable -guards

.PHONY: rehearse
rehearse: tools build ## Faults under Prometheus and Alertmanager: each must set off its alert and no other page, docs/rehearsals.md (REHEARSAL=regexp SHORTEN=15 SCALE=0.1 SEED=n)
	go test ./integration/fault -run 'TestRehearsal/$(REHEARSAL)' -count 1 -timeout 6h -v -args -all -seed $(SEED) -scale $(SCALE) -shorten $(SHORTEN) -results $(CURDIR)/_build/rehearsals.jsonl -logs $(CURDIR)/_build/fault-logs

.PHONY: rehearsal-table
rehearsal-table: ## Write the outcomes of rehearse into docs/rehearsals.md
	go run ./integration/fault/faulttable -rehearsals

.PHONY: test-backfill
test-backfill: tools build ## A backfill of SIZE_GIB beside live load, killed again and again: docs/backfill.md (SEED=n LIVE_RATE=n); the outcome goes to _build/backfill.jsonl
	go test ./integration/backfill -run TestABackfillBesideLiveLoad -count 1 -timeout 4h -v -args -judge -seed $(SEED) -mib $$(( $(SIZE_GIB) * 1024 )) -lines 20000 -job-rate 20000 \
		-live-rate $(LIVE_RATE) -warm-up 30s -calm 2m -kill-span 1m -within 90m -results $(CURDIR)/_build/backfill.jsonl

.PHONY: backfill-table
backfill-table: ## Write the outcomes of test-backfill into docs/backfill.md
	go run ./integration/fault/faulttable -backfill

.PHONY: test-alerts
test-alerts: tools build ## Alerts on what is stored, timed from event to webhook beside ALERT_RATE events a second: docs/alerts.md (ALERT_SAMPLES=n SEED=n); the outcome goes to _build/alerts.jsonl
	go test ./integration/observability -run TestFromEventToAlertBesideLiveLoad -count 1 -timeout 2h -v -args -judge -seed $(SEED) -samples $(ALERT_SAMPLES) -rate $(ALERT_RATE) -calm 2m -results $(CURDIR)/_build/alerts.jsonl

.PHONY: alerts-table
alerts-table: ## Write the outcome of test-alerts into docs/alerts.md
	go run ./integration/fault/faulttable -alerts

.PHONY: format
format: ## gofmt: names the files that it would change
	@unformatted=$$(gofmt -l cmd distributions exporter integration internal observability orchestration receiver tools $(wildcard extension processor)); \
		test -z "$$unformatted" || { echo "gofmt -w these:"; echo "$$unformatted"; exit 1; }

.PHONY: check
check: format ## gofmt and go vet, without the linters
	go vet ./...

.PHONY: lint
lint: $(LINT) ## golangci-lint (.golangci.yml), which also holds who may import whom
	$(LINT) run ./...

.PHONY: fuzz
fuzz: build ## Run each fuzz target for FUZZTIME, and measure what requests of hostile shapes cost (docs/proportion.md)
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
	go test ./integration/proportion -count 1 -timeout 1h -v -args -all -seed 0

.PHONY: proportion-table
proportion-table: build ## Measure again what requests of hostile shapes cost each tier, and write it into docs/proportion.md
	go test ./integration/proportion -count 1 -timeout 1h -v -args -all -table $(CURDIR)/docs/proportion.md

.PHONY: generate
generate: ## Run go generate: rules of the SLOs, dashboards, docs/metrics.md, tables of documents
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
	go run ./tools/vuln -govulncheck $(GOVULNCHECK_VERSION) -db '$(VULNDB)' $(VULN_ARGS) ./cmd/pulsegrid _build/collector

.PHONY: vuln-if-reachable
vuln-if-reachable: VULN_ARGS = -unless-unreachable
vuln-if-reachable: vuln

.PHONY: sbom
sbom: build ## What the two programs are made of, as CycloneDX: _build/pulsegrid.cdx.json, _build/pulsegrid-collector.cdx.json
	tools/sbom.sh $(OPERATOR) $(VERSION) _build/pulsegrid.cdx.json
	tools/sbom.sh $(COLLECTOR) $(VERSION) _build/pulsegrid-collector.cdx.json

.PHONY: lock
lock: ## Write anew the checksums of what the tools are installed from, after a version was changed
	tools/lock.sh

.PHONY: clean
clean: ## Remove what was built; keeps the tools and pulsegrid-data
	rm -rf _build
