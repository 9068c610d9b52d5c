#!/usr/bin/env bash
# Every test of the workspace on real servers, then one line that sums up. SEEDS=5: that many fault schedules too.
# Arguments go to `cargo test`. Without any, the tests of the whole system, the longest by far, run beside all others: cargo
# by itself runs one program after the other.
set -euo pipefail

# As cargo calls it to run one test program, in the folder of its package: those of the other half are left out.
if [ "${HALF:-}" ]; then
    here=others
    if [ "${PWD##*/}" = system-tests ]; then here=system; fi
    if [ "$HALF" = "$here" ]; then exec "$@"; fi
    exit 0
fi

cd "$(dirname "$0")/.."
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT

run() { cargo test --workspace --locked --no-fail-fast "$@"; }
half() { HALF=$1 run --config "target.'cfg(all())'.runner = '$PWD/dev/test.sh'" "${@:2}"; }
schedules() { [ -z "${SEEDS:-}" ] || target/debug/firstcome-chaos run; }

begun=$SECONDS
status=0
# Most tests wait for servers most of the time.
if [ $# -gt 0 ]; then
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))} run "$@" 2>&1 | tee "$logs/all" || status=$?
else
    { failed=0; RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(nproc)} half others || failed=$?; schedules || failed=$?; exit $failed; } >"$logs/others" 2>&1 &
    others=$!
    # Cargo lets go of the build folder with the first test.
    tail --pid="$others" -n +1 -F "$logs/others" 2>/dev/null | grep -qm1 '^ *Running ' || true
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((3 * $(nproc)))} half system --tests 2>&1 | tee "$logs/system" || status=$?
    wait "$others" || status=$?
    cat "$logs/others"
fi

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
    }' "$logs"/*
exit "$status"
