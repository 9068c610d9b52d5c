#!/usr/bin/env bash
# Upgrades under load: programs of an older commit beside those of now on the same servers. OLD=… names the commit. Beside them, programs of
# now with another admission script.
set -euo pipefail
cd "$(dirname "$0")/.."

# The version before messages with several claims.
old=${OLD:-0eab1da9}
fail() { echo "[upgrade-test] $*" >&2; exit 1; }

commit=$(git rev-parse --verify --quiet "$old^{commit}") ||
    fail "the history has no commit $old; a shallow clone has the newest ones only: git fetch --unshallow"
git merge-base --is-ancestor "$commit" HEAD || fail "nobody upgrades from $old: it is no ancestor of HEAD"
# With what is not committed.
now=$(git stash create)
now=${now:-$(git rev-parse HEAD)}

# Built in the usual folder, where nearly all dependencies are built already, and copied out of it: the last build puts its own there.
target=$PWD/target
unpack() { rm -rf "$2" && mkdir -p "$2" && git archive "$1" | tar -x -C "$2"; }
programs() {
    CARGO_TARGET_DIR=$target cargo build --locked --manifest-path "$1/Cargo.toml" -p firstcome-api -p firstcome-reconciler
    mkdir -p "$2" && cp "$target/debug/firstcome-api" "$target/debug/firstcome-reconciler" "$2"
}

export OLD_PROGRAMS=$target/old/$commit NEXT_PROGRAMS=$target/next/$now
if [ ! -x "$OLD_PROGRAMS/firstcome-reconciler" ]; then
    echo "[upgrade-test] building the programs of $(git log -1 --format='%h, %s' "$commit")" >&2
    unpack "$commit" "$target/old/source"
    programs "$target/old/source" "$OLD_PROGRAMS"
fi
if [ ! -x "$NEXT_PROGRAMS/firstcome-reconciler" ]; then
    echo "[upgrade-test] building the programs of now with another admission script" >&2
    unpack "$now" "$target/next/source"
    echo "-- The script of another release." >> "$target/next/source/shared/src/redis/scripts/claim.lua"
    programs "$target/next/source" "$NEXT_PROGRAMS"
fi
echo "[upgrade-test] building the programs of now" >&2
cargo build --workspace --all-targets --locked
target/debug/firstcome-stack setup
exec dev/test.sh upgrade
