#!/usr/bin/env bash
# Everything that can be said about the code without running it, cheapest first: `quick` for what compiles nothing,
# `compiled` for the rest, nothing for both.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { echo "[lint] $*" >&2; }

if [ "${1:-}" != compiled ]; then
    step "formatting"
    cargo fmt --all --check

    step "comments within 100 columns"
    if git ls-files --cached --others --exclude-standard '*.rs' | LC_ALL=C.UTF-8 xargs grep -nP '^(?=\s*//).{101}'; then
        echo "[lint] wrap these comments at 100 columns" >&2
        exit 1
    fi

    step "no tests where none are built"
    if git grep -lE '^ *#\[(tokio::)?test' -- '*/src/main.rs' '*/src/bin/*.rs' dev/testkit/src dev/model/src |
        grep -vxF -e dev/drift/src/main.rs -e dev/demo/src/bin/run.rs; then
        echo "[lint] these have \"test = false\" in their Cargo.toml: take it away, or move the tests" >&2
        exit 1
    fi
    step "no swallowed answers in dev tools"
    # A refused request is an error, and not an empty answer. Faults are injected into stores that are broken on purpose.
    if ! git ls-files --cached --others --exclude-standard 'dev/*/src/*.rs' | grep -v -e '^dev/testkit/' -e '^dev/chaos/src/inject/' |
        xargs perl -0777 -ne 'while (/\.await\s*\.(unwrap_or_default|unwrap_or|ok)\(/g) {
            print "$ARGV:", 1 + ($` =~ tr/\n//), ": .await.$1(…)\n"; $found = 1 } END { $? = $found }'; then
        echo "[lint] pass these errors on, or match on them" >&2
        exit 1
    fi

    step "type names"
    dev/type-names.sh

    step "unused dependencies and empty files"
    dev/unused.sh

    step "shell scripts"
    for script in .ci/run dev/*.sh deploy/restore/*.sh dev/compose-test/{*.sh,*-entrypoint}; do
        bash -n "$script"
    done

    step "docker-compose.yml, deploy"
    dev/check-deploy.sh

    step "dependencies: licences, bans, sources"
    dev/deny.sh

    step "features: nothing is built twice"
    dev/features.sh
fi

if [ "${1:-}" != quick ]; then
    step "the chart and deploy/kubernetes, by helm and the API of Kubernetes"
    dev/helm.sh check

    step "clippy"
    cargo clippy --workspace --all-targets --locked -- -D warnings

    step "documentation"
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
fi
