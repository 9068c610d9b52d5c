#!/usr/bin/env bash
# What must hold at any size, measured at full size on real servers: a table, and the same as JSON in target/scale.
# The measurements are tests that print "scale: what | at full size | small | target" (dev/testkit/src/scale.rs).
# The targets are those of a release build. PROFILE=dev is built sooner, and all of it is slower.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${PROFILE:-release}
folder=target/scale
mkdir -p "$folder"

# One after the other: each has the machine to itself.
status=0
SCALE=full cargo test --profile "$profile" --workspace --locked --features firstcome-shared/crash-points --test it -- \
    --nocapture --test-threads=1 ${WHAT:-operations::} 2>&1 | tee "$folder/log.txt" || status=$?

awk -v profile="$profile" -v json="$folder/report.json" '
    function text(part) { gsub(/^ +| +$/, "", part); return part }
    function quoted(part) { gsub(/["\\]/, "\\\\&", part); return "\"" part "\"" }
    { at = index($0, "scale: ") }
    at {
        n = split(substr($0, at + 7), part, "|")
        for (i = 1; i <= 4; i++) part[i] = i <= n ? text(part[i]) : ""
        target = part[4]; least = sub(/≥ */, "", target); sub(/≤ */, "", target)
        is_met = least ? part[2] + 0 >= target + 0 : part[2] + 0 <= target + 0
        met = target == "" || part[2] == "-" ? "" : (is_met ? "yes" : "no")
        missed += met == "no"
        printf "%s| %s | %s | %s | %s | %s |\n", rows++ ? "" : "\n| What (" profile " build) | small | full size | target | met? |\n|---|---|---|---|---|\n", part[1], part[3], part[2], part[4], met
        list = list (rows > 1 ? ",\n " : "") "{\"what\":" quoted(part[1]) ",\"small\":" quoted(part[3]) ",\"full\":" quoted(part[2]) ",\"target\":" quoted(part[4]) ",\"met\":" quoted(met) "}"
    }
    END {
        printf "{\"profile\":%s,\"rows\":[\n %s\n]}\n", quoted(profile), list > json
        if (!rows) { print "nothing was measured"; exit 1 }
        if (missed) { print missed " targets are missed"; exit 1 }
    }' "$folder/log.txt"
exit "$status"
