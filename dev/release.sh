#!/usr/bin/env bash
# Builds the files of a release in target/release-VERSION: a Debian package, bills of materials, the
# licences of dependencies and checksums; with IMAGE=1 also an image. Nothing is published.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "$(git status --porcelain)" ]; then
    echo "[release] a release is built from a commit; commit or remove your changes first" >&2
    exit 1
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
programs=(firstcome-api firstcome-reconciler)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
target=${CARGO_TARGET_DIR:-target}
into=$target/release-$version
rm -rf "$into"
mkdir -p "$into"

# Keeps folder names of this machine out of the programs.
mapped() { echo "$1=$cargo_home=/cargo $1=$PWD=/firstcome"; }
env -u CARGO_ENCODED_RUSTFLAGS CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS="$(mapped --remap-path-prefix)" \
    CFLAGS="$(mapped -ffile-prefix-map)" CXXFLAGS="$(mapped -ffile-prefix-map)" \
    dev/auditable.sh --release "${programs[@]/#/-p}"
for program in "${programs[@]}"; do
    "$cache/auditable-1/bin/auditable2cdx" "$target/release/$program" >"$into/$program.cdx.json"
done

# The licence of each crate in the programs, with its texts. Build dependencies are included,
# because openssl-src has the sources of a library that is linked; sources of C libraries are one or
# two folders deeper.
cargo tree --locked --edges normal,build --prefix none --format '{p}|{l}' "${programs[@]/#/-p}" | sed 's, (\*)$,,; /^$/d' | grep -v "($PWD" | sort -u |
    while IFS='|' read -r crate licence; do
        crate=${crate% (*)}
        printf '%.0s=' {1..80}
        printf '\n%s: %s\n\n' "$crate" "$licence"
        find "$cargo_home"/registry/src/*/"${crate% v*}-${crate#* v}" -maxdepth 3 -type f -regextype posix-extended \
            -iregex '.*/(licen[cs]e|copying|notice|unlicense)[^/]*' -not -regex '.*\.(rs|c|h)' -exec cat {} +
    done >"$target/LICENCES-OF-DEPENDENCIES"
cp "$target/LICENCES-OF-DEPENDENCIES" "$into"

# Packs what api/Cargo.toml lists. Times in the package are those of the commit.
deb=$cache/cargo-deb-3.8.0
[ -x "$deb/bin/cargo-deb" ] || cargo install --quiet --locked --debug --no-track --root "$deb" cargo-deb@3.8.0
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$deb/bin/cargo-deb" --no-build --locked -p firstcome-api --output "$into"

if [ "${IMAGE:-0}" != 0 ]; then
    # Its archive has attestations only if buildx's builder is a container (docker buildx create
    # --use).
    docker buildx build --sbom=true --provenance=mode=max --tag "firstcome:$version" --output "type=oci,dest=$into/firstcome-$version-image.tar" \
        --file dev/Dockerfile .
fi
(cd "$into" && sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
echo "$into"
