# Everything that a person or CI does with this repository. `make` prints it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TESTFLAGS ?= -timeout 30m
# These run whole clusters, one package after the other: side by side they make each
# other's timing look bad on two cores. The others mostly wait, two at a time.
CLUSTERS  := github.com/pgsidecar/pgsidecar/cmd/pgsidecar github.com/pgsidecar/pgsidecar/sidecar/drill
BENCHFLAGS ?= -p 1 -timeout 60m
# How often each failover is played by make bench; how often those that take
# long, and all of Patroni's; and how long the steady state is looked at, idle and
# under writes.
BENCHRUNS ?= 10
FEWRUNS   ?= 2
STEADY    ?= 30s
# What make bench-beside measures: all of it, or a slice, which it puts into
# the table: Failovers/pgsidecar, Failovers/patroni-fastest/host-lost, SteadyState.
BENCH     ?= Failovers|SteadyState
FUZZTIME  ?= 20s
# How long make chaos injects faults, and where it writes chaos.md, chaos.json
# and, after a failure, all logs. CHAOSSEED=n repeats a run.
CHAOSTIME ?= 2h
CHAOSDIR  ?= .cache/chaos
# Where make drills writes its report and, after a drill that failed, all logs.
DRILLSDIR ?= .cache/drills
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: programs
programs: ## provide PostgreSQL, HAProxy, PgBouncer, iproute2, promtool (apt-get, as root) and Consul (PATH, or built once: 7 minutes)
	@.tools/programs

.PHONY: programs-nomad
programs-nomad: programs ## provide Nomad as well (PATH, or built once: 8 minutes)
	@.tools/nomad/build

.PHONY: build
build: ## build bin/pgsidecar, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/pgsidecar ./cmd/pgsidecar

.PHONY: up
up: programs build ## run a cluster on this machine with a live status; Ctrl-C stops it and leaves nothing behind
	@exec bin/pgsidecar lab up

.PHONY: drills
drills: programs build ## play every scenario, one after the other, and write DRILLSDIR/report.html, .json and .xml; as root, isolated (10 minutes)
	@mkdir -p $(DRILLSDIR)
	bin/pgsidecar drill --all --rpo 0 --html $(DRILLSDIR)/report.html --json $(DRILLSDIR)/report.json --junit $(DRILLSDIR)/report.xml --logs $(DRILLSDIR)/logs

.PHONY: test
test: programs build format vet ## run every test, on real programs where it matters
	@failed=0; set -x; \
	go test -p 2 $(TESTFLAGS) $(filter-out $(CLUSTERS),$(shell go list ./...)) || failed=1; \
	go test -p 1 $(TESTFLAGS) $(CLUSTERS) || failed=1; \
	{ set +x; } 2>/dev/null; exit $$failed

.PHONY: test-nomad
test-nomad: programs-nomad ## run the job files on a real Nomad, as root (4 minutes, besides Nomad's build)
	go test $(TESTFLAGS) -v ./nomad -nomad

.PHONY: bench
bench: bench-beside ## measure whatever has a number in the README
	go test -run '^$$' -bench . $(BENCHFLAGS) $$(go list ./... | grep -v sidecar/drill)

.PHONY: bench-beside
bench-beside: programs ## measure failovers and the steady state beside Patroni (BENCH=SLICE: a part) into sidecar/drill/bench.md; as root, isolated
	@.tools/patroni
	BENCHRUNS=$(BENCHRUNS) FEWRUNS=$(FEWRUNS) STEADY=$(STEADY) BENCHREPORT=$(CURDIR)/sidecar/drill/bench \
	    go test -run '^$$' -bench '$(BENCH)' -benchtime 1x -v -timeout 3h ./sidecar/drill

.PHONY: chaos
chaos: programs ## inject random faults into real clusters for CHAOSTIME (2h), and look for lost rows; as root, isolated
	@mkdir -p $(CHAOSDIR)
	CHAOSTIME=$(CHAOSTIME) CHAOSDIR=$(abspath $(CHAOSDIR)) go test -run '^TestChaos$$' -v -count 1 -timeout 0 ./sidecar/drill

.PHONY: format
format:
	@files=$$(gofmt -l $(wildcard cmd sidecar checks sessions templates nomad)); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

.PHONY: vet
vet:
	go vet ./...

.PHONY: lint
lint: format vet ## gofmt, go vet, staticcheck, govulncheck
	GOBIN="$(CURDIR)/.cache/bin" go -C .tools/lint install tool
	.cache/bin/staticcheck ./...
	@.cache/bin/govulncheck ./... || { status=$$?; [ $$status -ne 3 ] || exit 1; \
	    echo "lint: govulncheck did not end well, most likely because https://vuln.go.dev cannot be reached: known vulnerabilities were NOT looked for" >&2; }

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME (20s)
	@for package in $$(go list ./...); do \
	    for name in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	        echo "go test -fuzz $$name $$package"; \
	        go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$package; \
	    done; \
	done

.PHONY: clean
clean: ## remove what was built; the Consul and Nomad in .cache/bin stay (rm -r .cache takes it too)
	rm -rf bin
	go clean -testcache
