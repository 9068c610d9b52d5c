#!/usr/bin/env bash
# Where the API's time goes, as flame graphs: of sold-out claims, and of winners (a drop that lasts).
# Installs perf (Debian) and inferno (crates) where they are missing; writes target/flame/*.svg.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "[flame] $*" >&2; }
out=target/flame
mkdir -p "$out"

if ! command -v perf >/dev/null 2>&1; then
    say "installing linux-perf with apt"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends linux-perf >/dev/null
fi
if [ ! -x target/tools/bin/inferno-flamegraph ]; then
    say "installing inferno from crates into target/tools"
    cargo install --quiet --locked --root target/tools --version 0.12.8 inferno
fi

# NAME PART SECONDS: the API of that part of the bench, from its first claims on.
flame() {
    local name=$1 part=$2 seconds=$3 bench api=
    say "$name: firstcome-bench $part, $seconds s of its API"
    target/release/firstcome-bench "$part" --out "$out/$part" >"$out/$part.log" 2>&1 &
    bench=$!
    until api=$(pgrep -P "$bench" -f 'firstcome-api serve'); do
        kill -0 "$bench" 2>/dev/null || { say "the bench ended early: see $out/$part.log"; exit 1; }
        sleep 0.05
    done
    perf record -q -F 499 --call-graph dwarf,16384 -p "${api%%$'\n'*}" -o "$out/$name.data" -- sleep "$seconds"
    kill "$bench" 2>/dev/null || true
    wait "$bench" 2>/dev/null || true
    perf script -i "$out/$name.data" 2>/dev/null |
        target/tools/bin/inferno-collapse-perf --skip-after 'tokio::runtime::task::raw::poll' 2>/dev/null |
        grep '^tokio-rt-worker' >"$out/$name.folded"
    target/tools/bin/inferno-flamegraph --title "API, $name" --minwidth 0.2 "$out/$name.folded" >"$out/$name.svg"
    rm "$out/$name.data"
    say "$out/$name.svg"
}

flame sold_out ceilings 6
flame winners claims 8
