#!/usr/bin/env bash
# schemathesis against both services, on real servers. Fetches it once, into the cache folder, and does no more than that with `fetch`.
# CASES=50 cases an operation, SEED=1, ONLY=tokens the sets with that in their names; a release has CASES=2000 (`make attack`).
set -euo pipefail
cd "$(dirname "$0")/.."

version=4.32.5
cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
root=$cache/schemathesis-$version

if [ ! -e "$root/whole" ]; then
    if ! python3 -c 'import venv, ensurepip' >/dev/null 2>&1; then
        [ "$(id -u)" -eq 0 ] || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
        apt-get -qq -o DPkg::Lock::Timeout=300 update && DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends python3-venv >/dev/null
    fi
    echo "[attack] fetching schemathesis $version into $cache" >&2
    # Whole only when its last file is there; the programs of a virtual environment name its folder, so it can't be moved.
    rm -rf "$root"
    python3 -m venv "$root"
    "$root/bin/pip" -q install "schemathesis==$version"
    touch "$root/whole"
fi
[ "${1:-}" != fetch ] || exit 0
export SCHEMATHESIS=$root/bin/schemathesis
exec cargo test --workspace --locked --test it -- attack:: --nocapture
