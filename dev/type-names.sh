#!/usr/bin/env bash
# A type's name means one thing: a name that other modules see is defined once in the workspace. Not looked at are
# associated types and what is inside a function or a module of a file, unless it is `pub`.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each name with the reason.
exempt() {
    grep -v '^#' <<'END'
# each program's own command line
Cli
Command
# dev/model's models of the very thing
Admission
Claim
Coupon
Life
Pass
Person
Reconciler
Redis
Slot
END
}

git grep -nE '^( *pub(\([a-z: ]+\))? )?(unsafe )?(struct|enum|trait|type|union) [A-Z]' -- '*.rs' |
    awk -v exempt="$(exempt | tr '\n' ' ')" '
        BEGIN { count = split(exempt, names, " "); for (i = 1; i <= count; i++) is_exempt[names[i]] = 1 }
        {
            place = $0; sub(/:[^0-9].*/, "", place)
            text = substr($0, length(place) + 2)
            match(text, /(struct|enum|trait|type|union) [A-Za-z0-9_]+/)
            name = substr(text, RSTART, RLENGTH); sub(/^[a-z]+ /, "", name)
            if (name in is_exempt) next
            # The models of dev/model share a vocabulary; a path such as `gate::State` tells them apart.
            if (place ~ /^dev\/model\// && name in modelled) next
            if (place ~ /^dev\/model\//) modelled[name] = 1
            if (text ~ /^ *pub/) is_visible[name] = 1
            places[name] = places[name] "\n  " place
            times[name]++
        }
        END {
            for (name in times) if (times[name] > 1 && is_visible[name]) { print name places[name]; failed = 1 }
            exit failed
        }' >&2 || {
    echo "[type-names] these types have the name of another: docs/DEVELOPING.md says what a name means" >&2
    exit 1
}
