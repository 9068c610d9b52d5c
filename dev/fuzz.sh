#!/usr/bin/env bash
# The property tests of what comes from outside (tokens, paths and ids, messages of Kafka, trace headers, literals of SQL, arguments of the scripts on a
# real Redis) and those of the plan of repairs, with other random inputs each time, for MINUTES=10; CASES=5000 of each at a time. An input that fails is made small and shown.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${MINUTES:-10}
export PROPTEST_CASES=${CASES:-5000}
cargo test --workspace --lib --test scripts --locked --no-run
begun=$SECONDS rounds=0
while [ $((SECONDS - begun)) -lt $((minutes * 60)) ]; do
    ran=$(cargo test --workspace --lib --test scripts --locked --quiet -- ::any_ plan::tests::properties no_user_id_ends what_is_issued_fits the_scripts_do_what 2>&1) || {
        echo "$ran" >&2
        exit 1
    }
    tests=$(grep -o '[0-9]* passed' <<<"$ran" | awk '{ sum += $1 } END { print sum }')
    rounds=$((rounds + 1))
    echo "[fuzz] round $rounds: $tests properties of $PROPTEST_CASES cases each, $((SECONDS - begun)) s" >&2
done
echo "fuzz: $rounds rounds, no case failed"
