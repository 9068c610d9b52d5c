#!/usr/bin/env bash
# Checks the build requirements and installs missing ones if permitted. Reports its steps; silent if
# nothing is missing. With `--missing` it only prints what it would install. `cargo xtask setup`
# fetches the servers (Redis, MySQL, Kafka).
set -euo pipefail
cd "$(dirname "$0")/.."

need_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

have() { command -v "$1" >/dev/null 2>&1; }
say() { echo "[setup] $*" >&2; }
fail() { say "$*"; exit 1; }

install() {
    if ! have apt-get; then
        fail "missing: $*. This machine has no apt: install them manually"
    elif [ "$(id -u)" -ne 0 ]; then
        fail "missing: $*. Run as root: apt-get install $*"
    fi
    say "installing $* with apt"
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >/dev/null
}

# A C compiler, make, cmake and headers of OpenSSL, libcurl and zstd: librdkafka, zlib and ring are
# built from source. A release builds these three too, with perl.
packages=()
have cc || packages+=(gcc libc6-dev)
have c++ || packages+=(g++)
have make || packages+=(make)
have cmake || packages+=(cmake)
perl -MIPC::Cmd -MFile::Compare -MTime::Piece -e 1 2>/dev/null || packages+=(perl)
have pkg-config || packages+=(pkg-config)
{ have pkg-config && pkg-config --exists openssl; } || packages+=(libssl-dev)
{ have pkg-config && pkg-config --exists libzstd; } || packages+=(libzstd-dev)
{ have pkg-config && pkg-config --exists libcurl; } || packages+=(libcurl4-openssl-dev)
if [ "${1:-}" = --missing ]; then
    have cargo || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] || packages+=(rustup)
    echo "${packages[*]:-}"
    exit
fi

# rustup's folder is not on the PATH of every shell.
if ! have cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    fail "cargo is installed but not on the PATH: run  . \"${CARGO_HOME:-$HOME/.cargo}/env\"  and try again"
fi
if ! have cargo; then
    if have apt-get && [ "$(id -u)" -eq 0 ] && apt-get -qq update && [ -n "$(apt-cache search --names-only '^rustup$')" ]; then
        install rustup
        say "fetching the stable Rust toolchain with rustup"
        rustup default stable
    else
        fail "Rust is missing: install rustup as its web site says, then try again"
    fi
fi
rust=$(rustc --version | cut -d ' ' -f 2)
if [ "$(printf '%s\n' "$need_rust" "${rust%%-*}" | sort -V | head -n 1)" != "$need_rust" ]; then
    fail "Rust $rust is too old: $need_rust or newer is needed (rustup update stable)"
fi

if [ ${#packages[@]} -gt 0 ]; then
    install "${packages[@]}"
fi
