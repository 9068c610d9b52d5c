#!/usr/bin/env bash
# Builds images under the names in docker-compose.yml from Debian packages and the servers that `firstcome-stack setup` fetched, for machines
# without an image registry. Everything else in the file stays as users run it. Usage: images.sh BINARIES
set -euo pipefail
binaries=$(realpath "${1:?the folder with our binaries}")
cd "$(dirname "$0")"
cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}

has() { docker image inspect "$1" >/dev/null 2>&1; }
say() { echo "[compose-test] $*" >&2; }
# Debian's engine lacks the builder that newer clients prefer.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! has firstcome-debian; then
    say "a Debian with Redis, Java and Python, by debootstrap"
    mirror=$(apt-get indextargets --format '$(COMPONENT) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "main" { print $2; exit }')
    debootstrap --variant=minbase --include=redis-server,redis-tools,python3,openjdk-17-jre-headless,libaio1,libnuma1 \
        bookworm "$work/debian" "$mirror" >"$work/log" || { tail -n 20 "$work/log" >&2; exit 1; }
    rm -rf "$work"/debian/var/cache/apt/archives/*.deb "$work"/debian/var/lib/apt/lists/*
    tar -C "$work/debian" -c . | docker import - firstcome-debian >/dev/null
fi

# One folder and Dockerfile per image.
image() {
    say "the image $1"
    docker build --quiet -t "$1" -f "$2" "$3" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
}
mkdir -p "$work/mysql" "$work/kafka" "$work/mail" "$work/firstcome/image/usr/local/bin"
cp -a "$cache"/mysql/root "$work/mysql/root"
cp mysql-entrypoint "$work/mysql/"
has mysql:8.4.6 || image mysql:8.4.6 mysql.Dockerfile "$work/mysql"
has redis:7.4.5-alpine || image redis:7.4.5-alpine redis.Dockerfile "$work/mail"
cp -a "$cache"/kafka-[0-9]*/jars "$work/kafka/libs"
cp kafka-entrypoint "$work/kafka/"
has apache/kafka:4.1.0 || image apache/kafka:4.1.0 kafka.Dockerfile "$work/kafka"
cp mailpit "$work/mail/"
has axllent/mailpit:v1.27.0 || image axllent/mailpit:v1.27.0 mailpit.Dockerfile "$work/mail"

# Our image is the unchanged second half of dev/Dockerfile. The first half needs an image registry, so the same commands ran outside of
# it.
cp "$binaries"/firstcome-api "$binaries"/firstcome-reconciler "$work/firstcome/image/usr/local/bin/"
strip "$work"/firstcome/image/usr/local/bin/*
../image.sh "$work/firstcome/image"
sed -n '/^FROM scratch/,$p' ../Dockerfile | sed 's/^COPY --from=build /COPY /' >"$work/firstcome.Dockerfile"
image firstcome "$work/firstcome.Dockerfile" "$work/firstcome"
