#!/usr/bin/env bash
# The compiler of the workspace's own crates in `.ci/run` (RUSTC_WORKSPACE_WRAPPER): clippy compiles them, then rustdoc reads them with the
# same arguments. `cargo clippy` and `cargo doc` would first check all dependencies once more, beside the build that has just compiled them.
set -euo pipefail

clippy-driver "$@"

# Cargo asks the compiler about itself, too. Libraries alone have documentation worth a link: a program is its `main` and its command line.
[[ " $* " == *" --crate-type lib --emit=dep-info,metadata,link "* ]] || exit 0
[[ " $* " != *" --crate-name build_script_"* ]] || exit 0

arguments=()
shift # the path of rustc
while (($#)); do
    case $1 in
        --crate-name | --extern | -L | --cfg | --check-cfg) arguments+=("$1" "$2") && shift 2 ;;
        -C | --crate-type | --out-dir) shift 2 ;;
        --edition=* | *.rs) arguments+=("$1") && shift ;;
        *) shift ;;
    esac
done
rustdoc "${arguments[@]}" -D warnings --out-dir "${CARGO_TARGET_DIR:-target}/doc"
