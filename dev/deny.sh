#!/usr/bin/env bash
# cargo-deny over deny.toml. It is built once, into the cache folder, in under a minute: unoptimised, it is fast enough.
# Known holes (advisories) are looked for where this machine has RustSec's advisory-db: ADVISORY_DB, or where `cargo deny fetch` puts it. It is in no
# package registry, so nothing fetches it here.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
root=$cache/cargo-deny-$version

if [ ! -x "$root/bin/cargo-deny" ]; then
    echo "[lint] building cargo-deny $version into $cache" >&2
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
    # It is not ours to check as it is built (.ci/run).
    env -u RUSTC_WORKSPACE_WRAPPER CARGO_TARGET_DIR="$build" cargo install --quiet --locked --debug --config 'profile.dev.debug=false' --no-track \
        --root "$build/root" --version "$version" cargo-deny
    mkdir -p "$root/bin"
    # By renaming, so that an interrupted build leaves nothing that looks whole.
    cp "$build/root/bin/cargo-deny" "$root/bin/.part-$$"
    mv "$root/bin/.part-$$" "$root/bin/cargo-deny"
    rm -rf "$build"
fi
deny="$root/bin/cargo-deny"
"$deny" --log-level error --locked check licenses bans sources

# The folder is named after the database's address, as cargo-deny names it.
name=advisory-db-3157b0e258782691
database=${ADVISORY_DB:-${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/$name}
if [ ! -e "$database" ]; then
    echo "[lint] known holes in dependencies: UNCHECKED on $(date -u +%F), since there is no advisory database here (ADVISORY_DB names a clone of advisory-db)" >&2
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone -q "$database" "$folder/$name"
git -C "$folder/$name" fetch -q
{ cat deny.toml; printf '\n[advisories]\ndb-path = "%s"\nmaximum-db-staleness = "P3650D"\n' "$folder"; sed -n '/^# advisories: /s///p' deny.toml; } > "$folder/deny.toml"
"$deny" --offline --log-level error --locked --config "$folder/deny.toml" check advisories
echo "[lint] no unknown hole in dependencies, by the advisories of $(git -C "$folder/$name" log -1 --format=%cs)" >&2
