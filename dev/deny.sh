#!/usr/bin/env bash
# cargo-deny over deny.toml. It is built once, into the cache folder, in under a minute: unoptimised, it is fast enough.
# Advisories are left out: their database is not in a package registry.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
root=$cache/cargo-deny-$version

if [ ! -x "$root/bin/cargo-deny" ]; then
    echo "[lint] building cargo-deny $version into $cache" >&2
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
    CARGO_TARGET_DIR=$build cargo install --quiet --locked --debug --config 'profile.dev.debug=false' --no-track \
        --root "$build/root" --version "$version" cargo-deny
    mkdir -p "$root/bin"
    # By renaming, so that an interrupted build leaves nothing that looks whole.
    cp "$build/root/bin/cargo-deny" "$root/bin/.part-$$"
    mv "$root/bin/.part-$$" "$root/bin/cargo-deny"
    rm -rf "$build"
fi
exec "$root/bin/cargo-deny" --log-level error --locked check licenses bans sources
