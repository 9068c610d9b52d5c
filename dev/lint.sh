#!/usr/bin/env bash
# Everything that can be said about the code without running it, cheapest first.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { echo "[lint] $*" >&2; }

step "formatting"
cargo fmt --all --check

step "shell scripts"
for script in .ci/run dev/*.sh; do
    bash -n "$script"
done

step "docker-compose.yml"
dev/check-compose.sh

step "dependencies: licences, bans, sources"
dev/deny.sh

step "features: nothing is built twice"
dev/features.sh

step "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
