#!/usr/bin/env bash
# Fails where some of the workspace's members, built by themselves, would have a dependency with other features than all of them
# together: cargo would build it twice.
set -euo pipefail
cd "$(dirname "$0")/.."

built_with() {
    cargo tree --locked --prefix none --no-dedupe --format '{p} {f}' "$@" |
        sed -e 's/ (\*)//' -e 's/ (proc-macro)//' -e '/^firstcome-/d' | sort -u
}

all=$(built_with --workspace --edges normal,build,dev)
for also in "" "baselines bench" chaos; do
    packages=()
    for member in api reconciler load demo drift stack $also; do packages+=(-p "firstcome-$member"); done
    other=$(comm -13 <(echo "$all") <(built_with "${packages[@]}" --edges normal,build))
    if [ -n "$other" ]; then
        echo "built with other features for ${packages[*]} than for the whole workspace:" >&2
        echo "$other" >&2
        echo "give the missing features to these crates in the workspace's Cargo.toml" >&2
        exit 1
    fi
done
