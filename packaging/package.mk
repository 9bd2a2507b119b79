# Packages: `make deb`, `make rpm`, `make install-files`, `make check-packages`. Included by the Makefile.
#
# Both packages hold the statically linked binary of `make build`. Two builds of one commit are identical, byte for
# byte, wherever the checkout and the home of cargo are: times come from the commit, and paths are mapped away.

PACKAGE_OUT       ?= build/packages
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
CARGO_HOME_DIR     = $(or $(CARGO_HOME),$(HOME)/.cargo)
PACKAGE_FLAGS      = -C target-feature=+crt-static \
	--remap-path-prefix=$(CURDIR)=/vxcsum --remap-path-prefix=$(CARGO_HOME_DIR)=/cargo
# Not the directory of `make build`: with different flags, each build would rebuild everything after the other.
PACKAGE_TARGET     = $(TARGET_DIR)/package-build
PACKAGE_BIN        = $(PACKAGE_TARGET)/$(TARGET)/release/vxcsum
PACKAGE_TOOLS      = cargo-deb cargo-generate-rpm

.PHONY: package-tools package-binary deb rpm check-packages check-units check-reproducible install-files

# Not part of a distribution. Each takes some minutes to build, once.
package-tools:
	@for tool in $(PACKAGE_TOOLS); do \
		command -v $$tool >/dev/null || $(CARGO) install --locked --target-dir $(TARGET_DIR)/tools $$tool || exit; \
	done

package-binary:
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) RUSTFLAGS="$(PACKAGE_FLAGS)" \
		$(CARGO) build --locked --release --target $(TARGET) --target-dir $(PACKAGE_TARGET)
	CARGO="$(CARGO)" packaging/third-party $(TARGET) > $(dir $(PACKAGE_BIN))THIRD-PARTY
	gzip -9nc CHANGELOG.md > $(dir $(PACKAGE_BIN))changelog.gz

deb: package-binary package-tools
	mkdir -p $(PACKAGE_OUT)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) CARGO_TARGET_DIR=$(PACKAGE_TARGET) \
		$(CARGO) deb --quiet --no-build --locked --target $(TARGET) --output $(PACKAGE_OUT)/

# From a copy whose files all have the time of the commit, because cargo-generate-rpm only changes newer times. xz,
# because rpm on RHEL 7 does not know zstd.
rpm: package-binary package-tools
	mkdir -p $(PACKAGE_OUT)
	rm -rf $(PACKAGE_TARGET)/rpm
	mkdir -p $(PACKAGE_TARGET)/rpm/target/release $(PACKAGE_TARGET)/rpm/target/package $(PACKAGE_TARGET)/rpm/src
	cp -R Cargo.toml README.md docs systemd packaging $(PACKAGE_TARGET)/rpm/
	cp src/main.rs src/lib.rs $(PACKAGE_TARGET)/rpm/src/
	cp $(PACKAGE_BIN) $(addprefix $(dir $(PACKAGE_BIN)),THIRD-PARTY changelog.gz) $(PACKAGE_TARGET)/rpm/target/release/
	for page in vxcsum.8 vxcsum-policy.5; do gzip -9nc docs/man/$$page > $(PACKAGE_TARGET)/rpm/target/package/$$page.gz; done
	find $(PACKAGE_TARGET)/rpm -exec touch -h -d @$(SOURCE_DATE_EPOCH) {} +
	out=$$(realpath $(PACKAGE_OUT)) && cd $(PACKAGE_TARGET)/rpm && env -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET \
		SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(CARGO) generate-rpm --payload-compress xz --output $$out/

# All that is published of a version, in one archive.
RELEASE_OUT ?= build/release
.PHONY: release check-release
release: deb rpm
	@tests/needs buildah jq
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) CARGO="$(CARGO)" packaging/release $(RELEASE_OUT) $(PACKAGE_BIN) \
		$(PACKAGE_OUT)/vxcsum_*.deb $(PACKAGE_OUT)/vxcsum-*.rpm

check-release: release
	packaging/check-release $(RELEASE_OUT)/vxcsum-*.tar.gz

check-units:
	packaging/check-units

check-packages: deb rpm check-units
	packaging/check-packages $(PACKAGE_OUT)

check-reproducible:
	packaging/check-reproducible

# systemd and udev read these directories below /usr and /usr/local. With another PREFIX (a read-only /usr:
# PREFIX=/opt/vxcsum) their files go to /etc, and the built-in policy, which is the same, replaces the default policy
# file.
SYSTEM_LIBDIR  = $(if $(filter /usr /usr/local,$(PREFIX)),$(LIBDIR),/etc)
UNITDIR       ?= $(SYSTEM_LIBDIR)/systemd/system
PRESETDIR     ?= $(SYSTEM_LIBDIR)/systemd/system-preset
RULESDIR      ?= $(SYSTEM_LIBDIR)/udev/rules.d
TMPFILESDIR   ?= $(SYSTEM_LIBDIR)/tmpfiles.d
POLICYDIR     ?= $(if $(filter /usr /usr/local,$(PREFIX)),$(LIBDIR)/vxcsum)
CATALOGDIR    ?= $(LIBDIR)/systemd/catalog
COMPLETIONS    = $(PREFIX)/share/bash-completion/completions/vxcsum $(PREFIX)/share/zsh/site-functions/_vxcsum \
	$(PREFIX)/share/fish/vendor_completions.d/vxcsum.fish
UNITS          = $(notdir $(wildcard systemd/*.service systemd/*.timer systemd/*.path))

# Everything except the binary, for packagers with their own tools. DESTDIR and PREFIX as in `install`. The units name
# the binary.
install-files:
	install -d $(DESTDIR)$(UNITDIR)
	for unit in $(UNITS); do \
		sed 's|/usr/sbin/vxcsum|$(SBINDIR)/vxcsum|' "systemd/$$unit" > "$(DESTDIR)$(UNITDIR)/$$unit" && \
			chmod 644 "$(DESTDIR)$(UNITDIR)/$$unit" || exit; \
	done
	install -D -m 644 -t $(DESTDIR)$(RULESDIR) systemd/90-vxcsum.rules
	install -D -m 644 -t $(DESTDIR)$(PRESETDIR) systemd/90-vxcsum.preset
	install -D -m 644 -t $(DESTDIR)$(CATALOGDIR) systemd/vxcsum.catalog
	install -D -m 644 systemd/vxcsum.tmpfiles $(DESTDIR)$(TMPFILESDIR)/vxcsum.conf
	$(if $(POLICYDIR),install -D -m 644 -t $(DESTDIR)$(POLICYDIR) packaging/policy.toml)
	install -D -m 644 packaging/etc/README $(DESTDIR)/etc/vxcsum/policy.d/README
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/vxcsum packaging/schema/*.schema.json
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 docs/man/vxcsum.8
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man5 docs/man/vxcsum-policy.5
	for file in $(COMPLETIONS); do \
		install -D -m 644 "packaging/completions/$${file##*/}$$([ "$${file##*/}" != vxcsum ] || echo .bash)" "$(DESTDIR)$$file" || exit; \
	done
	install -d $(DESTDIR)$(DOCDIR)
	install -m 644 README.md CHANGELOG.md LICENSE LICENSE-MIT LICENSE-APACHE $(DESTDIR)$(DOCDIR)
	install -D -m 644 -t $(DESTDIR)$(DOCDIR)/docs docs/*.md docs/packet-path.svg
	install -D -m 644 -t $(DESTDIR)$(DOCDIR)/docs/evidence docs/evidence/*

# Removes the files of `install` with the same DESTDIR and PREFIX. The policy of the machine stays. Run `vxcsum revert`
# first to turn the offload on again.
.PHONY: uninstall
uninstall:
	rm -f $(DESTDIR)$(SBINDIR)/vxcsum $(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS)) $(DESTDIR)$(RULESDIR)/90-vxcsum.rules \
		$(DESTDIR)$(PRESETDIR)/90-vxcsum.preset $(DESTDIR)$(CATALOGDIR)/vxcsum.catalog $(DESTDIR)$(TMPFILESDIR)/vxcsum.conf \
		$(if $(POLICYDIR),$(DESTDIR)$(POLICYDIR)/policy.toml) $(DESTDIR)/etc/vxcsum/policy.d/README \
		$(DESTDIR)$(PREFIX)/share/man/man8/vxcsum.8 $(DESTDIR)$(PREFIX)/share/man/man5/vxcsum-policy.5 \
		$(addprefix $(DESTDIR),$(COMPLETIONS))
	rm -rf $(DESTDIR)$(DOCDIR) $(DESTDIR)$(PREFIX)/share/vxcsum
