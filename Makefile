# Everything that a person or CI does with this repository. `make` prints it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What runs tests: go test, or as CI has it (.ci/gotest).
GOTEST    ?= go test
TESTFLAGS ?= -timeout 45m
# How many jobs of tests run at a time (.tools/suite). They mostly wait; but where a machine
# stands still at times, as those of CI do, two beside each other miss more of their
# deadlines than one.
CLUSTERJOBS ?= 3
CLUSTERS  := github.com/pgsidecar/pgsidecar/cmd/% github.com/pgsidecar/pgsidecar/sidecar/proxy github.com/pgsidecar/pgsidecar/sidecar/drill
BENCHFLAGS ?= -p 1 -timeout 60m
# How many rounds of pgsidecar's failovers make bench-beside plays, and between them of
# Patroni's; and how long the steady state is looked at, idle and under writes.
BENCHRUNS ?= 10
FEWRUNS   ?= 3
STEADY    ?= 30s
# Which faults make bench-beside plays (FAULTS='host-lost|cut-off'); empty: all.
FAULTS    ?=
# Where make bench-beside measures: this machine, or a root of make matrix.
BENCHROOT ?= sid
# How many clusters make bench-scale puts on one Consul, one number after the other.
SCALE     ?= 10 1x10 1x50 100 1000
FUZZTIME  ?= 20s
# How long make chaos injects faults, and where it writes chaos.md, chaos.json
# and, after a failure, all logs. CHAOSSEED=n repeats a run.
CHAOSTIME ?= 2h
# The members of its lab with ACTS=operator
CHAOSMEMBERS ?= 5
CHAOSDIR  ?= .cache/chaos
# What make backup-proof runs: for how long primaries are killed, how large the database of
# the figures is, in MB, and for how long the repository is full.
PROOF     ?= TestRestoreAfterFailovers|TestLargeDatabase|TestArchiveFails
PROOFTIME ?= 10m
PROOFMB   ?= 2048
FULLTIME  ?= 1h
# Where make drills writes its report and, after a drill that failed, all logs.
DRILLSDIR ?= .cache/drills
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Try it

.PHONY: up
up: ## run a cluster on this machine with a live status; Ctrl-C stops it and leaves nothing behind (UP=--backup: delete a table and restore it; UP=--sites: two sites)
	@$(MAKE) --no-print-directory -j 2 programs-up build
	@exec bin/pgsidecar lab up $(UP)

.PHONY: programs
programs: ## provide what tests run: PostgreSQL, HAProxy, PgBouncer, iproute2 (apt-get, as root), Consul (PATH, or Debian 11's, or built once), and more
	@.tools/programs test

.PHONY: programs-up
programs-up: # what `make up` needs of it
	@.tools/programs up

.PHONY: chromium
chromium: ## provide Chromium, in which tests open the pages; without it they are skipped
	@command -v chromium >/dev/null || .tools/install chromium

.PHONY: programs-nomad
programs-nomad: programs ## provide Nomad as well (PATH, or built once: 5 minutes)
	@.tools/nomad/build

##@ Develop

.PHONY: build
build: ## build bin/pgsidecar, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/pgsidecar ./cmd/pgsidecar

.PHONY: check
check: format vet staticcheck ## format, vet, staticcheck, and every test that starts no other program (a minute and a half)
	@# Four packages at a time, as some of them mostly wait.
	go test -short -p 4 -timeout 5m ./...

.PHONY: race
race: ## the same tests under the race detector, without the packages that run clusters (3 minutes)
	CGO_ENABLED=1 go test -race -short -timeout 30m $(filter-out $(CLUSTERS),$(shell go list ./...))

.PHONY: format
format:
	@files=$$(gofmt -l $(wildcard cmd sidecar checks sessions templates nomad)); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

.PHONY: vet
vet:
	go vet ./...

.cache/bin/staticcheck: .tools/lint/go.mod
	GOBIN="$(CURDIR)/.cache/bin" go -C .tools/lint install honnef.co/go/tools/cmd/staticcheck
	@touch $@

.PHONY: staticcheck
staticcheck: .cache/bin/staticcheck
	.cache/bin/staticcheck ./...

.PHONY: lint
lint: format vet staticcheck ## gofmt, go vet, staticcheck, govulncheck
	GOBIN="$(CURDIR)/.cache/bin" go -C .tools/lint install golang.org/x/vuln/cmd/govulncheck
	@.cache/bin/govulncheck ./... || { status=$$?; [ $$status -ne 3 ] || exit 1; \
	    echo "lint: govulncheck did not end well, most likely because https://vuln.go.dev cannot be reached: known vulnerabilities were NOT looked for" >&2; }

.PHONY: clean
clean: ## remove what was built; the Consul and Nomad in .cache/bin stay (rm -r .cache takes it too)
	rm -rf bin dist
	go clean -testcache

##@ Prove it

.PHONY: test
test: programs build format vet ## run every test, on real programs where it matters (14 minutes)
	@export GOTMPDIR="$${TMPDIR:-/tmp}" TMPDIR="$$(.tools/testdir)"; \
	GOTEST='$(GOTEST)' TESTFLAGS='$(TESTFLAGS)' CLUSTERJOBS='$(CLUSTERJOBS)' .tools/suite

.PHONY: test-nomad
test-nomad: programs-nomad ## run the job files on a real Nomad, as root (4 minutes, besides Nomad's build)
	GOTMPDIR="$${TMPDIR:-/tmp}" TMPDIR="$$(.tools/testdir)" $(GOTEST) $(TESTFLAGS) -v ./nomad -args -nomad

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME (20s)
	@for package in $$(go list ./...); do \
	    for name in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	        echo "go test -fuzz $$name $$package"; \
	        go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$package; \
	    done; \
	done

.PHONY: drills
drills: programs build ## play every scenario, one after the other, and write DRILLSDIR/report.html, .json and .xml; as root, isolated (20 minutes)
	@mkdir -p $(DRILLSDIR)
	bin/pgsidecar drill --all --rpo 0 --html $(DRILLSDIR)/report.html --json $(DRILLSDIR)/report.json --junit $(DRILLSDIR)/report.xml --logs $(DRILLSDIR)/logs
	bin/pgsidecar drill site-split --sites 2 --no-witness --html $(DRILLSDIR)/split.html --json $(DRILLSDIR)/split.json --junit $(DRILLSDIR)/split.xml --logs $(DRILLSDIR)/logs
	bin/pgsidecar drill site-switch site-lost site-cut-off witness-lost --sites 2 --html $(DRILLSDIR)/sites.html --json $(DRILLSDIR)/sites.json --junit $(DRILLSDIR)/sites.xml --logs $(DRILLSDIR)/logs

.PHONY: chaos
chaos: programs ## inject random faults into real clusters for CHAOSTIME (2h), and look for lost rows (ACTS=operator: what operators do); as root, isolated
	@mkdir -p $(CHAOSDIR)
	ACTS=$(ACTS) CHAOSMEMBERS=$(CHAOSMEMBERS) CHAOSTIME=$(CHAOSTIME) CHAOSDIR=$(abspath $(CHAOSDIR)) $(GOTEST) -run '^TestChaos$$' -v -count 1 -timeout 0 ./sidecar/drill

.PHONY: backup-proof
backup-proof: programs ## prove backups on real pgBackRest: restores after PROOFTIME (10m) of failovers, figures of PROOFMB (2048), a repository that is full for FULLTIME (1h); PROOF=TestLargeDatabase: one of them; as root
	GOTMPDIR="$${TMPDIR:-/tmp}" TMPDIR="$$(.tools/testdir)" $(GOTEST) -run '^($(PROOF))$$' -v -count 1 -timeout 0 ./cmd/pgsidecar -args \
	    -proof.time $(PROOFTIME) -proof.every 20s -proof.restores 5 -figures.mb $(PROOFMB) -archive.full $(FULLTIME) -archive.rows 20

.PHONY: matrix
matrix: programs build ## run what meets other programs, and ten drills, on Debian 13 and unstable (MATRIX="sid:drills trixie:checks": a part); as root
	@.tools/matrix $(MATRIX)

.PHONY: bench
bench: bench-beside ## measure whatever has a number in the README
	go test -run '^$$' -bench . $(BENCHFLAGS) $$(go list ./... | grep -v sidecar/drill)

.PHONY: bench-beside
bench-beside: programs build ## measure failovers and the steady state beside Patroni, in turn, into sidecar/drill/bench.md, on Debian unstable (BENCHROOT= is this machine); as root, nothing else beside it
	@export BENCHRUNS='$(BENCHRUNS)' FEWRUNS='$(FEWRUNS)' STEADY='$(STEADY)' FAULTS='$(FAULTS)' BENCHREPORT='$(CURDIR)/sidecar/drill/bench' \
	    BENCHCOMMAND="make bench-beside BENCHRUNS=$(BENCHRUNS) FEWRUNS=$(FEWRUNS)$(if $(FAULTS), FAULTS='$(FAULTS)') BENCHROOT=$(BENCHROOT)"; \
	if [ -n '$(BENCHROOT)' ]; then .tools/matrix $(BENCHROOT):beside; else .tools/patroni; .tools/beside "$$BENCHREPORT"; fi

.PHONY: bench-scale
bench-scale: programs ## measure one Consul with SCALE ("10 100 1000") clusters of three, idle and when 50 fail over at once, into sidecar/scale.md; nothing else beside it (six minutes)
	SCALE='$(SCALE)' SCALEREPORT='$(CURDIR)/sidecar/scale.md' go test -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x -timeout 20m ./sidecar

.PHONY: bench-cost
bench-cost: programs ## measure pgbench with pgsidecar and without it (COSTRUNS=3, COSTTIME=20s); nothing else beside it (six minutes)
	COSTRUNS='$(COSTRUNS)' COSTTIME='$(COSTTIME)' go test -run '^$$' -bench '^BenchmarkCost$$' -benchtime 1x -timeout 60m ./sidecar/drill

.PHONY: contact
contact: ## time the first `make up` in a new Debian 12 made by debootstrap, to the first row and failover; as root
	@.tools/contact/measure

##@ Release

.PHONY: release
release: ## write packages into dist/: deb, rpm and archives for amd64 and arm64, SBOM, checksums
	@.tools/release/build "$(VERSION)" dist

.PHONY: release-check
release-check: release programs-up ## install, start and remove the deb in a Debian 12 made by debootstrap; as root
	@.tools/release/check dist
