//! Finds comments beyond column 100, which rustfmt does not wrap.

use anyhow::Result;

use super::report;
use crate::shell::{files, read};

pub(crate) fn check() -> Result<()> {
    let mut found = Vec::new();
    for path in files(&["*.rs"])? {
        for line in long(&read(&path)?) {
            found.push(format!("{}:{line}", path.display()));
        }
    }
    report(&found, "wrap these comments at 100 columns")
}

/// Returns the line numbers of comments that are too long.
fn long(text: &str) -> Vec<usize> {
    let is_long = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > 100;
    let numbered = text.lines().zip(1..);
    numbered
        .filter(|(line, _)| is_long(line))
        .map(|(_, number)| number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_only_comments_that_are_too_long() {
        let fits = format!("    // {}", "ö".repeat(93));
        let long_comment = format!("{fits}x");
        let code = "x".repeat(120);
        assert_eq!(long(&[fits, long_comment, code].join("\n")), [2]);
    }
}
