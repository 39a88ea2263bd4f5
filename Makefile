# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast test-kernels test-kubernetes soak bench lint regen clean

CARGO ?= cargo
# Flags for the agent: make run ARGS="--config my.toml"
ARGS ?=
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
# For what cargo builds as you and runs as root.
AS_ROOT := $(if $(SUDO),--config 'target."cfg(unix)".runner="sudo -E"')
TARGET := $(or $(CARGO_TARGET_DIR),target)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: ## install what building and testing need (root, or through sudo)
	@tests/setup test

run: ## build the agent and run it on this node, with its store, until Ctrl-C
	@tests/setup build
	$(CARGO) build --release
	@deploy/symbols $(TARGET)/release/bianque >/dev/null
	@echo "page     http://127.0.0.1:9774/    (metrics: /metrics)"
	@echo "store    /var/lib/bianque        socket  /run/bianque/api.sock"
	@echo "look     $(TARGET)/dist/bianque events --follow    (and: incidents, list, doctor)"
	@$(SUDO) $(TARGET)/dist/bianque run $(ARGS)

test: ## all tests: unit, servers, this kernel, VMs (root; about an hour cold)
	@tests/setup test
	@tests/run

test-fast: ## what needs no root and no servers
	@tests/run fast

test-kernels: ## each collector on 5.10, 6.1, 6.12, 6.18 and the newest kernel (an hour; BIANQUE_KERNELS="5.10 6.18")
	@tests/setup test
	@tests/run kernels

test-kubernetes: ## names from a real kubelet and a real API server (builds them: the better part of an hour cold)
	@tests/setup test
	@tests/run kubernetes

soak: ## the tests that watch for half an hour (BIANQUE_SOAK_SECONDS)
	@tests/run soak

bench: ## the benchmarks, each against its bar, a floor or a peer (root; docs/performance.md)
	$(CARGO) bench --bench scrape --bench store --bench workload
	$(CARGO) bench $(AS_ROOT) --bench probes
	$(CARGO) bench $(AS_ROOT) --bench ping_pong -- --check
	$(CARGO) bench $(AS_ROOT) --bench agent_cost -- --check
	$(CARGO) bench $(AS_ROOT) --bench delivery -- --check

lint: ## format, clippy, shell scripts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@# Without the tests: what only they use is dead code.
	$(CARGO) clippy --lib --bins -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck -x -S warning $$(grep -rlE '^#!.*bash' tests .ci deploy); else echo "no shellcheck: scripts not checked"; fi

regen: ## write the generated files again
	BIANQUE_REGEN=1 $(CARGO) test --test generated --test hosts

clean: ## remove what was built here (not the caches of kernels and servers)
	$(CARGO) clean
