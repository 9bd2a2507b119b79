# Targets for users and packagers. `make demo` and `make test` are the two commands of the README.
#
# The release binary is linked statically (crt-static), so one file runs on old and new distributions. That needs an
# explicit --target, because build scripts and procedural macros cannot be linked that way. It is linked to a fixed
# address (relocation-model=static), because relocating a static-pie at each start takes a tenth of the time of a whole
# run on one device. `make build RELOCATION=pie` builds a position-independent binary.

SHELL       = /bin/bash
CARGO      ?= cargo
DESTDIR    ?=
PREFIX     ?= /usr
SBINDIR    ?= $(PREFIX)/sbin
LIBDIR     ?= $(PREFIX)/lib
RELOCATION ?= static
DOCDIR     ?= $(PREFIX)/share/doc/vxcsum

# The commit that `vxcsum --version` names. Empty without git.
export VXCSUM_COMMIT ?= $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)

# rustup installs cargo here, and a fresh login shell may not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

TARGET     ?= $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET_DIR ?= $(or $(CARGO_TARGET_DIR),target)
BIN         = $(TARGET_DIR)/$(TARGET)/release/vxcsum
SCRIPTS     = .ci/run packaging/third-party packaging/sbom packaging/release deploy/image/build tests/deploy tests/image tests/json-schemas tests/kubectl tests/monitoring tests/container tests/oci-bundle tests/dead-code tests/demo tests/export tests/fuzz/capture tests/fuzz/run tests/needs tests/sanitizer tests/untouched benches/run benches/react benches/rules benches/services benches/throughput benches/machine benches/plot $(wildcard packaging/check-*) \
	$(addprefix tests/vm/,prepare kernel root guest smoke matrix matrix-job units privileges orders geneve gso original-report lifecycle bullseye lib.sh \
	nat-delay.sh gso-csum.sh layers.sh selftest-lib.sh upstream prefix export container)

.PHONY: all build demo test test-nat check fmt clippy deny shellcheck bench install clean

all: build

build:
	@tests/needs cargo gcc
	RUSTFLAGS="$(strip $(RUSTFLAGS) -C target-feature=+crt-static -C relocation-model=$(RELOCATION))" \
		$(CARGO) build --locked --release --target $(TARGET)

# Shows dry run, apply and status on devices of a network namespace of its own.
demo: build
	@tests/needs ip ethtool unshare
	@tests/demo $(BIN)

# Every test. Tests on real devices need root and create network namespaces of their own.
test:
	@tests/needs root cargo gcc ip ethtool tcpdump strace iptables ipset nft jq bash fish zsh setpriv
	tests/untouched $(CARGO) test --locked

# Faults, damage and churn, many more than in `make test`. LIMITS=1 takes five minutes, 100 a night.
.PHONY: test-limits
LIMITS ?= 100
test-limits:
	@tests/needs root cargo gcc ip ethtool strace nft
	VXCSUM_CHURN=$$(($(LIMITS) * 1000)) VXCSUM_FAULTS=$$(($(LIMITS) * 20)) VXCSUM_DAMAGE=$$(($(LIMITS) * 2)) \
		tests/untouched $(CARGO) test --locked --test churn --test damage --test faults -- --nocapture --test-threads 1

# Compares the analysis of NAT rules with packets, with many more random rule sets than `make test`.
RULE_SETS ?= 1500
test-nat:
	@tests/needs root cargo gcc ip ethtool iptables ipset nft
	VXCSUM_RANDOM_RULES=$(RULE_SETS) $(CARGO) test --locked --test exposure -- --nocapture random

# Fuzzes the decoders, each for FUZZ_SECONDS, one on each processor. FUZZ_SEED=0 is another seed each time.
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0
.PHONY: fuzz
fuzz:
	@tests/needs cargo gcc g++ perl
	tests/fuzz/run -j $$(nproc) -s $(FUZZ_SECONDS) -r $(FUZZ_SEED)

# Memory errors of the program, by valgrind.
.PHONY: test-sanitizer
test-sanitizer:
	@tests/needs root cargo gcc ip iptables nft valgrind
	tests/untouched tests/sanitizer

check: fmt clippy shellcheck deny test

fmt:
	@tests/needs cargo
	$(CARGO) fmt --check

clippy:
	@tests/needs cargo gcc
	$(CARGO) clippy --locked --all-targets -- -D warnings
	CARGO=$(CARGO) tests/dead-code

shellcheck:
	@tests/needs shellcheck
	shellcheck -S warning -x -P SCRIPTDIR $(SCRIPTS)

# Licences, duplicates and sources. Advisories are left out: they need the network and change without a change of this
# project.
deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; \
	then $(CARGO) deny --locked check licenses bans sources; \
	else echo "deny: left out, there is no cargo-deny (cargo install --locked cargo-deny)"; fi

# Writes its results, and a plot of them, beside BENCH_RESULTS.
BENCH_RESULTS ?= build/speed
bench: build
	@tests/needs root gcc ip ethtool strace iptables nft jq
	@mkdir -p $(dir $(BENCH_RESULTS)); export VXCSUM_BENCH_RESULTS=$(BENCH_RESULTS).tsv status=0; \
	benches/machine >$$VXCSUM_BENCH_RESULTS; \
	for part in run react rules; do benches/$$part $(BIN) || status=$$?; done; \
	benches/plot $$VXCSUM_BENCH_RESULTS >$(BENCH_RESULTS).svg; exit $$status

# The costs of the cures, as ratios. Builds nothing.
.PHONY: bench-throughput
bench-throughput:
	@tests/needs root ip ethtool nft iperf3 jq
	benches/throughput

# DESTDIR and PREFIX have the usual meaning. The default PREFIX is /usr, as in the packages. Builds only if there is no
# binary yet, so the package step needs no cargo.
install: install-files
	@test -x $(BIN) || $(MAKE) build
	install -D -m 755 $(BIN) $(DESTDIR)$(SBINDIR)/vxcsum

# In booted machines, with the built package. Takes some minutes, and once more time for two kernels and a root. Each of
# these can run alone.
.PHONY: test-vm
test-vm: build deb
	tests/vm/prepare
	tests/vm/smoke
	tests/vm/matrix
	tests/vm/units
	tests/vm/privileges
	tests/vm/geneve
	tests/vm/original-report
	tests/vm/lifecycle
	tests/vm/bullseye
	tests/vm/prefix
	tests/vm/export
	tests/vm/container

# The selftests of docs/upstream, in guests with the kernel as it is and with the candidate fixes. Takes a quarter of an
# hour, and its result is for kernel developers, so `.ci/run` leaves it out.
.PHONY: test-vm-upstream
test-vm-upstream:
	tests/vm/prepare
	tests/vm/upstream

# All tests in guests, also the orders of events with each kind of rules and packets that are segmented twice, for which
# `.ci/run` has no time.
.PHONY: test-vm-all
test-vm-all: test-vm test-vm-upstream
	tests/vm/orders all
	tests/vm/gso

# deb, rpm, check-packages, install-files, uninstall.
include packaging/package.mk

# The container image as an archive for skopeo, podman and `ctr images import`.
.PHONY: image
image: build
	@tests/needs buildah jq
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) deploy/image/build $(BIN) build/vxcsum-image.tar

# Validates the JSON of every verb, and policies, with the JSON Schemas.
.PHONY: check-json
check-json: build
	@tests/needs root ip jq python3 setpriv
	tests/json-schemas $(BIN)

# Manifests, alerts, metrics and the image, each checked by the program that reads it.
.PHONY: check-deploy
check-deploy: build check-json
	@tests/needs root ip ethtool jq buildah prometheus prometheus-node-exporter python3 nft ansible-playbook
	tests/deploy $(BIN)
	tests/monitoring $(BIN)
	tests/image $(BIN)
	tests/container $(BIN)
	tests/export $(BIN)

clean:
	$(CARGO) clean
