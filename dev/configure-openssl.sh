#!/usr/bin/env bash
# Replaces perl when the crate openssl-src configures OpenSSL. Leaves out features that no Kafka client uses, and disables optimisation
# if Rust's profile does: that halves the longest step of a first build.
set -euo pipefail

if [ "${1:-}" != ./Configure ]; then
    exec perl "$@"
fi

# Protocols other than TLS, message and time-stamp formats, and ciphers without a current TLS suite.
unused=(
    quic dtls srtp sctp srp
    cms cmp ts ct ocsp http rfc3779
    aria bf blake2 cast gost md4 mdc2 ocb rc2 rc4 rmd160 scrypt siphash siv sm2 sm3 sm4 whirlpool
    lms ml-dsa slh-dsa argon2
    ssl-trace ui-console uplink
)
options=("${unused[@]/#/no-}")
if [ "${OPT_LEVEL:-0}" = 0 ]; then
    options+=(-O0)
fi
exec perl "$@" "${options[@]}"
