# What people call: make demo, make test. The rest is for those who work on it.

export CGO_ENABLED = 0
BIN   := bin/porthole
TOOL  := go tool -modfile=tools/go.mod
# Namespaces take root.
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo)
# What every porthole is built with; expanded where it is used.
BUILD  = go build -trimpath -ldflags "-s -w -X main.built=$(shell scripts/version)"

.PHONY: all build install install-client demo test test-interop cluster-build cluster-up cluster-down test-cluster test-trace test-busy test-image image lint generate cross bench fuzz licenses clean

all: build

build: ## one static binary
	@scripts/need
	$(BUILD) -o $(BIN) ./cmd/porthole

# For packages: make install PREFIX=/usr DESTDIR=$$PWD/root.
PREFIX ?= /usr/local
SHARE  := $(DESTDIR)$(PREFIX)/share
install-client: build ## the binary, kubectl's plugin and completions
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/porthole
	ln -sf porthole $(DESTDIR)$(PREFIX)/bin/kubectl-porthole
	install -m 0755 packaging/kubectl_complete-porthole $(DESTDIR)$(PREFIX)/bin/kubectl_complete-porthole
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(BIN) completion bash > $(SHARE)/bash-completion/completions/porthole
	$(BIN) completion zsh > $(SHARE)/zsh/site-functions/_porthole
	$(BIN) completion fish > $(SHARE)/fish/vendor_completions.d/porthole.fish

install: install-client ## the same, porthole-enter (without capabilities), the node's systemd unit (which is not enabled) and an example of a drop-in
	install -d $(DESTDIR)$(PREFIX)/libexec
	install -m 0755 internal/netns/enter/enter_$(shell go env GOARCH) $(DESTDIR)$(PREFIX)/libexec/porthole-enter
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/|$(PREFIX)/|' packaging/porthole.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/porthole.service
	install -d $(DESTDIR)$(PREFIX)/share/doc/porthole
	sed 's|/usr/local/|$(PREFIX)/|' packaging/porthole.service.d/unix.conf > $(DESTDIR)$(PREFIX)/share/doc/porthole/unix.conf

demo: build ## kuard in a pod-like sandbox on this machine, forwarded to http://127.0.0.1:8080, or to PORT
	$(if $(SUDO),$$(unshare -Urn true 2>/dev/null || echo $(SUDO))) $(BIN) demo $(if $(PORT),--port $(PORT))

# What runs tests, as the target's name is. At the end it says which were skipped; PORTHOLE_STRICT, as in CI, fails those.
TESTS = go tool -modfile=$(CURDIR)/tools/go.mod gotestsum --format pkgname --format-hide-empty-pkg --hide-summary=skipped \
	--jsonfile $(CURDIR)/bin/$@.json --post-run-command $(CURDIR)/scripts/skipped --
ROOT    := $(if $(SUDO),sudo -E env PATH=$(PATH))
AS_ROOT := $(if $(SUDO),-exec "$(ROOT)")

# Some tests start an API server: the one of the real Kubernetes, where that is compiled.
CLUSTER_BIN := $(CURDIR)/.cache/cluster/bin
PORTHOLE_CLUSTER_BIN ?= $(if $(wildcard $(CLUSTER_BIN)/tools-kubernetes.key),$(CLUSTER_BIN))
export PORTHOLE_CLUSTER_BIN

# Packages of servers are unpacked and not installed: they would start them.
PACKAGES := $(CURDIR)/.cache/packages
PORTHOLE_SSHD ?= $(or $(wildcard /usr/sbin/sshd),$(PACKAGES)/openssh-server/usr/sbin/sshd)
export PORTHOLE_SSHD
export PORTHOLE_POSTGRES := $(PACKAGES)/postgresql
export PORTHOLE_PACKAGES := $(PACKAGES)
# The engines whose containers the tests make.
ENGINES := docker.io containerd runc podman conmon busybox-static uidmap rootlesskit

# The race detector needs a C compiler. Go's own compression is not watched: images of helper containers would take ten times as long.
# Tests that run beside others (t.Parallel) mostly wait, so there may be more of them than processors.
test: build ## the tests of this machine, and at the end what was skipped; those in need of a real Kubernetes are not among them
	@scripts/need gcc:gcc curl:curl chromium:chromium nsenter:util-linux socat:socat hostname:hostname ps:procps ss:iproute2 git:git ssh:openssh-client
	@test -x $(PORTHOLE_SSHD) || scripts/unpack openssh-server $(PACKAGES)/openssh-server
	@for package in $(ENGINES); do scripts/unpack $$package $(PACKAGES)/$$package || exit 1; done
	CGO_ENABLED=1 PORTHOLE_BIN=$(CURDIR)/$(BIN) $(TESTS) -race -gcflags=compress/flate=-race=false -parallel 4 -count=1 -timeout 20m $(AS_ROOT) ./...

test-interop: ## the protocol against the code of stock servers
	@scripts/need
	@mkdir -p bin
	cd test/interop && $(TESTS) -count=1 -timeout 20m ./...

test-trace: ## the tests of tracing once more, in mount namespaces with and without tracefs
	@scripts/need unshare:util-linux setpriv:util-linux
	for how in mounted unmounted; do \
		within="$(ROOT) unshare -m $(CURDIR)/scripts/tracefs $$how"; \
		go test -count=1 -timeout 10m -exec "$$within" ./internal/trace && \
		go test -count=1 -timeout 10m -exec "$$within" -run TestScripts/trace ./cmd/porthole || exit 1; \
	done

CLUSTER := go -C test/cluster run ./cmd/cluster

cluster-build: ## compiles the real Kubernetes that tests run on, which takes a quarter of an hour the first time
	@scripts/need
	$(CLUSTER) build

cluster-up: ## a real one-node Kubernetes on this machine; the first time it is compiled, which takes minutes
	@scripts/need
	$(CLUSTER) up
	@$(CLUSTER) env

cluster-down: ## takes it down again
	$(CLUSTER) down

test-cluster: build ## the tests that need a real Kubernetes
	@scripts/need gcc:gcc chromium:chromium socat:socat nsenter:util-linux ps:procps dig:bind9-dnsutils psql:postgresql-client
	@scripts/unpack postgresql $(PORTHOLE_POSTGRES)
	$(CLUSTER) build
	$(MAKE) image ARCHITECTURES=$(shell go env GOARCH)
	cd test/cluster && CGO_ENABLED=1 PORTHOLE_BIN=$(CURDIR)/$(BIN) PORTHOLE_IMAGE=$(IMAGE) $(TESTS) -count=1 -p 1 -timeout 30m $(AS_ROOT) ./...

BUSY ?= 5
test-busy: cluster-build ## test and test-cluster, BUSY times, beside four programs that take all processors
	@scripts/busy $(BUSY) $(MAKE) test test-cluster

lint:
	@test -z "$$(gofmt -l .)" || { echo "not gofmt-clean:"; gofmt -l .; exit 1; }
	go vet ./...
	cd test/cluster && go vet ./...
	cd packaging/image && go vet ./...
	$(TOOL) golangci-lint run ./...
	go mod tidy -diff
	scripts/generate -check

generate: ## the eBPF programs of internal/trace and the helper of internal/netns, compiled
	scripts/generate

cross: ## the client for other systems
	GOOS=linux GOARCH=arm64 $(BUILD) -o bin/cross/porthole-linux-arm64 ./cmd/porthole
	GOOS=darwin GOARCH=arm64 $(BUILD) -o bin/cross/porthole-darwin-arm64 ./cmd/porthole
	GOOS=windows GOARCH=amd64 $(BUILD) -o bin/cross/porthole-windows-amd64.exe ./cmd/porthole
	GOOS=darwin go vet ./...
	GOOS=windows go vet ./...

# The tests need one platform alone.
ARCHITECTURES ?= amd64 arm64
IMAGE := $(CURDIR)/bin/porthole-image.tar
image: ## the container image of agents in pods, in bin/porthole-image.tar
	@scripts/need
	for arch in $(ARCHITECTURES); do GOOS=linux GOARCH=$$arch $(BUILD) -o bin/image/$$arch/porthole ./cmd/porthole || exit 1; done
	GOOS=linux scripts/licenses bin/image/licenses ./cmd/porthole
	cp LICENSE bin/image/licenses/
	cd packaging/image && go run . -name porthole.dev/porthole:$(shell scripts/version | tr '()+' -) -licenses ../../bin/image/licenses \
		-o $(IMAGE) $(foreach arch,$(ARCHITECTURES),$(arch)=../../bin/image/$(arch)/porthole)

test-image: ## that the image is what it should be
	@scripts/need
	@mkdir -p bin
	cd packaging/image && $(TESTS) -count=1 -timeout 10m ./...

bench: build ## side by side with peers, kubectl on a real cluster among them
	@scripts/need socat:socat nsenter:util-linux ssh:openssh-client
	@test -x $(PORTHOLE_SSHD) || scripts/unpack openssh-server $(PACKAGES)/openssh-server
	@for package in $(ENGINES); do scripts/unpack $$package $(PACKAGES)/$$package || exit 1; done
	go build -o bin/bench ./bench
	scripts/bench $(BENCHFLAGS)

FUZZ ?= 20000
fuzz: ## every fuzz target on FUZZ inputs each
	@scripts/fuzz $(FUZZ)

licenses: ## the licences of all that is linked into the binary, in bin/licenses
	@scripts/licenses bin/licenses ./cmd/porthole

clean:
	rm -rf bin
