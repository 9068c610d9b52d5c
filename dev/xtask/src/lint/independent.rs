//! Checks that the checker of histories shares no code with the product, so that it cannot share a
//! mistake.

use anyhow::Result;
use regex_lite::Regex;

use super::report;
use crate::shell::{files, read};

pub(crate) fn check() -> Result<()> {
    let mut found = Vec::new();
    for path in files(&["dev/testkit/src/histories/*.rs"])? {
        let lines = foreign(&read(&path)?)?;
        let places = lines.iter();
        found.extend(places.map(|line| format!("{}:{line}", path.display())));
    }
    report(
        &found,
        "the checker of histories uses no other module and none of the product's crates",
    )
}

/// Returns the lines that name another module of the test kit, or another crate of the workspace.
fn foreign(text: &str) -> Result<Vec<usize>> {
    let named = Regex::new(r"\bfirstcome_[a-z]+::|\bcrate::[a-z_]+")?;
    let is_foreign = |line: &str| {
        let mut named = named.find_iter(line);
        named.any(|found| found.as_str() != "crate::histories")
    };
    let numbered = text.lines().zip(1..);
    Ok(numbered
        .filter(|(line, _)| is_foreign(line))
        .map(|(_, number)| number)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_other_modules_and_crates() {
        let text = "use crate::histories::event;\nuse crate::answer::Answer;\nuse firstcome_shared::domain;\nuse serde::Serialize;";
        assert_eq!(foreign(text).unwrap(), [2, 3]);
    }
}
