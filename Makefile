# `make` lists the targets. The comment behind two hashes is the line that it prints.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

GO ?= go

# Data files of the tests on real input. The tests look here by themselves; named here to be overridden.
USAGE_TESTDATA ?= $(abspath ../shared/data)
export USAGE_TESTDATA

# What --version and usaged_build_info say. The date is the commit's, so that a build can be repeated; a tree with changes
# says so. Outside a git checkout it is left to the tool chain.
VERSION_PKG := github.com/prometheus/common/version
VERSION   ?= $(shell sed -n '/^\#\# /{s/^\#\# \([^ ]*\) \/ unreleased/\1-dev/;s/^\#\# \([^ ]*\).*/\1/;s/^\#\# //;p;q;}' CHANGELOG.md)
REVISION  ?= $(shell git rev-parse HEAD 2>/dev/null)$(shell git status --porcelain 2>/dev/null | grep -q . && echo -modified)
BRANCH    ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null)
BUILDDATE ?= $(shell TZ=UTC0 git log -1 --date=format-local:%Y%m%d-%H:%M:%S --format=%cd 2>/dev/null)
LDFLAGS    = -s -w -X $(VERSION_PKG).Version=$(VERSION) -X $(VERSION_PKG).Revision=$(REVISION) \
             -X $(VERSION_PKG).Branch=$(BRANCH) -X $(VERSION_PKG).BuildDate=$(BUILDDATE)

# The tools of lint, benchmarks and vulncheck have module files of their own, so that their dependencies are none of ours.
GOLANGCI_LINT := $(GO) tool -modfile=tools/golangci-lint/go.mod golangci-lint
BENCHSTAT     := $(GO) tool -modfile=tools/benchstat/go.mod benchstat
GOVULNCHECK   := $(GO) tool -modfile=tools/govulncheck/go.mod govulncheck

# Packages whose tests are about goroutines. `make race RACE=./...` takes all.
RACE     ?= ./aggregator/... ./api/... ./client/... ./exporter/...
FUZZTIME ?= 50000x
# Tests find by themselves what hangs (tools/waittest), however slow the machine is. This is for what they do not find.
HANG     ?= 2h
BENCH    ?= .
COUNT    ?= 6
BASE     ?= HEAD
DATA     ?= data
LISTEN   ?= 127.0.0.1:8080
VULNDB   ?= https://vuln.go.dev

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/usaged and bin/usagectl, static, with their version
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/usaged ./cmd/usagectl

.PHONY: run
run: build ## build, say what to try, and run the daemon (DATA=data, LISTEN=127.0.0.1:8080)
	@tools/hello $(DATA) $(LISTEN)
	@exec bin/usaged --data.dir=$(DATA) --web.listen-address=$(LISTEN)

.PHONY: test
test: deps ## go vet and every test that is quick; gets on Debian what is missing
	$(GO) vet ./...
	$(GO) test -timeout $(HANG) ./...

.PHONY: deps
deps: ## look for the programs that tests need, and install them where that is possible
	@tools/deps

.PHONY: race
race: ## the tests of the concurrent packages under the race detector (RACE=./...)
	$(GO) test -race -timeout $(HANG) $(RACE)

.PHONY: e2e
e2e: deps ## the daemon's tests in full: 50 kills, all of the real data
	USAGE_TEST_FULL=1 $(GO) test -count=1 -timeout 30m -v ./cmd/usaged

.PHONY: faults
faults: deps ## the matrix of faults: what loses, doubles or hides an event (TIMES=20, SEED=1, FAULTS=kills,flips, STORES=sqlite,redis)
	$(GO) test -c -o bin/faults ./tools/faults
	cd tools/faults && ../../bin/faults -test.timeout=0 -times='$(or $(TIMES),20)' -seed='$(or $(SEED),1)' \
	    -faults='$(FAULTS)' -stores='$(or $(STORES),sqlite,redis)'

.PHONY: compliance
compliance: ## Prometheus' compliance suite for senders of remote write, on the package and on whole daemons
	USAGE_TEST_FULL=1 $(GO) test -count=1 -timeout 10m -v -run Compliance ./exporter/embedded ./cmd/usaged

.PHONY: receivers
receivers: bin/prometheus bin/promtool ## real Prometheis, 2.42 and ours: scraping, remote write through outages, the score and the past of replicas (USAGE_TEST_FULL=1: ten minutes)
	@tools/receivers
	USAGE_TEST_PROMETHEUS=$(CURDIR)/bin $(GO) test -count=1 -timeout 30m -v -run 'TestReceiversAway|TestScrapedByPrometheus|TestHealthOfWriters|TestPastOfAnother' ./cmd/usaged

.PHONY: alertmanager-test
alertmanager-test: ## an alert through a real Alertmanager (Debian: apt-get install prometheus-alertmanager)
	USAGE_TEST_ALERTMANAGER=1 $(GO) test -count=1 -timeout 5m -v -run TestAlertmanager ./cmd/usaged

.PHONY: fuzz
fuzz: ## each fuzz target on FUZZTIME=50000x inputs
	@tools/fuzz $(FUZZTIME)

.PHONY: bench
bench: build ## measure a daemon of its own with usagectl bench, then the Go benchmarks
	@tools/bench
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

.PHONY: bench-score
bench-score: ## how soon drops are told, and false alarms, beside others (TRACE=file: on your events; TIMES=12, JSON=file)
	USAGE_BENCH_SCORE=1 USAGE_BENCH_TRACE='$(if $(TRACE),$(abspath $(TRACE)))' USAGE_BENCH_TIMES='$(TIMES)' \
	    USAGE_BENCH_JSON='$(if $(JSON),$(abspath $(JSON)))' $(GO) test -count=1 -timeout 6h -v -run '^TestBench' ./rules

.PHONY: bench-diff
bench-diff: ## Go benchmarks of the tree against BASE=HEAD (BENCH=., COUNT=6)
	@GO='$(GO)' BENCHSTAT='$(BENCHSTAT)' tools/bench-diff '$(BASE)' '$(BENCH)' '$(COUNT)'

.PHONY: fmt
fmt: ## gofmt everything
	gofmt -l -w $$(find . -name '*.go' -not -path './.git/*')

.PHONY: lint
lint: ## golangci-lint as pinned in tools/golangci-lint (the first build takes two minutes)
	$(GOLANGCI_LINT) run ./...

# No part of CI: it asks a database elsewhere, whose answer changes without a change of ours.
.PHONY: vulncheck
vulncheck: ## known vulnerabilities in what we call, by govulncheck, pinned (VULNDB=https://vuln.go.dev)
	@$(GOVULNCHECK) -db '$(VULNDB)' ./... || { code=$$?; [[ $$code == 3 ]] || echo 'vulncheck: if $(VULNDB) cannot be reached from here:' \
	    'git clone https://github.com/golang/vulndb, and make vulncheck VULNDB=file:///…/vulndb/data/osv' >&2; exit $$code; }

.PHONY: promcheck
promcheck: build bin/promtool ## promtool check metrics on a running daemon's /metrics
	@tools/promcheck

.PHONY: rules
rules: bin/promtool ## check the rule files, and run their unit tests with promtool
	bin/promtool check rules --lint=all rules/*.yml
	@printf '%s\n' rules/tests/*.yml | xargs -n 1 -P $$(nproc) bin/promtool test rules

.PHONY: dashboards
dashboards: ## write the JSON of the Grafana dashboards anew, and check it
	$(GO) run ./dashboards/generate docs/runbooks.md dashboards
	$(GO) test ./dashboards/...

.PHONY: dashboards-test
dashboards-test: bin/prometheus ## ask a daemon, and real Prometheis that scrape it, everything that the dashboards ask
	@tools/receivers
	USAGE_TEST_PROMETHEUS=$(CURDIR)/bin $(GO) test -count=1 -timeout 20m -v -run 'TestDashboards$$' ./cmd/usaged

# Whatever is not given is not passed on. The files hold the tokens; no token is on a command line.
.PHONY: grafana
grafana: ## put the dashboards into your Grafana (URL=, TOKEN_FILE=; SOURCE=, SOURCE_TOKEN_FILE= for a data source)
	$(if $(and $(URL),$(TOKEN_FILE)),,$(error it needs URL=, the address of a Grafana, and TOKEN_FILE=; docs/dashboards.md has an example))
	@$(GO) run ./dashboards/grafana $(if $(URL),--url=$(URL)) $(if $(TOKEN_FILE),--token-file=$(TOKEN_FILE)) \
	    $(if $(SOURCE),--source-url=$(SOURCE)) $(if $(SOURCE_TOKEN_FILE),--source-token-file=$(SOURCE_TOKEN_FILE))

# promtool and prometheus are of the version that go.mod names. The tag leaves out the service discoveries, some of whose
# modules do not resolve. Neither needs the user interface, which the module does not have.
bin/promtool bin/prometheus: bin/%: go.mod
	GOBIN=$(CURDIR)/bin $(GO) install -tags remove_all_sd \
	    github.com/prometheus/prometheus/cmd/$*@$$($(GO) list -m -f '{{.Version}}' github.com/prometheus/prometheus)
	@touch $@

.PHONY: ci
ci: ## exactly what CI runs
	@.ci/run

.PHONY: clean
clean: ## remove what make built
	rm -rf bin
