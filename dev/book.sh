#!/usr/bin/env bash
# Builds the documents of the last commit as a book (mdBook, HTML) in the folder that is given. The
# table of contents is made from their first headings, so that no document can be missing in it.
set -euo pipefail
cd "$(dirname "$0")/.."

into=$(realpath -m "${1:?the folder of the book}")
version=0.5.4
tools=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}/mdbook-$version
if [ ! -x "$tools/bin/mdbook" ]; then
    echo "[book] building mdbook into $tools" >&2
    env -u RUSTC_WORKSPACE_WRAPPER cargo install --quiet --locked --debug --config 'profile.dev.debug=false' \
        --no-default-features --features search --root "$tools" "mdbook@$version"
fi

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/src"
# The documents, and what they link to.
git archive HEAD '*.md' LICENSE docs deploy examples dev/shops/src | tar --extract --directory "$stage/src"
rm -r "$stage/src/.github"
cd "$stage/src"

# Lines of the table of contents, indented by $1.
entries() {
    local indent=$1 document
    shift
    for document; do
        local title
        title=$(sed -n 's/^# //p' "$document" | head -n 1)
        [[ $document != *.ko.md ]] || title+=' (한국어)'
        echo "$indent- [$title]($document)"
    done
}
{
    echo '# Summary'
    entries '' README.md README.ko.md docs/ATTACH.md docs/ATTACH.ko.md docs/BESIDE.md docs/SETUP.md docs/OPERATIONS.md \
        docs/SETTINGS.md docs/API.md docs/decisions/README.md
    entries '  ' docs/decisions/0*.md
} >SUMMARY.md
mapfile -t others < <(find . -name '*.md' ! -name SUMMARY.md -printf '%P\n' | grep -vxF -f <(grep -o '[^(]*\.md' SUMMARY.md) | sort)
entries '' "${others[@]}" >>SUMMARY.md

cat >../book.toml <<'END'
[book]
title = "Firstcome"
language = "en"

# One of them renames README.md, but not the links to it.
[build]
use-default-preprocessors = false

[output.html]
no-section-label = true

[output.html.fold]
enable = true
END
rm -rf "$into"
"$tools/bin/mdbook" build "$stage" --dest-dir "$into"
