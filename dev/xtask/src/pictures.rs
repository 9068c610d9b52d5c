//! Captures screenshots of all states of the pages and mails in a real browser, into
//! target/pictures. Copies those that the docs show.

use std::fs;

use anyhow::{Context, Result};

use crate::programs::{Profile, build_all_and_fetch, target};
use crate::shell::run;
use crate::suite::test_it;

/// The screenshots in the docs: the name in target/pictures, and the name in docs/pictures.
const OF_DOCS: [(&str, &str); 11] = [
    ("issued", "coupon-page-issued"),
    ("scheduled-korean-phone", "coupon-page-korean"),
    ("waiting-dark", "coupon-page-waiting"),
    ("ops-all-well", "operations-page"),
    ("ops-alert-dark-phone", "operations-page-alert"),
    ("mail-failed-claims", "mail-action-needed"),
    ("mail-repaired", "mail-repaired"),
    ("ops-drop", "operations-drop"),
    ("ops-pass", "operations-pass"),
    ("ops-letters", "operations-dead-letters"),
    ("ops-person", "operations-person"),
];

pub(crate) fn make() -> Result<()> {
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    let folder = std::path::absolute(target().join("pictures"))?;
    run(test_it(&["pages::"]).env("PICTURES", &folder))?;
    for (made, shown) in OF_DOCS {
        let made = folder.join(format!("{made}.png"));
        fs::copy(&made, format!("docs/pictures/{shown}.png"))
            .with_context(|| format!("no test made {}", made.display()))?;
    }
    Ok(())
}
