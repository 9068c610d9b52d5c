#!/usr/bin/env bash
# Tests docker-compose.yml on a real engine: a first start, a rush, exact; each container killed in a rush; a mail; down and up again on
# the same volumes without a loss. Leaves nothing behind except the engine's images. `cargo xtask compose-test` runs it.
set -euo pipefail
binaries=$(realpath "${1:?the folder with release binaries}")
cd "$(dirname "$0")/../.."

say() { echo "[compose-test] $*" >&2; }
fail() { say "FAILED: $*"; exit 1; }
not_shown() { echo "compose-test: NOT SHOWN: $*"; exit 0; }
have() { command -v "$1" >/dev/null 2>&1; }

if ! have dockerd && ! docker info >/dev/null 2>&1; then
    have apt-get && [ "$(id -u)" -eq 0 ] || not_shown "there is no Docker engine, and none can be installed without apt and root"
    say "installing docker.io with apt"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends docker.io iptables >/dev/null
fi
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    have docker-compose || DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends docker-compose >/dev/null
    compose=(docker-compose)
fi
have debootstrap || DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends debootstrap >/dev/null

work=$(mktemp -d)
engine=
ended() {
    code=$?
    if [ "$code" -ne 0 ] && [ -e "$work/env" ]; then
        compose ps >&2 || true
        compose logs --tail 15 >&2 || true
    fi
    [ ! -e "$work/env" ] || compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    if [ -n "$engine" ]; then
        kill "$engine"
        wait "$engine" || true
    fi
    rm -rf "$work"
    exit "$code"
}
trap ended EXIT

if ! docker info >/dev/null 2>&1; then
    data=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}/docker
    say "starting an engine of its own"
    export DOCKER_HOST=unix://$work/socket
    dockerd --data-root "$data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
    engine=$!
    for _ in $(seq 300); do
        docker info >/dev/null 2>&1 && break
        kill -0 "$engine" 2>/dev/null || { engine=; tail -n 3 "$work/dockerd.log" >&2; not_shown "the engine does not start here"; }
        sleep 0.1
    done
fi
dev/compose-test/images.sh "$binaries"

secret() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }
OPS_TOKEN=$(secret 24) MYSQL_PASSWORD=$(secret 16)
sed "s/^OPS_TOKEN=.*/OPS_TOKEN=$OPS_TOKEN/; s/^KAFKA_SIGNING_KEY=.*/KAFKA_SIGNING_KEY=$(secret 24)/; s/^MYSQL_PASSWORD=.*/MYSQL_PASSWORD=$MYSQL_PASSWORD/; s/^REDIS_PASSWORD=.*/REDIS_PASSWORD=$(secret 16)/" \
    .env.example >"$work/env"
compose() { "${compose[@]}" --project-name firstcome-compose-test --env-file "$work/env" "$@"; }
container() { compose ps -q "$1"; }
until_true() {
    local what=$1
    shift
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "not within two minutes: $what"
}
own=(api-1 api-2 consumer-1 consumer-2 reconciler)
is_healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]; }
is_open() { curl -fsS "http://127.0.0.1:$1/readyz"; }
all_well() {
    local service
    for service in "${own[@]}" mysql redis kafka; do
        until_true "$service is healthy" is_healthy "$service"
    done
    until_true "api-1 admits" is_open 8080
    until_true "api-2 admits" is_open 8083
}
sql() {
    docker exec -e MYSQL_PWD="$MYSQL_PASSWORD" "$(container mysql)" mysql -h 127.0.0.1 -u firstcome -N -e "$1" firstcome
}
database() {
    echo "mysql://firstcome:$MYSQL_PASSWORD@$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container mysql)"):3306/firstcome"
}
# Compares every promise with its row if the database is given.
rush() {
    local quantity=$1 people=$2
    shift 2
    "$binaries/rush" --url http://127.0.0.1:8080 --url http://127.0.0.1:8083 --ops-token "$OPS_TOKEN" --quantity "$quantity" \
        --people "$people" --connections 32 --patience 120 "$@" >"$work/rush.log" 2>&1 || { cat "$work/rush.log" >&2; return 1; }
}
is_clean() { compose exec -T reconciler firstcome-reconciler once --deep; }
exact() {
    local wrong
    wrong=$(sql "SELECT COUNT(*) FROM (SELECT d.id FROM drops d LEFT JOIN issued_coupons i ON i.drop_id = d.id GROUP BY d.id, d.quantity
        HAVING COUNT(i.slot) <> d.quantity OR COUNT(DISTINCT i.user_id) <> d.quantity) AS wrong")
    [ "$wrong" = 0 ] || fail "$wrong drops are not exact"
    is_clean >/dev/null || fail "a deep pass left drift"
}

size=$(docker image inspect -f '{{.Size}}' firstcome)
say "our image: $((size / 1000000)) MB, user $(docker image inspect -f '{{.Config.User}}' firstcome)"
[ "$size" -le 80000000 ] || fail "our image is larger than 80 MB"
for tool in sh bash busybox curl; do
    ! docker run --rm --entrypoint "$tool" firstcome -c true >/dev/null 2>&1 || fail "our image has $tool"
done
created=$(docker create firstcome)
for program in firstcome-api firstcome-reconciler; do
    bill=$(docker cp "$created:/usr/share/sbom/$program.cdx.json" - | tar -xO)
    for part in tokio rdkafka-sys openssl-sys; do
        grep -q "\"name\": *\"$part\"" <<<"$bill" || fail "the bill of materials of $program lacks $part"
    done
done
docker rm "$created" >/dev/null
say "each program has its bill of materials: $(grep -o '"purl"' <<<"$bill" | wc -l) parts of $program"

say "up from nothing"
compose up -d >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; fail "up"; }
all_well
rush 500 5000 --database-url "$(database)" || fail "the first rush"
exact
say "500 of 500, each yes has its row"

for service in "${own[@]}" mysql redis kafka; do
    container=$(container "$service")
    begun=$(docker inspect -f '{{.State.StartedAt}}' "$container")
    # The rush would lose its own connection to a MySQL that dies.
    judge=(--database-url "$(database)")
    [ "$service" != mysql ] || judge=()
    rows=$(sql "SELECT COUNT(*) FROM issued_coupons") pid=$(docker inspect -f '{{.State.Pid}}' "$container")
    rush 2000 20000 "${judge[@]}" &
    crowd=$!
    has_begun() { [ "$(sql "SELECT COUNT(*) FROM issued_coupons")" -gt "$rows" ]; }
    until_true "the rush has begun" has_begun
    # Kill it as the kernel does when out of memory. After `docker kill`, which counts as a manual stop, nothing would restart it.
    kill -9 "$pid"
    wait "$crowd" || fail "a rush in which $service was killed"
    has_restarted() { [ "$(docker inspect -f '{{.State.StartedAt}}' "$container")" != "$begun" ]; }
    until_true "$service is started again" has_restarted
    all_well
    until_true "a pass finds nothing" is_clean
    exact
    say "exact after $service was killed"
done

repaired() { curl -fsS http://127.0.0.1:8025 | grep -c '^Subject: .*repaired: .*1 issued late' || true; }
drop=$(sql "SELECT id FROM drops ORDER BY created_at DESC LIMIT 1") before=$(repaired)
sql "DELETE FROM issued_coupons WHERE drop_id = $drop AND slot = 7"
has_mail() { [ "$(repaired)" -gt "$before" ]; }
until_true "the mail says what was repaired" has_mail
exact
say "a row was deleted, issued again, and mailed"

rows=$(sql "SELECT COUNT(*), SUM(slot) FROM issued_coupons")
compose down --timeout 30 >/dev/null 2>&1
compose up -d >/dev/null 2>&1
all_well
[ "$(sql "SELECT COUNT(*), SUM(slot) FROM issued_coupons")" = "$rows" ] || fail "rows are gone after down and up"
exact
rush 500 5000 --database-url "$(database)" || fail "the last rush"
exact
say "down, and up on the same volumes: nothing lost"
echo "compose-test: passed, $(sql "SELECT COUNT(*) FROM issued_coupons") coupons issued, all exact"
