# Everything there is to do here, a word each; `make help` lists them. Settings go behind the word: make demo PEOPLE=50000

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo run rush drift bench flame picture test crashes chaos soak lint setup

# What is set behind the word, or in the environment, reaches the programs by itself; the defaults are theirs.

release := cargo build --release --locked -p firstcome-api -p firstcome-reconciler -p firstcome-rush

running := test -f target/run/env || { echo "nothing runs: start make run in another terminal" >&2; exit 1; }; \
	set -a; . target/run/env; set +a

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Everything that building and running needs, fetched once
	@dev/setup.sh
	@cargo run --quiet --release --locked -p firstcome-stack -- setup

demo: ## The main job on real servers: a rush, trouble, and the proof (QUANTITY=100 PEOPLE=10000)
	@dev/setup.sh
	@echo "[firstcome] building the release binaries" >&2
	@$(release)
	@exec target/release/firstcome-demo

run: ## The whole system, left running until Ctrl-C, with commands to try
	@dev/setup.sh
	@echo "[firstcome] building the release binaries" >&2
	@$(release)
	@exec target/release/firstcome-run

rush: ## A crowd against a running `make run` (PEOPLE=10000, COUPON=… or a new one of QUANTITY=100; ARGS="--rate 5000")
	@$(running); API_URL=$$API_URLS exec target/release/rush --json target/rush/report.json --html target/rush/report.html $(ARGS)

drift: ## Something goes wrong in a running `make run` (KIND=unissued COUNT=1; KIND=? lists the kinds)
	@$(running); cargo build --quiet --release --locked -p firstcome-drift; exec target/release/firstcome-drift

flame: ## Where the API's time goes: flame graphs in target/flame (perf and inferno)
	@dev/setup.sh
	@$(release)
	@exec dev/flame.sh

picture: ## The README's picture and table, out of the last `make bench`
	@target/release/firstcome-bench picture

bench: ## Firstcome beside other designs and its own ceilings (REQUESTS=100000 QUANTITY=100 CONNECTIONS=64; ARGS=--quick)
	@dev/setup.sh
	@echo "[firstcome] building the release binaries" >&2
	@$(release) -p firstcome-bench
	@target/release/firstcome-bench all $(ARGS)

test: ## Every test, on real servers; set-up included
	@dev/setup.sh
	@cargo build --workspace --all-targets --locked
	@cargo run --quiet --locked -p firstcome-stack -- setup
	@dev/test.sh

crashes: ## Every crash point, again and again, on real servers, with a table (CYCLES=100: half an hour)
	@dev/setup.sh
	@cargo build --locked -p firstcome-api -p firstcome-reconciler
	@cargo run --quiet --locked -p firstcome-stack -- setup
	@CYCLES=$${CYCLES:-100} cargo test --locked -p firstcome-system-tests --test it cycles:: -- --nocapture

chaos: ## Seeded fault schedules on real servers, each judged (SEEDS=20 FIRST=1 WORKERS=2 FAULT=clock; REPLAY=seed or file)
	@dev/setup.sh clocks
	@cargo build --locked -p firstcome-api -p firstcome-reconciler -p firstcome-chaos
	@cargo run --quiet --locked -p firstcome-stack -- setup
	@target/debug/firstcome-chaos $(if $(REPLAY),replay $(REPLAY),run)

soak: ## Mixed traffic and faults for half an hour; memory, sockets, statements and tables must stay flat (MINUTES=30)
	@dev/setup.sh
	@cargo build --locked -p firstcome-api -p firstcome-reconciler -p firstcome-chaos
	@cargo run --quiet --locked -p firstcome-stack -- setup
	@target/debug/firstcome-chaos soak

lint: ## Formatting, clippy, documentation, licences, docker-compose.yml
	@dev/setup.sh
	@dev/lint.sh
