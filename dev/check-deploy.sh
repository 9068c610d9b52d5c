#!/usr/bin/env bash
# docker-compose.yml, deploy/kubernetes and the chart's schema: well formed, and with only settings that the programs have. `names` writes
# the names of settings into the schema. What needs helm or the schemas of Kubernetes is in dev/helm.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

sums=deploy/kubernetes/SHA256SUMS schema=deploy/helm/firstcome/values.schema.json
known=$(grep -xF "$(sha256sum "$schema")" "$sums" || true)

dev/python-yaml.sh - "$@" <<'PY'
import glob
import json
import re
import sys
import yaml

SCHEMA = "deploy/helm/firstcome/values.schema.json"
problems = []


def source(*folders):
    """What the files of these modules say, without their tests."""
    files = [path for folder in folders for path in [*glob.glob(f"{folder}/**/*.rs", recursive=True), *glob.glob(f"{folder}.rs")]]
    return "".join(open(path, encoding="utf-8").read().split("#[cfg(test)]")[0] for path in files)


class Settings:
    """What a command takes from the environment, and which of it is secret: what `--help` does not show."""

    def __init__(self, *folders):
        own = text = source(*folders)
        # Of the settings that programs share, those of the structures that this one has; each writes logs.
        for shared in re.split(r"\bstruct (?=\w+(?:Args|Given)\b)", source("shared/src"))[1:]:
            name = re.match("(.+?)(?:Args|Given)", shared).group(1)
            if name == "Log" or f"{name}Args" in own:
                text += shared
        found = re.findall(r'\benv = "([A-Z0-9_]+)"([^\]]*)\]', text)
        self.secret = {name for name, rest in found if "hide_env_values" in rest}
        self.all = {name for name, _ in found} | {"RUST_LOG"}

    def has(self, name):
        return name in self.all or re.match("(KAFKA_CONFIG|OTEL)_|SSL_CERT_FILE$", name)


known = {
    ("firstcome-api", "serve"): Settings("api/src/serve"),
    ("firstcome-api", "consume"): Settings("api/src/consume"),
    ("firstcome-api", "migrate"): Settings("api/src/migrate"),
    ("firstcome-reconciler", "daemon"): Settings("reconciler/src", "notifier/src"),
}
ports = {"serve": ("LISTEN_ADDR", "8080"), "consume": ("LISTEN_ADDR", "8082"), "daemon": ("LISTEN_ADDR", "8081")}
secret = set.union(*(one.secret for one in known.values()))
# Of secrets, a consumer and a migration have only these.
few = {"DATABASE_URL", "KAFKA_SASL_PASSWORD", "KAFKA_SIGNING_KEY"}


def check(where, command, environment):
    """A process: its program, its settings, that others can reach it, and that it has no secret that it does not need."""
    program, role = command[:2]
    if (program, role) not in known:
        problems.append(f"{where}: there is no {program} {role}")
        return
    for name in sorted(environment):
        if not known[program, role].has(name):
            problems.append(f"{where}: {program} {role} has no setting {name}")
    if role in ports:
        name, port = ports[role]
        if environment.get(name) != f"0.0.0.0:{port}":
            problems.append(f"{where}: {name} must be 0.0.0.0:{port}")
    if role in ("consume", "migrate"):
        for name in sorted((secret - few) & set(environment)):
            problems.append(f"{where}: it does not need the secret {name}")
    if role == "daemon":
        for name in ("PUBLIC_URL", "API_PUBLIC_URL"):
            if not environment.get(name):
                problems.append(f"{where}: {name} is not set, so mails lead to the machine of whoever reads them")


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
        # Every user of the machine sees arguments.
        said = [*(service.get("command") or []), *(service.get("healthcheck", {}).get("test") or [])]
        for argument in said:
            if re.search(r"(--requirepass|--password|-p|-a)[ =]?[\"']?\$", argument):
                problems.append(f"{where}: a password stands in the arguments of a process")
        for published in service.get("ports") or []:
            host, port, inner = published.split(":")
            if host != "127.0.0.1":
                problems.append(f"{where}: {port} is published to other machines")
            # docs/OPERATIONS.md says what listens where.
            if port in [port for _, port in ports.values()] and port != inner:
                problems.append(f"{where}: {port} is the usual port of another program")
        if service.get("image") == "firstcome":
            if service["command"][0] == "firstcome-reconciler" and "/tmp" not in service.get("tmpfs", []):
                problems.append(f"{where} can write no file: it keeps a long unread tail of the topic in /tmp")
            check(where, service["command"], service.get("environment") or {})
        elif not re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+(-[a-z]+)?$", service["image"]):
            problems.append(f"{where}: {service['image']} is no exact version")


def kubernetes():
    read = {path: list(yaml.safe_load_all(open(path, encoding="utf-8"))) for path in glob.glob("deploy/kubernetes/*.yaml")}
    objects = [(path, one) for path, all in read.items() for one in all]
    data = {
        (one["kind"], one["metadata"]["name"]): one.get("data") or one.get("stringData") or {}
        for _, one in objects if one["kind"] in ("ConfigMap", "Secret")
    }
    for (kind, name), keys in data.items():
        for key in sorted(set(keys) & secret if kind == "ConfigMap" else set(keys) - secret):
            problems.append(f"deploy/kubernetes: {key} is in the {kind} {name}")
        for key in ("OPS_TOKEN", "TRUSTED_HEADER_SECRET"):
            if len(keys.get(key, "")) >= 32:
                problems.append(f"deploy/kubernetes: start-up would take the {key} that everybody can read here")
    used, labels, guarded = set(), [], []
    for path, one in objects:
        if one["kind"] == "NetworkPolicy":
            guarded.append(one["spec"]["podSelector"]["matchLabels"])
        if one["kind"] not in ("Deployment", "Job"):
            continue
        template = one["spec"]["template"]
        labels.append(template["metadata"]["labels"])
        pod = template["spec"]
        if pod["automountServiceAccountToken"]:
            problems.append(f"{path}: its pods have a token of the cluster")
        for container in pod["containers"]:
            where = f"{path}: {container['name']}"
            environment = {}
            for source in container["envFrom"]:
                [(reference, name)] = [(kind, of["name"]) for kind, of in source.items()]
                key = ({"configMapRef": "ConfigMap", "secretRef": "Secret"}[reference], name)
                used.add(key)
                if key not in data:
                    problems.append(f"{where}: there is no {key[0]} {name}")
                environment.update(data.get(key, {}))
            check(where, container["args"], environment)
            role = container["args"][1]
            if role in ports and container["ports"][0]["containerPort"] != int(ports[role][1]):
                problems.append(f"{where}: it listens on {ports[role][1]}")
            if role == "serve" and environment.get("USER_AUTH") == "trusted-header" and "TRUSTED_HEADER_SECRET" not in environment:
                problems.append(f"{where}: without TRUSTED_HEADER_SECRET every pod can claim for anybody")
            # Requests come for some seconds after a pod was told to stop.
            delay = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            if role in ("serve", "daemon") and not 3 <= delay <= pod["terminationGracePeriodSeconds"] - 20:
                problems.append(f"{where}: it goes on for {delay} s after it was told to stop")
            if not re.search(r":[0-9.]+$|@sha256:", container["image"]):
                problems.append(f"{where}: its image has no version")
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
    for kind, name in sorted(set(data) - used):
        problems.append(f"deploy/kubernetes: nothing uses the {kind} {name}")
    for has in labels:
        if has not in guarded:
            problems.append(f"deploy/kubernetes: no NetworkPolicy guards {has}")
    for path, one in objects:
        spec = one.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        wanted = selector and selector.get("matchLabels", selector)
        if wanted and not any(wanted.items() <= has.items() for has in labels):
            problems.append(f"{path}: {one['kind']} {one['metadata']['name']} selects no pod")


def schema(write):
    """The chart's schema refuses names that its programs do not have, and secrets among the settings."""
    text = open(SCHEMA, encoding="utf-8").read()
    read = json.loads(text)
    own = dict(zip(("api", "consumer", "migrate", "reconciler"), known.values()))
    shared = [own["api"], own["reconciler"]]
    groups = {"everywhere": [*own.values()], "apiAndReconciler": shared, **{group: [one] for group, one in own.items()}}
    for group, of in groups.items():
        all = set.intersection(*(one.all for one in of))
        if len(of) > 1:
            # Each listens on a port of its own.
            all -= {name for name, _ in ports.values()}
        read["$defs"][group + "Names"]["anyOf"][0]["enum"] = sorted(all - secret)
        read["$defs"][group + "Secrets"]["anyOf"][0]["enum"] = sorted(all & secret)
    wanted = json.dumps(read, indent=2) + "\n"
    if write:
        open(SCHEMA, "w", encoding="utf-8").write(wanted)
    elif wanted != text:
        problems.append(f"{SCHEMA}: the programs have other settings now: dev/check-deploy.sh names")


schema(write=sys.argv[1:] == ["names"])
compose()
kubernetes()
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(bool(problems))
PY

# The names in the schema are checked here, so that a new setting needs no helm.
if [ "${1:-}" = names ] && [ -n "$known" ]; then
    sed -i "s|^$known\$|$(sha256sum "$schema")|" "$sums"
fi
# Without helm it can still be seen that one was changed and the other was not.
if ! sha256sum --check --quiet "$sums"; then
    echo "deploy/kubernetes is rendered from deploy/helm/firstcome: change the chart, then run dev/helm.sh render" >&2
    exit 1
fi

if docker compose version >/dev/null 2>&1; then
    # The secrets have no default on purpose.
    export OPS_TOKEN=checked-for-form-only MYSQL_PASSWORD=form REDIS_PASSWORD=form
    docker compose --env-file .env.example config --quiet
fi
