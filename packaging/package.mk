# Packages: `make deb`, `make rpm`, `make install-files`, `make check-packages`. Included by the Makefile.
#
# Both packages hold the binary of `make build`, linked statically. Built twice from one commit they are the same, byte for
# byte, wherever the checkout and cargo's home are: times come from the commit, paths are mapped away.

PACKAGE_OUT       ?= build/packages
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
CARGO_HOME_DIR     = $(or $(CARGO_HOME),$(HOME)/.cargo)
PACKAGE_FLAGS      = -C target-feature=+crt-static \
	--remap-path-prefix=$(CURDIR)=/vxcsum --remap-path-prefix=$(CARGO_HOME_DIR)=/cargo
# Not the directory of `make build`: other flags would build everything anew each time one follows the other.
PACKAGE_TARGET     = $(TARGET_DIR)/package-build
PACKAGE_BIN        = $(PACKAGE_TARGET)/$(TARGET)/release/vxcsum
PACKAGE_TOOLS      = cargo-deb cargo-generate-rpm

.PHONY: package-tools package-binary deb rpm check-packages check-units check-reproducible install-files

# Not part of a distribution; each takes some minutes to build, once.
package-tools:
	@for tool in $(PACKAGE_TOOLS); do \
		command -v $$tool >/dev/null || $(CARGO) install --locked --target-dir $(TARGET_DIR)/tools $$tool || exit; \
	done

package-binary:
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) RUSTFLAGS="$(PACKAGE_FLAGS)" \
		$(CARGO) build --locked --release --target $(TARGET) --target-dir $(PACKAGE_TARGET)

deb: package-binary package-tools
	mkdir -p $(PACKAGE_OUT)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) CARGO_TARGET_DIR=$(PACKAGE_TARGET) \
		$(CARGO) deb --quiet --no-build --locked --target $(TARGET) --output $(PACKAGE_OUT)/

# From a copy, all of whose files are of the commit's time: cargo-generate-rpm only takes newer times back to it.
# xz: rpm on RHEL 7 knows no zstd.
rpm: package-binary package-tools
	mkdir -p $(PACKAGE_OUT)
	rm -rf $(PACKAGE_TARGET)/rpm
	mkdir -p $(PACKAGE_TARGET)/rpm/target/release $(PACKAGE_TARGET)/rpm/target/package $(PACKAGE_TARGET)/rpm/src
	cp -R Cargo.toml systemd packaging $(PACKAGE_TARGET)/rpm/
	cp src/main.rs src/lib.rs $(PACKAGE_TARGET)/rpm/src/
	cp $(PACKAGE_BIN) $(PACKAGE_TARGET)/rpm/target/release/
	for page in vxcsum.8 vxcsum-policy.5; do gzip -9nc docs/man/$$page > $(PACKAGE_TARGET)/rpm/target/package/$$page.gz; done
	find $(PACKAGE_TARGET)/rpm -exec touch -h -d @$(SOURCE_DATE_EPOCH) {} +
	out=$$(realpath $(PACKAGE_OUT)) && cd $(PACKAGE_TARGET)/rpm && env -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET \
		SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(CARGO) generate-rpm --payload-compress xz --output $$out/

check-units:
	packaging/check-units

check-packages: deb rpm check-units
	packaging/check-packages $(PACKAGE_OUT)

check-reproducible:
	packaging/check-reproducible

# Everything but the binary, for packagers with tools of their own. DESTDIR and PREFIX as in `install`.
install-files:
	install -D -m 644 -t $(DESTDIR)$(LIBDIR)/systemd/system systemd/*.service systemd/*.timer
	install -D -m 644 -t $(DESTDIR)$(LIBDIR)/udev/rules.d systemd/90-vxcsum.rules
	install -D -m 644 -t $(DESTDIR)$(LIBDIR)/systemd/system-preset systemd/90-vxcsum.preset
	install -D -m 644 -t $(DESTDIR)$(LIBDIR)/systemd/catalog systemd/vxcsum.catalog
	install -D -m 644 systemd/vxcsum.tmpfiles $(DESTDIR)$(LIBDIR)/tmpfiles.d/vxcsum.conf
	install -D -m 644 packaging/etc/README $(DESTDIR)/etc/vxcsum/policy.d/README
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/vxcsum packaging/schema/*.schema.json
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 docs/man/vxcsum.8
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man5 docs/man/vxcsum-policy.5
	install -D -m 644 packaging/completions/vxcsum.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vxcsum
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/site-functions packaging/completions/_vxcsum
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d packaging/completions/vxcsum.fish
