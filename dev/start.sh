#!/usr/bin/env bash
# Starts `cargo xtask demo`, `run` or `test`. The first line says what will be installed and how long
# it takes. If the machine does not allow that, the line names the command for containers instead,
# which is not an error, unless REQUIRED=1. Tests have no such command, so there it is one.
set -euo pipefail
cd "$(dirname "$0")/.."

job=${1:?demo, run or test}
shift
case $job in
    demo)
        otherwise=". With Docker alone:  docker compose run --rm demo"
        takes="starts in half a minute"
        ;;
    run)
        otherwise=". With Docker alone:  docker compose up --build"
        takes="starts in half a minute"
        ;;
    test)
        otherwise=
        takes="takes about 8 minutes on two cores"
        REQUIRED=1
        ;;
    *)
        echo "unknown job: $job" >&2
        exit 2
        ;;
esac
have() { command -v "$1" >/dev/null 2>&1; }
say() { echo "[$job] $*" >&2; }

# The programs and servers that dev/setup.sh and dev/stack would fetch, as words in a line: bash of
# macOS has no empty arrays.
packages=$(dev/setup.sh --missing | sed 's/^./ &/')
servers=
cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
have redis-server || packages+=" redis-server"
have java || packages+=" default-jre-headless"
compgen -G "$cache/mysql-[0-9]*/root" >/dev/null || servers+=" MySQL"
if ! compgen -G "$cache/kafka-[0-9]*/jars" >/dev/null; then
    servers+=" Kafka"
    have mvn || packages+=" maven"
fi
if [ "$job" = test ]; then
    have promtool || packages+=" prometheus"
    [ -d /usr/lib/postgresql ] || packages+=" postgresql"
    { have chromium && have chromedriver; } || packages+=" chromium chromium-driver fonts-nanum"
    compgen -G "$cache/mariadb-[0-9]*" >/dev/null || servers+=" MariaDB"
    compgen -G "$cache/axe-[0-9]*" >/dev/null || servers+=" axe"
fi

system=$(sed -n 's/^ID=//p' /etc/os-release 2>/dev/null || uname -s)
reason=
if [ "$system" != debian ] || ! have apt-get; then
    reason="they come from Debian's packages, and this is $system"
elif [ -n "$packages" ] && [ "$(id -u)" -ne 0 ]; then
    reason="apt needs root"
fi
if [ -n "$reason" ] && [ -n "$packages$servers" ]; then
    say "cannot install$packages$servers: $reason$otherwise"
    [ -z "${REQUIRED:-}" ]
    exit
fi

installs=
[ -z "$packages" ] || installs="installs$packages with apt; "
[ -z "$servers" ] || installs+="downloads$servers into $cache; "
if compgen -G "${CARGO_TARGET_DIR:-target}/*/firstcome-run" >/dev/null; then
    say "${installs:-installs nothing; }builds what has changed; $takes"
else
    say "${installs:-installs nothing; }builds the programs, which takes 5 to 12 minutes; then $takes"
fi
if ! dev/setup.sh; then
    [ -z "$otherwise" ] || say "${otherwise#. }"
    exit 1
fi
exec cargo xtask "$job" "$@"
