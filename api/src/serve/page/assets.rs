//! What the page loads: a script, a style and an icon, inside the program. Each has the hash of its
//! content in its name, so that a browser keeps it for good and never has an old one.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

pub(super) struct Asset {
    /// `page-0123456789abcdef.css`
    pub(super) name: String,
    pub(super) content_type: &'static str,
    pub(super) content: &'static str,
}

pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("js", "text/javascript; charset=utf-8", include_str!("page.js")));
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("css", "text/css; charset=utf-8", include_str!("page.css")));
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("svg", "image/svg+xml", include_str!("page.svg")));

impl Asset {
    fn new(extension: &str, content_type: &'static str, content: &'static str) -> Self {
        let name = format!("page-{:016x}.{extension}", hash(content.as_bytes()));
        Self { name, content_type, content }
    }

    /// The file of this name, and how long it may be kept. During an upgrade the page may come from
    /// one process and its files from another: they get what there is, and keep it not at all.
    pub(super) fn named(file: &str) -> Option<(&'static Self, &'static str)> {
        let extension = |name: &str| name.rsplit('.').next().map(str::to_owned);
        let all: [&'static Self; 3] = [&SCRIPT, &STYLE, &ICON];
        let asset =
            all.into_iter().find(|asset| file.starts_with("page-") && extension(&asset.name) == extension(file))?;
        let is_this = asset.name == file;
        Some((asset, if is_this { "public, max-age=31536000, immutable" } else { "no-store" }))
    }
}

/// The first 64 bits of the SHA-256.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    digest.iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_kept_for_good_under_its_own_hash_only() {
        assert_eq!(hash(b"abc"), 0xba78_16bf_8f01_cfea);
        let caching = |file: &str| Asset::named(file).map(|(asset, caching)| (asset.content_type, caching));
        let (style, kept) = caching(&STYLE.name).unwrap();
        assert_eq!((style, kept), ("text/css; charset=utf-8", "public, max-age=31536000, immutable"));
        assert_eq!(caching("page-0000000000000000.css"), Some((style, "no-store")), "of another version");
        for other in ["", "page", "page-0.html", "other.css", "page.css", "..%2fpage-0.css"] {
            assert_eq!(caching(other), None, "{other:?}");
        }
    }
}
