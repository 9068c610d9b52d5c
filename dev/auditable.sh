#!/usr/bin/env bash
# Runs `cargo build` with these arguments through cargo-auditable: each program then contains the
# list of its dependencies, for image scanners and `cargo audit bin`. dev/image.sh exports it as
# CycloneDX (SBOM). The tools are built once, into the cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."

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
[ $# -gt 0 ] || exit 0

# The release's programs do not depend on the machine's OpenSSL, zstd and libcurl: in another folder, cargo does not
# read .cargo/config.toml, which asks for the first two (as dev/Dockerfile does). rustup does not read rust-toolchain.toml there.
export LIBCURL_NO_PKG_CONFIG=1
workspace=$PWD
RUSTUP_TOOLCHAIN=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export RUSTUP_TOOLCHAIN CARGO_TARGET_DIR
cd /
PATH=$root/bin:$PATH cargo auditable build --locked --manifest-path "$workspace/Cargo.toml" "$@"
