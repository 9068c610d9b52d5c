#!/usr/bin/env bash
# Stands in for rustdoc in `cargo test --doc`: checks the documentation instead of testing its
# examples, of which there are none. Unlike `cargo doc`, this uses the libraries that the build has
# made, and takes seconds.
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
