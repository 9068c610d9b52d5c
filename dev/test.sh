#!/usr/bin/env bash
# Every test of the workspace on real servers, then one line that sums up. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Most tests wait for servers most of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

begun=$SECONDS
status=0
cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

awk -v seconds=$((SECONDS - begun)) '
    /^test result: / {
        binaries++
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    }
    /^test .* \.\.\. FAILED$/ { names = names "\n  failed: " $2 }
    END {
        printf "\n%d tests passed, %d failed, %d ignored, in %d programs and %d s%s\n", passed, failed, ignored, binaries, seconds, names
        if (binaries == 0) print "no test ran"
    }' "$log"
exit "$status"
