#!/usr/bin/env bash
# Runs `cargo build` with these arguments through cargo-auditable: each program then contains the
# list of its dependencies, for image scanners and `cargo audit bin`. dev/image.sh exports it as
# CycloneDX (SBOM). The tools are built once, into the cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."

# Shipped programs do not depend on the machine's OpenSSL (.cargo/config.toml).
export OPENSSL_NO_VENDOR=0

cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
root=$cache/auditable-1

if [ ! -e "$root/whole" ]; then
    echo "[auditable] building cargo-auditable and auditable2cdx into $cache" >&2
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
    rm -rf "$root"
    for tool in cargo-auditable@0.7.7 auditable2cdx@0.1.0; do
        env -u RUSTC_WORKSPACE_WRAPPER CARGO_TARGET_DIR="$build" cargo install --quiet --locked --debug --config 'profile.dev.debug=false' --no-track \
            --root "$root" "$tool"
    done
    touch "$root/whole"
fi
[ $# -eq 0 ] || PATH=$root/bin:$PATH cargo auditable build --locked "$@"
