# Everything there is to do here, a word each; `make help` lists them. Settings go behind the word: make demo PEOPLE=50000

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: attack compose-test upgrade-test help demo run rush drift fuzz mysql bench flame picture pictures api-docs test faults scale crashes chaos soak lint setup valkey-test

# What is set behind the word, or in the environment, reaches the programs by itself; the defaults are theirs.

# Quick to build, slow to run: for what is fast, see `make bench`, or say PROFILE=release.
PROFILE ?= dev
programs := target/$(subst dev,debug,$(PROFILE))
# One selection of packages for all, so that nothing is built twice with other features (dev/features.sh).
system := --locked -p firstcome-api -p firstcome-reconciler -p firstcome-load -p firstcome-demo -p firstcome-drift -p firstcome-stack
# Cargo prints only what goes wrong.
build := echo "[firstcome] building the programs ($(PROFILE)); the first time takes minutes" >&2; cargo build --quiet --profile $(PROFILE) $(system)

running := test -f target/run/env || { echo "nothing runs: start make run in another terminal" >&2; exit 1; }; \
	set -a; . target/run/env; set +a

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Everything that building and running needs, fetched once
	@dev/setup.sh
	@$(build)
	@$(programs)/firstcome-stack setup

demo: ## The main job on real servers: a rush, faults, and the proof (QUANTITY=100 PEOPLE=10000)
	@dev/setup.sh
	@$(build)
	@exec $(programs)/firstcome-demo

run: ## The whole system, left running until Ctrl-C, with commands to try (PROFILE=release for a fast one, WATCH=1 with Prometheus)
	@dev/setup.sh
	@$(build)
	@exec $(programs)/firstcome-run

rush: ## A crowd against a running `make run` (PEOPLE=10000, COUPON=… or a new one of QUANTITY=100; ARGS="--rate 5000")
	@$(running); API_URL=$$API_URLS exec $$PROGRAMS/rush --json target/rush/report.json $(ARGS)

drift: ## Something goes wrong in a running `make run` (KIND=unissued COUNT=1 COUPON=the newest with rows; KIND=? lists the kinds)
	@if [ "$${KIND:-}" = "?" ]; then PROGRAMS=$(programs); else $(running); fi; exec $$PROGRAMS/firstcome-drift

mysql: ## MySQL's client in a running `make run` (SQL="SELECT …" runs that only)
	@$(running); exec $$PROGRAMS/firstcome-stack mysql

flame: ## Where the API's time goes: flame graphs in target/flame (perf and inferno)
	@dev/setup.sh
	@cargo build --release $(system) -p firstcome-baselines -p firstcome-bench
	@exec dev/flame.sh

picture: ## The README's picture and table, out of the last `make bench`
	@target/release/firstcome-baselines picture

pictures: ## The coupon page, the operations page and mails in every state, in target/pictures, by a real browser; then those of docs
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@PICTURES=$(CURDIR)/target/pictures cargo test --workspace --locked --test it pages::
	@cd target/pictures; for pair in issued:coupon-page-issued scheduled-korean-phone:coupon-page-korean \
		waiting-dark:coupon-page-waiting ops-all-well:operations-page ops-alert-dark-phone:operations-page-alert \
		mail-action-needed:mail-action-needed mail-repaired:mail-repaired scene-drop:operations-drop \
		scene-pass:operations-pass scene-dead-letters:operations-dead-letters scene-person:operations-person; do \
		cp "$${pair%:*}.png" "$(CURDIR)/docs/pictures/$${pair#*:}.png"; done

api-docs: ## docs/API.md, made anew from what both services say of their routes
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@UPDATE_DOCS=1 cargo test --workspace --locked --test it api_docs::

bench: ## Firstcome beside other designs and its own ceilings (REQUESTS=100000 QUANTITY=100 CONNECTIONS=64; ARGS=--quick)
	@dev/setup.sh
	@echo "[firstcome] building the programs (release)" >&2
	@cargo build --release $(system) -p firstcome-baselines -p firstcome-bench
	@target/release/firstcome-bench all $(ARGS)

test: ## The tests of every change, on real servers; set-up included
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@dev/test.sh

valkey-test: ## The tests of every change on Valkey instead of Redis, fetched from Debian's backports
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@dev/valkey-test.sh

faults: ## The other tests: single faults of processes, servers, hosts, disks and clocks, one after the other (of a release)
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@dev/test.sh faults

# The targets are those of a release build, so that is what it builds unless PROFILE is set.
scale: ## What must hold at any size, measured at full size, with targets (WHAT=words of tests' names; PROFILE=dev; ROWS=50000000)
	@dev/setup.sh
	@profile=$${PROFILE:-release}; cargo build --profile $$profile --workspace --all-targets --locked; \
		target/$${profile/dev/debug}/firstcome-stack setup
	@dev/scale.sh

attack: ## schemathesis against both services, with all its checks (CASES=2000 an operation, SEED=1)
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@CASES=$${CASES:-2000} dev/attack.sh

fuzz: ## Properties of what comes from outside and of the plan, with other random inputs each time (MINUTES=10 CASES=5000; of a release)
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@dev/fuzz.sh

crashes: ## Every crash point, again and again, on real servers, with a table (CYCLES=100: half an hour)
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@target/debug/firstcome-stack setup
	@CYCLES=$${CYCLES:-100} cargo test --workspace --locked --test it cycles:: -- --nocapture

chaos: ## Seeded fault schedules on real servers, each judged (SEEDS=20 FIRST=1 WORKERS=2 FAULT=clock CLUSTER=1; REPLAY=seed or file)
	@dev/setup.sh
	@cargo build $(system) -p firstcome-chaos
	@target/debug/firstcome-stack setup
	@target/debug/firstcome-chaos $(if $(REPLAY),replay $(REPLAY),run)

soak: ## Mixed traffic and faults for half an hour; memory, sockets, statements and tables must stay flat (MINUTES=30)
	@dev/setup.sh
	@cargo build $(system) -p firstcome-chaos
	@target/debug/firstcome-stack setup
	@target/debug/firstcome-chaos soak

compose-test: ## docker-compose.yml on a real engine: a rush, kills, down and up again, in release builds; says NOT SHOWN where there is no engine
	@dev/setup.sh
	@dev/auditable.sh --release $(subst --locked ,,$(system))
	@target/release/firstcome-stack setup
	@dev/compose-test/run.sh target/release

upgrade-test: ## Old and new programs side by side under load, in both orders (OLD=a commit or tag)
	@dev/setup.sh
	@dev/upgrade-test.sh

lint: ## Formatting, clippy, documentation, licences, docker-compose.yml
	@dev/setup.sh
	@dev/lint.sh
