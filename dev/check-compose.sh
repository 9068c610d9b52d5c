#!/usr/bin/env bash
# docker-compose.yml is well formed: by Docker where it is there, else by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

if docker compose version >/dev/null 2>&1; then
    # The secrets have no default on purpose.
    export OPS_TOKEN=checked-for-form-only MYSQL_PASSWORD=form REDIS_PASSWORD=form
    exec docker compose --env-file .env.example config --quiet
fi

python=python3
if ! python3 -c 'import yaml' >/dev/null 2>&1; then
    python=/usr/bin/python3
    if ! "$python" -c 'import yaml' >/dev/null 2>&1; then
        [ "$(id -u)" -eq 0 ] || { echo "python3-yaml is missing: apt-get install python3-yaml" >&2; exit 1; }
        apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-yaml >/dev/null
    fi
fi

"$python" - <<'PY'
import re
import sys
import yaml

text = open("docker-compose.yml", encoding="utf-8").read()
compose = yaml.safe_load(text)
services, volumes = compose["services"], compose.get("volumes") or {}
problems = []

known = {line.split("=")[0].lstrip("# ") for line in open(".env.example", encoding="utf-8") if "=" in line}
for name in re.findall(r"\$\{([A-Z_]+)[:?}-]", text):
    if name not in known:
        problems.append(f"${{{name}}} is not in .env.example")

for name, service in services.items():
    if not ("image" in service or "build" in service):
        problems.append(f"{name} has neither image nor build")
    for other, how in (service.get("depends_on") or {}).items():
        if other not in services:
            problems.append(f"{name} waits for {other}, which is no service")
        elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
            problems.append(f"{name} waits for the health of {other}, which has no healthcheck")
    for volume in service.get("volumes") or []:
        source = volume.split(":")[0]
        if not source.startswith((".", "/")) and source not in volumes:
            problems.append(f"{name} uses the volume {source}, which is not declared")

for problem in problems:
    print(f"docker-compose.yml: {problem}", file=sys.stderr)
sys.exit(bool(problems))
PY
