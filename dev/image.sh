#!/usr/bin/env bash
# Completes the folder of an image that has our binaries in usr/local/bin: what they load, certificate authorities, a user.
set -euo pipefail

image=${1:?the folder of the image}
for program in "$image"/usr/local/bin/*; do
    # Lines of ldd are "name => path (address)" or "path (address)".
    ldd "$program" | grep -o '/[^ ]*' | sort -u | xargs cp --parents --dereference --update --target-directory "$image"
done
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$image/etc/ssl/certs/ca-certificates.crt"
install -d -m 1777 "$image/tmp"
echo 'firstcome:x:65532:65532::/:/none' >"$image/etc/passwd"
echo 'firstcome:x:65532:' >"$image/etc/group"
# Names are looked up in files and by DNS.
echo 'hosts: files dns' >"$image/etc/nsswitch.conf"
