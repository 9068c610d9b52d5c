#!/usr/bin/env bash
# Completes the root folder of an image with our binaries in usr/local/bin: shared libraries with what
# Debian says of their packages (versions for image scanners, licences), an SBOM (CycloneDX, for binaries built by
# dev/auditable.sh; SBOM=none leaves it out), certificate authorities, a user.
set -euo pipefail

tools=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}/auditable-1/bin

image=${1:?the folder of the image}
for program in "$image"/usr/local/bin/*; do
    # Lines of ldd are "name => path (address)" or "path (address)".
    libraries=$(ldd "$program" | grep -o '/[^ ]*' | sort -u)
    xargs cp --parents --dereference --update --target-directory "$image" <<<"$libraries"
    sed 's,.*,*&,' <<<"$libraries" | xargs dpkg-query --search | cut -d : -f 1 | sort -u | while read -r package; do
        install -d "$image/var/lib/dpkg/status.d"
        dpkg-query --status "$package" >"$image/var/lib/dpkg/status.d/$package"
        cp --parents "/usr/share/doc/$package/copyright" "$image"
    done
    if [ "${SBOM:-}" != none ]; then
        install -d "$image/usr/share/sbom"
        "$tools/auditable2cdx" "$program" >"$image/usr/share/sbom/$(basename "$program").cdx.json"
    fi
done
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$image/etc/ssl/certs/ca-certificates.crt"
install -d -m 1777 "$image/tmp"
echo 'firstcome:x:65532:65532::/:/none' >"$image/etc/passwd"
echo 'firstcome:x:65532:' >"$image/etc/group"
# Host names are resolved by files and DNS.
echo 'hosts: files dns' >"$image/etc/nsswitch.conf"
