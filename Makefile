# On Debian 12 with Go, as root:
#
#   make demo   boots a NixOS-shaped system over the network, in QEMU
#   make test   everything that CI runs

GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 1m

# Debian packages that the tests and the demo need beside those of any machine.
DEPS = attr busybox-static cpio erofs-utils ipxe-qemu kmod nix-bin ovmf qemu-system-arm qemu-system-x86 sqlite3 squashfs-tools xz-utils zstd
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: build deps test unit vmtest lint bench fuzz demo clean

# For this machine in bin, for the other kind in bin/arm64 or bin/amd64.
OTHER = $(filter-out $(shell $(GO) env GOHOSTARCH),amd64 arm64)
COMMANDS = ./cmd/stage1 ./cmd/mknetboot

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o bin/ $(COMMANDS)
	@set -ex; for arch in $(OTHER); do \
		CGO_ENABLED=0 GOARCH=$$arch $(GO) build -trimpath -ldflags "-s -w" -o bin/$$arch/ $(COMMANDS); \
	done

deps:
	@missing=$$(for p in $(DEPS); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		set -ex; \
		$(SUDO) apt-get -q update; \
		DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get -q install --yes --no-install-recommends $$missing; \
	fi

test: deps build lint unit vmtest

unit:
	$(GO) test -v $$($(GO) list ./... | grep -v '/vmtests$$')

# Needs root, for Nix stores in mount namespaces.
vmtest:
	$(GO) test -v -timeout 60m ./vmtests

lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt -w $$unformatted"; exit 1; fi
	GOARCH=amd64 $(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

bench:
	$(GO) test -run '^$$' -bench . -benchmem -timeout 120m ./...

# Each fuzz test in turn, for FUZZTIME each.
fuzz:
	@set -e; for package in $$($(GO) list ./...); do \
		for name in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5s $$package; \
		done; \
	done

# The console is the terminal's; without one, the machine checks itself.
demo: deps build
	$(GO) run ./vmtests/demo

clean:
	rm -rf bin demo
