#!/usr/bin/env bash
# The Helm chart: `render` writes deploy/kubernetes from it, checks both, and notes what was checked in deploy/kubernetes/SHA256SUMS. `check`
# (the default) looks at the chart with helm, at all with the API schemas of Kubernetes; a machine without helm sees by the sums that nothing has
# changed since. `fetch` gets both tools into the cache folder: helm is built with Go, three minutes of the processor.
set -euo pipefail
cd "$(dirname "$0")/.."

helm_version=v3.16.4
kubernetes=1.37
cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
helm=$cache/helm-$helm_version
schemas=$cache/kubernetes-validate-$kubernetes
chart=deploy/helm/firstcome

say() { echo "[helm] $*" >&2; }

fetch_schemas() {
    [ ! -e "$schemas/whole" ] || return 0
    say "fetching the API schemas of Kubernetes $kubernetes into $cache"
    rm -rf "$schemas"
    python3 -m venv "$schemas" && "$schemas/bin/pip" -q install "kubernetes-validate==$kubernetes.0" && touch "$schemas/whole"
}

fetch_helm() {
    [ ! -e "$helm" ] || return 0
    command -v go >/dev/null || { say "there is no Go to build helm with"; return 1; }
    say "building helm $helm_version into $cache"
    work=$(mktemp -d -p "$cache")
    trap 'rm -rf "$work"' EXIT
    if GOPATH=$work/path GOCACHE=$work/cache GOBIN=$work CGO_ENABLED=0 go install -modcacherw -trimpath \
        -ldflags "-s -w" "helm.sh/helm/v3/cmd/helm@$helm_version" 2>"$work/log"; then
        mv "$work/helm" "$helm"
    else
        tail -n 3 "$work/log" >&2
    fi
    [ -e "$helm" ]
}

template() { "$helm" template firstcome "$chart" --kube-version "$kubernetes" "$@"; }
validate() { "$schemas/bin/kubernetes-validate" --strict --quiet "$@"; }

# One file for each thing to apply.
render_to() {
    # The secrets of these values have no form that start-up would take.
    template -f "$chart/ci/manifests.yaml" --skip-schema-validation >"$1/all"
    awk -v folder="$1" '
        BEGIN { RS = "(^|\n)---\n" }
        match($0, /# Source: [^\n]*\/[a-z]+\.yaml\n/) {
            file = substr($0, RSTART, RLENGTH - 1)
            sub(/.*\//, "", file)
            sub(/# Source: [^\n]*\n/, "")
            if ($0 ~ /(^|\n)kind: ConfigMap/) file = "config.yaml"
            if ($0 ~ /(^|\n)kind: Secret/) file = "secret.example.yaml"
            # Of helm alone: it starts pods again when a setting has changed.
            gsub(/\n *annotations: \{checksum\/settings[^\n]*/, "")
            sub(/\n+$/, "")
            printf "%s%s\n", started[file]++ ? "---\n" : "# Rendered from deploy/helm/firstcome by dev/helm.sh render.\n", $0 >(folder "/" file)
        }' "$1/all"
    rm "$1/all"
}

# With helm: the manifests are what it renders, every option renders to what Kubernetes knows, and wrong values are refused.
check_with_helm() {
    work=$1
    mkdir "$work/rendered"
    render_to "$work/rendered"
    diff -ru --exclude=README.md --exclude=SHA256SUMS deploy/kubernetes "$work/rendered" ||
        { say "deploy/kubernetes is not what the chart gives: dev/helm.sh render"; exit 1; }
    for values in minimal everything; do
        "$helm" lint --quiet --strict "$chart" --kube-version "$kubernetes" -f "$chart/ci/$values.yaml"
        template -f "$chart/ci/$values.yaml" >"$work/$values.yaml"
        # Of kinds that others define (ServiceMonitor) it has no schema.
        validate --no-warn "$work/$values.yaml"
    done
    # What must not be installed, and a word of the sentence that says why.
    while IFS=$'\t' read -r word option; do
        if template -f "$chart/ci/minimal.yaml" --set "$option" >"$work/refused" 2>&1 || ! grep -q -- "$word" "$work/refused"; then
            say "not refused with the word $word: $option"
            exit 1
        fi
    done <<'END'
every pod	secrets.api.TRUSTED_HEADER_SECRET=
TRUSTED_HEADER_SECRET	secrets.api.TRUSTED_HEADER_SECRET=short
openssl rand -hex 32	secrets.apiAndReconciler.OPS_TOKEN=
OPS_TOKEN	secrets.apiAndReconciler.OPS_TOKEN=openssl rand -hex 32
KAFKA_BROKERS	settings.everywhere.KAFKA_BROKERS=
DATABASE_URL	secrets.everywhere.DATABASE_URL=
USER_AUTH	settings.api.USER_AUTH=nobody
PUBLIC_URL	secrets.reconciler.SMTP_URL=smtp://mail
PUBLIC_URL	settings.reconciler.PUBLIC_URL=http://127.0.0.1:8081
COUPON_PAGES	settings.api.COUPON_PAGES=on
OPS_TOKEN	settings.apiAndReconciler.OPS_TOKEN=0123456789abcdef0123456789abcdef
SMTP_URL	secrets.everywhere.SMTP_URL=smtp://mail
clear secrets.api.TRUSTED_HEADER_SECRET	settings.api.USER_AUTH=jwt
LISTEN_ADDR	settings.api.LISTEN_ADDR=127.0.0.1:8080
METRICS_ADDR	settings.api.METRICS_ADDR=
LISTEN_ADDR	settings.reconciler.LISTEN_ADDR=0.0.0.0:80
LISTEN_ADDR	settings.consumer.LISTEN_ADDR=null
LISTEN_ADDR	settings.apiAndReconciler.LISTEN_ADDR=0.0.0.0:8080
REDIS_URL	secrets.everywhere.REDIS_URL=redis://redis
REDIS_URL	secrets.consumer.REDIS_URL=redis://redis
take pod.volumes away	pod.volumes[0].name=tmp
ingress.api.host	ingress.api.enabled=true
END
}

# All that the checks with helm depend on.
sums() { sha256sum deploy/kubernetes/*.yaml "$chart"/{Chart.yaml,values.yaml,values.schema.json} "$chart"/{templates,ci}/* dev/helm.sh | LC_ALL=C sort -k 2; }

case ${1:-check} in
fetch)
    mkdir -p "$cache"
    fetch_schemas
    fetch_helm
    ;;
render)
    mkdir -p "$cache"
    fetch_helm
    fetch_schemas
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    render_to "$work"
    rm -f deploy/kubernetes/*.yaml
    mv "$work"/*.yaml deploy/kubernetes/
    validate deploy/kubernetes/*.yaml
    check_with_helm "$work"
    sums >deploy/kubernetes/SHA256SUMS
    ;;
check)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    if ! fetch_schemas; then
        say "deploy/kubernetes: UNCHECKED on $(date -u +%F) against the API of Kubernetes: its schemas could not be fetched"
        exit 0
    fi
    validate deploy/kubernetes/*.yaml
    if [ ! -e "$helm" ]; then
        # The sums are written only after these checks.
        sums | diff deploy/kubernetes/SHA256SUMS - >&2 || { say "the chart has changed since it was last checked with helm: dev/helm.sh render"; exit 1; }
        say "deploy/kubernetes: checked with the API of Kubernetes $kubernetes; the chart has not changed since it was checked with helm $helm_version"
        exit 0
    fi
    check_with_helm "$work"
    say "the chart: checked with helm $helm_version and the API of Kubernetes $kubernetes"
    ;;
*)
    say "say fetch, render or check"
    exit 2
    ;;
esac
