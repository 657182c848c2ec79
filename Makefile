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
SCALE    ?= 1#  of test-fault, test-guards, rehearse and drill-cells: how long that lasts which lasts minutes
FAULT    ?= .#  of test-fault: regular expression
PROBE    ?=#  of test-fault: not empty: a probe measures beside the agents, and is held against the rig's own count; docs/faults.md has ten faults for it
GUARD    ?= .#  of test-guards: regular expression
REHEARSAL ?= .#  of rehearse: regular expression
DRILL    ?= .#  of drill-cells: regular expression
RATE     ?= 0#  of drill-cells: events a second; 0: what takes half of this machine's CPU, which is measured first
SHORTEN  ?= 1#  of rehearse: durations of the rules are divided by this
ALERT_RATE ?= 10000#  of test-alerts: live events a second
ALERT_SAMPLES ?= 200#  of test-alerts: events whose alert is timed
SEED     ?= 0#  of these and of test-backfill: of every random choice; 0: a new one
SETTLE_EVENTS ?= 1000000#  of settle-million
SIZE_GIB ?= 5#  of test-backfill: JSON that is loaded, before compression
LIVE_RATE ?= 0#  of test-backfill: live events a second; 0: what takes half of this machine's CPU, which is measured first
JOB_RATE ?= 500#  of test-backfill: lines a second of each of its two jobs, at most
VULNDB   ?=#  of vuln: a mirror of the Go vulnerability database; empty: vuln.go.dev
FUZZTIME ?= 10m#  a fuzz target
FUZZMINIMIZETIME ?= 10s#  of that, an input that is new or fails is made smaller for no longer
BENCH    ?= .#  regular expression
COUNT    ?= 6#  times each benchmark

# What the two programs are built from: every Go and embedded file, not the tests.
SOURCES = $(shell find cmd deploy/cost distributions exporter extension internal orchestration processor receiver -type f \
	\( -name '*.go' -o -name '*.yaml' -o -name '*.sql' -o -name '*.json' \) -not -name '*_test.go' -not -path '*/testdata/*' -not -path 'orchestration/devserver/*' 2>/dev/null)

.PHONY: help
help: ## Show this
	@echo "PulseGrid. make TARGET [VARIABLE=value]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: run
run: build ## Run a whole cell on this machine (ARGS="--data DIR ...")
	exec $(OPERATOR) local $(ARGS)

.PHONY: run-cells
run-cells: tools build ## Run three cells behind a DNS server on this machine, out of real parts, to try a failover by hand (SCALE=0.1: times of DNS and gateways)
	go build -trimpath -o _build/cells ./integration/cells/serve
	exec _build/cells -scale $(SCALE)

# The engine comes over the network while Go compiles.
.PHONY: build
build: ## Build the Collector and the pulsegrid command, with the engine that `pulsegrid local` needs
	@$(MAKE) -s -j2 $(ENGINE) $(OPERATOR) $(COLLECTOR)

# Without cgo, as ocb builds the Collector: what both are made of is then compiled once.
$(OPERATOR): $(SOURCES) go.mod go.sum
	@mkdir -p _build
	tools/step.sh "building $@: the command" "$(BUILD_USUALLY)" env CGO_ENABLED=0 go build -v -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/pulsegrid

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
test: tools build format lint vuln-if-reachable $(addprefix _build/linux-amd64/,pulsegrid healthcheck) ## What CI runs: tools, build, gofmt, lint with vet, vuln where its database is reachable, every test, under the race detector but for integration, deploy/ planned where Terraform is
	status=0; packages=$$(go list $(PKG)); \
	run() { [ -z "$$1" ] || go test $$2 -vet=off -timeout $(TEST_TIMEOUT) $$1 || status=1; }; \
	of() { grep -E "$$1" <<< "$$packages" | grep -vE "$$2" || true; }; \
	{ run "$$(of '/(cmd|exporter|receiver)/' /integration/; of . '/(cmd|exporter|receiver|integration)/')" "$(RACE) -p $(TEST_P)"; \
	run "$$(of '/integration/(observability|fault|flow)$$' '^$$'; of /integration/ '/(observability|fault|flow)$$')" "-p $(INTEGRATION_P)"; \
	$(MAKE) --no-print-directory plan-if-terraform || status=1; (exit $$status); } | tee _build/test.log || { \
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
	tools/install.sh jmx_exporter
	go test ./integration/fault -run 'TestRehearsal/$(REHEARSAL)' -count 1 -timeout 6h -v -args -all -seed $(SEED) -scale $(SCALE) -shorten $(SHORTEN) -results $(CURDIR)/_build/rehearsals.jsonl -logs $(CURDIR)/_build/fault-logs

.PHONY: rehearsal-table
rehearsal-table: ## Write the outcomes of rehearse into docs/rehearsals.md
	go run ./integration/fault/faulttable -rehearsals

.PHONY: drill-cells
drill-cells: tools build ## Three cells behind DNS on this machine, under load: one is killed, cut off, loses Kafka, is drained, comes back: docs/regions.md (DRILL=regexp SEED=n SCALE=0.1 RATE=n); outcomes go to _build/drills.jsonl
	go test ./integration/cells -run 'TestDrill/$(DRILL)' -count 1 -timeout 6h -v -args -all -seed $(SEED) -scale $(SCALE) -rate $(RATE) -results $(CURDIR)/_build/drills.jsonl -logs $(CURDIR)/_build/drill-logs

.PHONY: drill-table
drill-table: ## Write the outcomes of drill-cells into docs/regions.md
	go run ./integration/fault/faulttable -drills

.PHONY: settle-million
settle-million: tools ## Two cells that have SETTLE_EVENTS events both are settled, once in one go and once killed at each step: time, bytes exchanged; audits, rollups and rows must be equal
	go test ./cmd/pulsegrid -run TestTwoCellsAreSettled -count 1 -timeout 2h -v -args -settle-events $(SETTLE_EVENTS) -settle-kills none
	go test ./cmd/pulsegrid -run TestTwoCellsAreSettled -count 1 -timeout 4h -v -args -settle-events $(SETTLE_EVENTS) -settle-kills all

.PHONY: test-backfill
test-backfill: tools build ## A backfill of SIZE_GIB beside live load, killed again and again: docs/backfill.md (SEED=n LIVE_RATE=n JOB_RATE=n); the outcome goes to _build/backfill.jsonl
	go test ./integration/backfill -run TestABackfillBesideLiveLoad -count 1 -timeout 4h -v -args -judge -seed $(SEED) -mib $$(( $(SIZE_GIB) * 1024 )) -lines 20000 -job-rate $(JOB_RATE) \
		-live-rate $(LIVE_RATE) -warm-up 5m -calm 3m -kill-span 1m -within 150m -results $(CURDIR)/_build/backfill.jsonl

.PHONY: backfill-table
backfill-table: ## Write the outcomes of test-backfill into docs/backfill.md
	go run ./integration/fault/faulttable -backfill

.PHONY: test-alerts
test-alerts: tools build ## Alerts on what is stored, timed from event to webhook beside ALERT_RATE events a second: docs/alerts.md (ALERT_SAMPLES=n SEED=n); the outcome goes to _build/alerts.jsonl
	go test ./integration/observability -run TestFromEventToAlertBesideLiveLoad -count 1 -timeout 2h -v -args -judge -seed $(SEED) -samples $(ALERT_SAMPLES) -rate $(ALERT_RATE) -calm 2m -results $(CURDIR)/_build/alerts.jsonl

.PHONY: alerts-table
alerts-table: ## Write the outcome of test-alerts into docs/alerts.md
	go run ./integration/fault/faulttable -alerts

.PHONY: availability
availability: ## Compute the availability over a year into docs/availability.md, out of internal/availability/inputs.yaml
	go test ./internal/availability -run TestDocs -count 1 -update

.PHONY: test-deploy
test-deploy: build ## docs/deploy.md from top to bottom on a local fake of AWS: three regions applied, changed by hand, healed, scaled, upgraded, destroyed; then checkov and parliament
	tools/install.sh deploy checkov
	go test -tags deploy ./integration/deploy -count 1 -timeout 2h -v

.PHONY: plan-if-terraform
plan-if-terraform: build ## One cell of deploy/ planned on the fake, and wrong settings refused, where Terraform is installed: the short part of test-deploy
	if command -v terraform >/dev/null; then tools/install.sh deploy && go test -tags deploy ./integration/deploy -run TestACellIsPlanned -count 1 -vet=off -timeout 30m; \
	else echo "terraform is not installed: deploy/ was not planned"; fi

.PHONY: record-privileges
record-privileges: tools build ## Write down again what gateway, aggregator, probe, alerts, workers and operators do at AWS' services: deploy/privileges/recorded.json, by which their policies are judged
	go test ./integration/privilege -run TestWhatIsRecordedIsWhatComponentsDo -count 1 -timeout 30m -update

.PHONY: format
format: ## gofmt: names the files that it would change
	@unformatted=$$(gofmt -l cmd deploy distributions exporter integration internal observability orchestration receiver tools $(wildcard extension processor)); \
		test -z "$$unformatted" || { echo "gofmt -w these:"; echo "$$unformatted"; exit 1; }

.PHONY: check
check: format ## gofmt and go vet, without the linters
	go vet ./...
	go vet -tags deploy ./integration/deploy
	go -C tools/image vet ./...

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

.PHONY: bench-hops
bench-hops: build ## What an event takes at each hop, bytes and CPU, written into the cost model (deploy/cost/measured.json); then its documents
	tools/install.sh kafka
	go run ./integration/bench -only hops -events 200000 -measured deploy/cost/measured.json $(ARGS)
	go generate ./internal/cost

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

# What is released: programs that need no C library, for each of ARCHS. Go knows what of them is up to date; the revision is in them, so every commit is another.
ARCHS    ?= amd64 arm64
# The commit, and its time, which every file of a release has.
REVISION ?= $(or $(shell git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null),unknown)
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
RELEASED := $(foreach arch,$(ARCHS),$(addprefix _build/linux-$(arch)/,healthcheck licenses))
RELEASE_ENV = CGO_ENABLED=0 GOOS=linux GOARCH=$*
.PHONY: FORCE
.PRECIOUS: _build/linux-%/pulsegrid _build/linux-%/pulsegrid-collector
_build/linux-%/pulsegrid: FORCE
	@mkdir -p $(@D)
	$(RELEASE_ENV) go build -trimpath -tags noengine -ldflags '-s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)' -o $@ ./cmd/pulsegrid
_build/linux-%/pulsegrid-collector: $(COLLECTOR) FORCE
	@mkdir -p $(@D)
	cd _build/collector && $(RELEASE_ENV) go build -trimpath -ldflags '-s -w' -o $(CURDIR)/$@ .
_build/linux-%/healthcheck: FORCE
	@mkdir -p $(@D)
	$(RELEASE_ENV) go build -trimpath -ldflags '-s -w' -o $@ ./cmd/healthcheck
_build/linux-%/licenses: _build/linux-%/pulsegrid _build/linux-%/pulsegrid-collector
	$(foreach program,$^,go run ./tools/licenses $@/$(notdir $(program)) $(program) && ) true

.PHONY: image
image: $(RELEASED) ## Container images for ARCHS, as OCI layouts: _build/image (docs/images.md)
	go -C tools/image run . -root $(CURDIR) -out $(CURDIR)/_build/image -version $(VERSION) -revision $(REVISION) -time $(SOURCE_DATE_EPOCH) \
		$(foreach arch,$(ARCHS),-programs $(arch)=$(CURDIR)/_build/linux-$(arch)) | tee _build/image.digests

.PHONY: release
release: image ## Archives, images, SBOMs, provenance, signed checksums and notes of a release: _build/release. A dry run unless RELEASE_KEY names the SSH key to sign with
	tools/release.sh _build/release _build $(VERSION) $(REVISION) $(SOURCE_DATE_EPOCH) $(ARCHS)

.PHONY: test-image
test-image: build image ## The tests of images for ARCHS, and of the programs built again elsewhere; arm64 runs under qemu-aarch64-static (Debian: qemu-user-static)
	tools/install.sh kafka clickhouse python
	go test ./integration/image -count 1 -timeout 1h -v -args -archs '$(ARCHS)' -programs $(CURDIR)/_build -again 'healthcheck pulsegrid pulsegrid-collector' -revision $(REVISION)

.PHONY: lock
lock: ## Write anew the checksums of what the tools are installed from, after a version was changed
	tools/lock.sh

.PHONY: clean
clean: ## Remove what was built; keeps the tools and pulsegrid-data
	rm -rf _build
