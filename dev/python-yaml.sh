#!/usr/bin/env bash
# A Python that can read YAML, with these arguments.
set -euo pipefail

python=python3
if ! python3 -c 'import yaml' >/dev/null 2>&1; then
    python=/usr/bin/python3
    if ! "$python" -c 'import yaml' >/dev/null 2>&1; then
        [ "$(id -u)" -eq 0 ] || { echo "python3-yaml is missing: apt-get install python3-yaml" >&2; exit 1; }
        apt-get -qq -o DPkg::Lock::Timeout=300 update
        apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends python3-yaml >/dev/null
    fi
fi
exec "$python" "$@"
