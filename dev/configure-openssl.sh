#!/usr/bin/env bash
# perl, as the crate openssl-src calls it to configure OpenSSL. Leaves out what no client of Kafka uses, and optimises nothing
# where Rust's own profile does not: that halves the longest step of a first build.
set -euo pipefail

if [ "${1:-}" != ./Configure ]; then
    exec perl "$@"
fi

# Other protocols than TLS, formats of messages and time stamps, and ciphers that no TLS suite has any more.
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
