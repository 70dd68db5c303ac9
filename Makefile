# SPDX-License-Identifier: Apache-2.0 OR MIT
# make demo    from nothing to a table of verdicts
# make check   formatting, clippy and every test that boots nothing: minutes, for each commit
# make test    the whole check, the same on a laptop and in CI
# make test-long  what takes longer: kernels of the laboratory, built and tested (half an hour and more, after make test)
# make bench   speed, side by side with what one would use otherwise: tables of ratios
# make build   target/release/longpin and target/release/longpin-device
# make clean   what cargo built; `target/release/longpin image gc --all` removes the images

# The first cargo that is new enough, wherever it is.
CARGO ?= scripts/cargo

# One profile for everything: what is tested is what is shipped, and nothing is built twice.
PROFILE := --release --locked
LONGPIN := target/release/longpin

.PHONY: all setup build demo check test test-long bench lint clean

all: build

setup:
	@scripts/setup

build: setup
	$(CARGO) build $(PROFILE) --workspace

# What a vendor and a kernel developer ask first: which pins are refused, what is lost, what goes to the disk while the
# device writes, and whether a clone keeps its content.
demo: build
	$(LONGPIN) run longterm-refused lost-update inflight-change reflink-bleed --pin longterm,pin

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- --deny warnings

# All tests but those that boot a guest.
check: lint
	$(CARGO) test $(PROFILE) --workspace --exclude longpin-e2e --no-fail-fast

# The end-to-end tests boot the built program: it must be there before them. A browser opens the report.
test: check build
	@scripts/setup --test
	$(LONGPIN) image build
	$(CARGO) test $(PROFILE) --package longpin-e2e --no-fail-fast

# One at a time: each takes all CPUs.
test-long: build
	$(LONGPIN) image build
	$(CARGO) test $(PROFILE) --package longpin-e2e --no-fail-fast -- --ignored --test-threads=1

# Disk against qemu-storage-daemon, DMA engine against memcpy, what the audit's looks cost. Best on an idle machine.
bench: build
	$(LONGPIN) image build
	$(CARGO) bench --locked --package longpin-e2e --bench disk --bench mirror
	$(CARGO) bench --locked --package longpin-device --bench dma --bench audit

clean:
	$(CARGO) clean
