# What people call: make demo, make test. The rest is for those who work on it.

export CGO_ENABLED = 0
BIN   := bin/porthole
TOOL  := go tool -modfile=tools/go.mod
# Namespaces take root.
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo)
# What every porthole is built with; expanded where it is used.
BUILD  = go build -trimpath -ldflags "-s -w -X main.built=$(shell scripts/version)"

.PHONY: all build install demo test test-interop cluster-up cluster-down test-cluster lint generate cross bench fuzz licenses clean

all: build

build: ## one static binary
	@scripts/need
	$(BUILD) -o $(BIN) ./cmd/porthole

# For packages: make install PREFIX=/usr DESTDIR=$$PWD/root.
PREFIX ?= /usr/local
SHARE  := $(DESTDIR)$(PREFIX)/share
install: build ## the binary, kubectl's plugin, completions, and the node's systemd unit (which is not enabled)
	install -D -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/porthole
	ln -sf porthole $(DESTDIR)$(PREFIX)/bin/kubectl-porthole
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(BIN) completion bash > $(SHARE)/bash-completion/completions/porthole
	$(BIN) completion zsh > $(SHARE)/zsh/site-functions/_porthole
	$(BIN) completion fish > $(SHARE)/fish/vendor_completions.d/porthole.fish
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/|$(PREFIX)/|' packaging/porthole.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/porthole.service

demo: build ## kuard in a pod-like sandbox on this machine, forwarded to http://127.0.0.1:8080
	$(SUDO) $(BIN) demo

# The race detector needs a C compiler. PORTHOLE_STRICT, as in CI, fails what would be skipped.
test: build ## all tests of this machine, and what was skipped
	@scripts/need gcc:gcc curl:curl chromium:chromium nsenter:util-linux socat:socat hostname:hostname ps:procps
	CGO_ENABLED=1 PORTHOLE_BIN=$(CURDIR)/$(BIN) $(TOOL) gotestsum --format pkgname --format-hide-empty-pkg -- \
		-race -count=1 $(if $(SUDO),-exec "sudo -E env PATH=$(PATH)") ./...

test-interop: ## the protocol against the code of stock servers
	@scripts/need
	cd test/interop && go tool -modfile=../../tools/go.mod gotestsum --format pkgname -- -count=1 ./...

CLUSTER := go -C test/cluster run ./cmd/cluster

cluster-up: ## a real one-node Kubernetes on this machine; the first time it is compiled, which takes minutes
	@scripts/need
	$(CLUSTER) up
	@$(CLUSTER) env

cluster-down: ## takes it down again
	$(CLUSTER) down

test-cluster: build ## the tests that need a real Kubernetes
	@scripts/need gcc:gcc ps:procps
	$(CLUSTER) build
	cd test/cluster && CGO_ENABLED=1 PORTHOLE_BIN=$(CURDIR)/$(BIN) go tool -modfile=../../tools/go.mod gotestsum --format pkgname -- \
		-count=1 -p 1 -timeout 20m $(if $(SUDO),-exec "sudo -E env PATH=$(PATH)") ./...

lint:
	@test -z "$$(gofmt -l .)" || { echo "not gofmt-clean:"; gofmt -l .; exit 1; }
	go vet ./...
	cd test/cluster && go vet ./...
	$(TOOL) golangci-lint run ./...
	go mod tidy -diff
	scripts/generate -check

generate: ## the eBPF programs of internal/trace, compiled
	scripts/generate

cross: ## the client for other systems
	GOOS=linux GOARCH=arm64 $(BUILD) -o bin/cross/porthole-linux-arm64 ./cmd/porthole
	GOOS=darwin GOARCH=arm64 $(BUILD) -o bin/cross/porthole-darwin-arm64 ./cmd/porthole
	GOOS=windows GOARCH=amd64 $(BUILD) -o bin/cross/porthole-windows-amd64.exe ./cmd/porthole
	GOOS=darwin go vet ./...
	GOOS=windows go vet ./...

bench: build ## side by side with peers, kubectl on a real cluster among them
	@scripts/need socat:socat nsenter:util-linux
	go build -o bin/bench ./bench
	scripts/bench $(BENCHFLAGS)

FUZZ ?= 20000
fuzz: ## every fuzz target on FUZZ inputs each
	@scripts/fuzz $(FUZZ)

licenses: ## the licences of all that is linked into the binary, in bin/licenses
	@scripts/licenses bin/licenses ./cmd/porthole

clean:
	rm -rf bin
