//! The assets of the page: script, style sheet and icon.

use std::sync::LazyLock;

use firstcome_shared::http::page::Asset;

pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("ops", "js", include_str!("ops.js")));
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("ops", "css", include_str!("ops.css")));
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("ops", "svg", include_str!("ops.svg")));
