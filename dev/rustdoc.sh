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
# `--check` writes no pages. It is an unstable option, which the variable permits.
RUSTC_BOOTSTRAP=1 exec rustdoc "${args[@]}" -D warnings -Z unstable-options --check
