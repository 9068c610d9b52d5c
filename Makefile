# Settings follow the target and reach the programs through the environment: make demo PEOPLE=50000
# `cargo xtask help` lists all other tasks. dev/setup.sh installs Rust and a C compiler if they are missing. dev/start.sh also says what is
# installed and how long the job takes.

xtask := @dev/setup.sh && exec cargo xtask
.PHONY: help demo run test lint faults chaos bench release

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16
demo: ; @exec dev/start.sh demo ## The main job on real servers: a rush, faults, and the proof (QUANTITY=100 PEOPLE=10000)
run: ; @exec dev/start.sh run ## The whole system until Ctrl-C, with commands to try (PROFILE=release for a fast one)
test: ; @exec dev/start.sh test $(ARGS) ## The tests of every change, on real servers
lint: ; $(xtask) lint ## Formatting, clippy, documentation, licences, deployment files
faults: ; $(xtask) faults ## The other tests, of a release: single faults of every process and server, a browser, many rows
chaos: ; $(xtask) chaos ## Seeded fault schedules, each judged (SEEDS=20 FIRST=1 WORKERS=2 FAULT=clock; REPLAY=seed or file)
bench: ; $(xtask) bench $(ARGS) ## Firstcome beside other designs (REQUESTS=100000 QUANTITY=100 CONNECTIONS=64; ARGS=--quick)
release: ; @dev/setup.sh && exec dev/release.sh ## Build the release files: programs in an archive, bills of materials, licences, checksums (IMAGE=1: an image too)
