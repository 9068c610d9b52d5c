#!/usr/bin/env bash
# docker-compose.yml and deploy/kubernetes are well formed, and name only settings that the programs have.
set -euo pipefail
cd "$(dirname "$0")/.."

python=python3
if ! python3 -c 'import yaml' >/dev/null 2>&1; then
    python=/usr/bin/python3
    if ! "$python" -c 'import yaml' >/dev/null 2>&1; then
        [ "$(id -u)" -eq 0 ] || { echo "python3-yaml is missing: apt-get install python3-yaml" >&2; exit 1; }
        apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-yaml >/dev/null
    fi
fi

"$python" - <<'PY'
import glob
import re
import sys
import yaml

problems = []


def settings(*folders):
    """What the command line of a program takes from the environment."""
    sources = [path for folder in folders for path in glob.glob(f"{folder}/**/*.rs", recursive=True)]
    text = "".join(open(path, encoding="utf-8").read() for path in sources)
    return set(re.findall(r'\benv = "([A-Z0-9_]+)"', text)) | {"RUST_LOG"}


known = {
    "firstcome-api": settings("api/src", "shared/src"),
    "firstcome-reconciler": settings("reconciler/src", "shared/src", "notifier/src"),
}
ports = {"serve": ("LISTEN_ADDR", "8080"), "consume": ("CONSUME_LISTEN_ADDR", "8082"), "daemon": ("LISTEN_ADDR", "8081")}


def check(where, command, environment):
    """A process: its program, its settings, and that others can reach it."""
    program, role = command
    if program not in known:
        problems.append(f"{where}: there is no program {program}")
        return
    for name in sorted(set(environment) - known[program]):
        problems.append(f"{where}: {program} has no setting {name}")
    if role in ports:
        name, port = ports[role]
        if environment.get(name) != f"0.0.0.0:{port}":
            problems.append(f"{where}: {name} must be 0.0.0.0:{port}")


def compose():
    text = open("docker-compose.yml", encoding="utf-8").read()
    read = yaml.safe_load(text)
    services, volumes = read["services"], read.get("volumes") or {}
    example = {line.split("=")[0].lstrip("# ") for line in open(".env.example", encoding="utf-8") if "=" in line}
    for name in re.findall(r"\$\{([A-Z_]+)[:?}-]", text):
        if name not in example:
            problems.append(f"docker-compose.yml: ${{{name}}} is not in .env.example")
    for name, service in services.items():
        where = f"docker-compose.yml: {name}"
        if not ("image" in service or "build" in service):
            problems.append(f"{where} has neither image nor build")
        for other, how in (service.get("depends_on") or {}).items():
            if other not in services:
                problems.append(f"{where} waits for {other}, which is no service")
            elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                problems.append(f"{where} waits for the health of {other}, which has no healthcheck")
        for volume in service.get("volumes") or []:
            source = volume.split(":")[0]
            if not source.startswith((".", "/")) and source not in volumes:
                problems.append(f"{where} uses the volume {source}, which is not declared")
        if service.get("image") == "firstcome":
            if service["command"][0] == "firstcome-reconciler" and "/tmp" not in service.get("tmpfs", []):
                problems.append(f"{where} can write no file: it keeps a long unread tail of the topic in /tmp")
            check(where, service["command"], service.get("environment") or {})


def kubernetes():
    read = {path: list(yaml.safe_load_all(open(path, encoding="utf-8"))) for path in glob.glob("deploy/kubernetes/*.yaml")}
    objects = [(path, one) for path, all in read.items() for one in all]
    data = {one["kind"]: one.get("data") or one.get("stringData") for _, one in objects if one["kind"] in ("ConfigMap", "Secret")}
    kinds = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}
    used, labels = set(), []
    for path, one in objects:
        if one["kind"] not in ("Deployment", "Job"):
            continue
        template = one["spec"]["template"]
        labels.append(template["metadata"]["labels"])
        pod = template["spec"]
        for container in pod["containers"]:
            where = f"{path}: {container['name']}"
            environment = {}
            for variable in container["env"]:
                name, value = variable["name"], variable.get("value")
                for reference, source in (variable.get("valueFrom") or {}).items():
                    kind, key = kinds[reference], source["key"]
                    used.add((kind, key))
                    value = data[kind].get(key)
                if value is None:
                    problems.append(f"{where}: {name} is set nowhere")
                environment[name] = value
            check(where, container["args"], environment)
            ours = ports.get(container["args"][1])
            if ours and container["ports"][0]["containerPort"] != int(ours[1]):
                problems.append(f"{where}: it listens on {ours[1]}")
            security = container["securityContext"]
            restricted = (
                pod["securityContext"]["runAsNonRoot"]
                and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
                and security["readOnlyRootFilesystem"]
                and not security["allowPrivilegeEscalation"]
                and security["capabilities"]["drop"] == ["ALL"]
            )
            if not restricted:
                problems.append(f"{where}: its security context is not restricted")
            mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts") or []}
            kept = {volume["name"] for volume in pod.get("volumes") or [] if "emptyDir" in volume}
            if container["args"][0] == "firstcome-reconciler" and mounts.get("/tmp") not in kept:
                problems.append(f"{where}: it can write no file: it keeps a long unread tail of the topic in /tmp")
            if "memory" not in container["resources"]["limits"]:
                problems.append(f"{where}: its memory has no limit")
    for kind, keys in data.items():
        for key in sorted(set(keys) - {key for of, key in used if of == kind}):
            problems.append(f"deploy/kubernetes: nothing uses {key} of the {kind}")
    for path, one in objects:
        selector = one.get("spec", {}).get("selector")
        wanted = selector and selector.get("matchLabels", selector)
        if wanted and not any(wanted.items() <= has.items() for has in labels):
            problems.append(f"{path}: {one['kind']} {one['metadata']['name']} selects no pod")


compose()
kubernetes()
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(bool(problems))
PY

if docker compose version >/dev/null 2>&1; then
    # The secrets have no default on purpose.
    export OPS_TOKEN=checked-for-form-only MYSQL_PASSWORD=form REDIS_PASSWORD=form
    docker compose --env-file .env.example config --quiet
fi
