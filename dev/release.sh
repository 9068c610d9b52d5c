#!/usr/bin/env bash
# Builds the files of a release for this processor in target/release-VERSION: an archive with both
# programs, linked statically so that they run on any Linux, and their systemd units; bills of
# materials, the licences of dependencies and checksums; with IMAGE=1 also an image. Nothing is
# published. Needs rustup, because only it has the standard library for musl.
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
processor=$(uname -m)
musl=$processor-unknown-linux-musl
case $processor in
    x86_64) platform=amd64 ;;
    aarch64) platform=arm64 ;;
    *) echo "[release] no release for $processor" >&2 && exit 1 ;;
esac
command -v musl-gcc >/dev/null || { echo "[release] musl-gcc is missing: apt-get install musl-tools" >&2 && exit 1; }
rustup target add "$musl"
# librdkafka also compiles its C++ interface, which nothing links, and Debian has no C++ compiler for
# musl: that of the machine does.
export "CXX_${musl//-/_}=g++"
rm -rf "$into"
mkdir -p "$into"

# Keeps folder names of this machine out of the programs.
mapped() { echo "$1=$cargo_home=/cargo $1=$PWD=/firstcome"; }
env -u CARGO_ENCODED_RUSTFLAGS CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS="$(mapped --remap-path-prefix)" \
    CFLAGS="$(mapped -ffile-prefix-map)" dev/auditable.sh --release --target "$musl" "${programs[@]/#/-p}"
built=$target/$musl/release
for program in "${programs[@]}"; do
    # It needs no library of the machine, and runs.
    { ldd "$built/$program" 2>&1 || true; } | grep -qE 'statically linked|not a dynamic executable'
    "$built/$program" --version
    "$cache/auditable-1/bin/auditable2cdx" "$built/$program" >"$into/$program-$platform.cdx.json"
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
    done >"$into/LICENCES-OF-DEPENDENCIES"

# The archive is the same for the same commit: its times are those of the commit.
name=firstcome-$version-linux-$platform
folder=$target/$name
rm -rf "$folder"
mkdir -p "$folder"
cp "${programs[@]/#/$built/}" "$into/LICENCES-OF-DEPENDENCIES" LICENSE README.md README.ko.md CHANGELOG.md CONTRIBUTING.md SECURITY.md "$folder"
cp -r docs deploy "$folder"
rm -r "$folder/deploy/compose" "$folder/deploy/helm"
tar --create --gzip --file "$into/$name.tar.gz" --directory "$target" --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime="@$(git log -1 --format=%ct)" "$name"
rm -r "$folder"

if [ "${IMAGE:-0}" != 0 ]; then
    # Its archive has attestations only if buildx's builder is a container (docker buildx create
    # --use).
    docker buildx build --sbom=true --provenance=mode=max --tag "firstcome:$version" --output "type=oci,dest=$into/firstcome-$version-image.tar" \
        --file dev/Dockerfile .
fi
(cd "$into" && sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
echo "$into"
