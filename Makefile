# Two promises: `make run` and `make test` need Go and make, nothing else.

GO      ?= go
GOTEST  ?= $(GO) test
BIN     := bin/firn
LDFLAGS := -s -w
# Without cgo: the program is static, as in the image, and tests are of the code that it runs. The race detector alone needs it.
export CGO_ENABLED ?= 0
LINT    := $(GO) tool -modfile=.ci/tools/go.mod golangci-lint

# Packages where goroutines meet; the race detector pays there.
RACED   := ./agent/... ./metastore ./metastore/log/... ./objstore/... ./wal/... ./localstack/faketime

# How many seeds the simulator runs. One seed is one cluster's life; a failure prints its seed and how to run it again.
SEEDS   ?= 2000

.PHONY: run localstack build test race lint fuzz bench generate sim interop nightly check clean

run: build ## a whole firn in one process, data in ./firn-data
	$(BIN) dev

# A cluster of real processes on this machine. ADVERTISE=proxy sends clients to HAProxy alone, OFFSET is added to every port,
# DIR holds data and logs.
AGENTS    ?= 3
ADVERTISE ?= direct
MEMBERS   ?= 3
OFFSET    ?= 0
DIR       ?= firn-localstack

localstack: build ## etcd, MinIO, HAProxy and agents; installs what it needs, ends with Ctrl-C
	@.ci/setup haproxy
	@.ci/etcd
	@.ci/minio
	@$(GO) build -trimpath -o bin/localstack ./cmd/localstack
	@exec bin/localstack --firn $(BIN) --agents $(AGENTS) --advertise $(ADVERTISE) --members $(MEMBERS) --offset $(OFFSET) --dir $(DIR) $(LOCALSTACK_FLAGS)

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/firn

# How long one package's tests may take: minutes on a machine that has nothing else to do are many on one that has.
TIMEOUT := 30m

test:
	$(GOTEST) -shuffle=on -timeout $(TIMEOUT) ./...

race:
	CGO_ENABLED=1 $(GOTEST) -race -shuffle=on -timeout $(TIMEOUT) $(RACED)

lint:
	@test -z "$$(gofmt -l .)" || { echo 'gofmt would change:'; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(LINT) run --allow-parallel-runners ./...

FUZZTIME ?= 20s
fuzz: ## every fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

generate: build ## the pages that follow from the program
	$(BIN) docs configuration > docs/configuration.md
	$(GO) test ./cmd/firn -run '^TestCLIPage$$' -rewrite

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

sim: ## thousands of seeded lives of a small cluster under faults
	$(GO) test ./localstack/sim -run '^TestSeeds$$' -count=1 -timeout 60m -sim.seeds $(SEEDS)

interop: build ## stock clients of other languages; installs what it needs
	.ci/interop

nightly: ## hours, by hand; figures go to docs/benchmarks.md
	$(MAKE) sim SEEDS=50000
	INTEROP_FULL=1 KILL_DURATION=10m FAULTS_GROUPS=10m CLIENTS_DURATION=10m CLIENTS_TIMEOUT=5h $(MAKE) interop
	$(MAKE) fuzz FUZZTIME=10m

check: lint test race

clean:
	rm -rf bin
