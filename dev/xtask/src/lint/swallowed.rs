//! Checks that the tools in dev/ propagate errors. A refused request is an error, not an empty
//! answer.

use std::path::Path;

use anyhow::Result;
use regex_lite::Regex;

use super::report;
use crate::shell::{files, read};

/// Exempt folders, because tests assert on results, and faults are injected into broken stores.
const EXEMPT: [&str; 2] = ["dev/testkit/", "dev/chaos/src/inject/"];

/// The part of the test kit that is a tool.
const TOOL: &str = "dev/testkit/src/drift/";

fn is_exempt(path: &Path) -> bool {
    !path.starts_with(TOOL) && EXEMPT.iter().any(|folder| path.starts_with(folder))
}

pub(crate) fn check() -> Result<()> {
    let mut found = Vec::new();
    for path in files(&["dev/*/src/*.rs"])? {
        if !is_exempt(&path) {
            let lines = swallowed(&read(&path)?)?;
            found.extend(
                lines
                    .iter()
                    .map(|line| format!("{}:{line}", path.display())),
            );
        }
    }
    report(&found, "pass these errors on, or match on them")
}

/// Returns the lines in which the error of an awaited result is lost.
fn swallowed(text: &str) -> Result<Vec<usize>> {
    let pattern = Regex::new(r"\.await\s*\.(unwrap_or_default|unwrap_or|ok)\(")?;
    let found = pattern.find_iter(text);
    Ok(found
        .map(|found| text[..found.start()].matches('\n').count() + 1)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exempts_tests_and_injected_faults_but_no_tools() {
        assert!(is_exempt(Path::new("dev/testkit/src/http.rs")));
        assert!(is_exempt(Path::new("dev/chaos/src/inject/redis.rs")));
        assert!(!is_exempt(Path::new("dev/testkit/src/drift/injector.rs")));
    }

    #[test]
    fn finds_a_lost_error_across_lines() {
        // The text is split, because this lint also checks this file.
        let text = [
            "let a = ask().await?;\nlet b = ask()\n    .await\n    ",
            ".unwrap_or_default();\nask().await",
            ".ok();",
        ]
        .concat();
        assert_eq!(swallowed(&text).unwrap(), [3, 5]);
        assert!(
            swallowed("ask().await.unwrap_or_else(report)")
                .unwrap()
                .is_empty()
        );
    }
}
