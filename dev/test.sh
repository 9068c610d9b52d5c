#!/usr/bin/env bash
# The tests of every change on real servers, then one line that sums up: all but those of single faults. `dev/test.sh faults` runs these, each
# with its fault; the check has schedules of many faults at once instead. `dev/test.sh upgrade` runs those that need programs of other releases
# (dev/upgrade-test.sh). Other arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
beside=
trap '[ -z "$beside" ] || kill -- "-$beside" 2>/dev/null || true; rm -f "$log" "$log.others"' EXIT

# Most tests wait for servers most of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

# What the servers of tests write stays in memory where there is room: Redis waits for the disk before each answer, as the product asks of it,
# and so does the MySQL of a test's own. A killed server finds its files as it left them, here as on a disk.
room() { awk '/^MemAvailable/ { exit $2 < 8e6 }' /proc/meminfo && df --output=avail /dev/shm | awk 'END { exit $1 < 8e6 }'; }
if [ -z "${TMPDIR:-}" ] && room 2>/dev/null && ! grep -q ' /dev/shm .*noexec' /proc/mounts; then
    export TMPDIR=/dev/shm
fi

tests() { cargo test --workspace --locked --no-fail-fast "$@" 2>&1; }

# Most of them cost several times what another test does: servers of their own, that are killed, silent or full.
single_faults=(faults::single faults::brokers faults::silent faults::disks faults::late faults::memory faults::clocks faults::redis_servers faults::mysql_failover faults::clusters operations::silent_hosts whole::)
upgrades=(upgrade::)
# `make attack`: they need schemathesis.
attacks=(attack::)

begun=$SECONDS
status=0
if [ "$*" = faults ]; then
    tests --test it -- "${single_faults[@]}" | tee "$log" || status=$?
elif [ "$*" = upgrade ]; then
    tests --test it -- "${upgrades[@]}" --nocapture | tee "$log" || status=$?
elif [ $# -gt 0 ]; then
    tests "$@" | tee "$log" || status=$?
else
    # The tests of the whole system wait for servers; all others run beside them, and are shown after them.
    others=()
    for name in $(cargo metadata --no-deps --locked --format-version 1 |
        grep -o '"kind":\["test"\],"crate_types":\["bin"\],"name":"[^"]*"' | sed 's/.*:"//; s/"$//' | sort -u); do
        [ "$name" = it ] || others+=(--test "$name")
    done
    tests --no-run
    # A process group of its own: Ctrl-C does not reach what a script has put into the background.
    set -m
    (
        others_status=0
        RUST_TEST_THREADS=$(nproc) tests --lib --bins "${others[@]}" || others_status=$?
        tests --doc || others_status=$?
        exit "$others_status"
    ) > "$log.others" &
    beside=$!
    set +m
    tests --test it -- $(printf -- '--skip %s ' "${single_faults[@]}" "${upgrades[@]}" "${attacks[@]}") | tee "$log" || status=$?
    wait "$beside" || status=$?
    tee -a "$log" < "$log.others"
fi

awk -v seconds=$((SECONDS - begun)) '
    /^test result: / {
        binaries++
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
            if ($i ~ /^filtered/) left_out += $(i - 1)
        }
    }
    /^test .* \.\.\. FAILED$/ { names = names "\n  failed: " $2 }
    END {
        printf "\n%d tests passed, %d failed, %d ignored, %d left out, in %d programs and %d s%s\n", passed, failed, ignored, left_out, binaries, seconds, names
        if (binaries == 0) print "no test ran"
    }' "$log"
exit "$status"
