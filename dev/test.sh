#!/usr/bin/env bash
# Every test of the workspace on real servers, then one line that sums up. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Most tests wait for servers most of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

# What the servers of tests write stays in memory where there is room: Redis waits for the disk before each answer, as the product asks of it,
# and so does the MySQL of a test's own. A killed server finds its files as it left them, here as on a disk.
room() { awk '/^MemAvailable/ { exit $2 < 8e6 }' /proc/meminfo && df --output=avail /dev/shm | awk 'END { exit $1 < 8e6 }'; }
if [ -z "${TMPDIR:-}" ] && room 2>/dev/null && ! grep -q ' /dev/shm .*noexec' /proc/mounts; then
    export TMPDIR=/dev/shm
fi

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
