//! The page's assets.

use std::sync::LazyLock;

use firstcome_shared::http::page::Asset;

pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "js", include_str!("page.js")));
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "css", include_str!("page.css")));
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "svg", include_str!("page.svg")));
