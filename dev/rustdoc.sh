#!/usr/bin/env bash
# Replaces rustdoc in `cargo test --doc`: checks the documentation instead of testing its examples
# (there are none). Unlike `cargo doc`, this uses the libraries that the build has compiled, and
# takes seconds.
set -euo pipefail
args=()
while [ $# -gt 0 ]; do
    case $1 in
    --test) ;;
    --test-run-directory) shift ;;
    *) args+=("$1") ;;
    esac
    shift
done
exec rustdoc "${args[@]}" -D warnings -o "${CARGO_TARGET_DIR:-target}/checked-doc"
