#!/usr/bin/env bash
# The tests (dev/test.sh, with the same arguments) on Valkey instead of Redis. Fetches it from Debian's backports into the cache folder, and installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}
root=$cache/valkey
suite=$(. /etc/os-release && echo "$VERSION_CODENAME-backports")

if [ ! -x "$root/bin/redis-server" ]; then
    echo "[valkey] fetching Valkey of $suite into $cache" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mirror=$(apt-get indextargets --format '$(COMPONENT) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "main" && !/security/ { print $2; exit }')
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources"
    mkdir -p "$work/lists/partial" "$work/cache" "$work/root"
    chmod 755 "$work"
    apt=(apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache")
    "${apt[@]}" update
    (cd "$work" && "${apt[@]}" download valkey-server valkey-tools)
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$work/root"
    done
    mkdir -p "$root/bin"
    cp "$work"/root/usr/bin/valkey-* "$root/bin/"
    ln -sf valkey-cli "$root/bin/redis-cli"
    ln -sf valkey-server "$root/bin/redis-server"
    rm -rf "$work"
fi
export PATH=$root/bin:$PATH
redis-server --version
exec dev/test.sh "$@"
