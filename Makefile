# Keelson. `make` lists what there is to make.

CARGO ?= cargo
NODES ?= 3
STORE ?= embedded
UP ?=
SEED ?= 1
COUNT ?= 300

.PHONY: help setup build up down check docs test e2e bench budget simulation fuzz mutants clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  NODES, STORE (embedded, etcd) and UP (more flags) are passed on by make up: make up NODES=5 UP=--proxy-mode=iptables"

setup: ## install what is needed, on Debian, as root
	@hack/setup.sh

build: ## build the daemons and keelson (release)
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust with rustup (Debian: apt-get install rustup; rustup default stable)"; exit 1; }
	$(CARGO) build --release --workspace --bins --locked

up: setup build ## start a cluster on this machine
	target/release/keelson up --nodes $(NODES) --store $(STORE) $(UP)

down: ## end the cluster and remove everything it made
	@if [ -x target/release/keelson ]; then target/release/keelson down; else echo "keelson is not built, so it has started nothing"; fi

check: ## formatting, lints and the repository's own rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --locked -p keelson-tests --test repository

docs: ## write docs/status.md anew from the lists in the code
	KEELSON_WRITE_DOCS=1 $(CARGO) test --locked -p keelson-tests --test repository the_document_is_what_the_lists_say

test: ## everything that CI runs
	@bash .ci/run

e2e: ## the end-to-end tests alone; E2E=NAME picks some
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --locked -p keelson-tests --test e2e -- $(E2E)

bench: build ## measurements, as one table with their conditions
	$(CARGO) run --release --locked -p keelson-tests --bin bench

budget: ## what one request may cost, counted; CASE=NAME picks some
	$(CARGO) test --locked -p keelson-tests --test budget -- $(CASE)

simulation: ## the controllers on one seeded clock, with all that can go wrong; SEED=1 SEEDS=1000, DIARY=1 for what happened
	SEED=$(SEED) SEEDS=$(or $(SEEDS),1000) $(CARGO) test --workspace --locked --test simulation

fuzz: ## fuzz what reads bytes from outside, one minute each (SECONDS_EACH=1800 for longer)
	hack/fuzz.sh

mutants: ## change places at random and see which tests notice; SEED=1 COUNT=300 (needs cargo-mutants; takes hours)
	hack/mutants.py --seed $(SEED) --count $(COUNT)

clean: ## remove what was built
	$(CARGO) clean
