//! Compares the reasons in these mails with the texts that passes write, so that no snapshot
//! quotes a sentence that no operator can receive.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use firstcome_shared::report::Finding;

/// Texts of stores and of the operating system, which findings quote, and the label of a coupon.
const QUOTED: [&str; 3] = ["Connection refused (os error )", "allkeys-lru", "coupon : "];

/// Minimum length of a part. Shorter ones would be found in any sentence.
const SHORTEST: usize = 8;

/// The literal parts of all texts in the sources, without digits, longest first.
static PARTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut parts: Vec<String> = QUOTED.map(str::to_owned).to_vec();
    for package in ["attach", "reconciler", "shared"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        read_folder(&root.join(package).join("src"), &mut parts);
    }
    parts.retain(|part| part.len() >= SHORTEST);
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts.dedup();
    parts
});

fn read_folder(folder: &Path, parts: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            read_folder(&path, parts);
        } else if path.extension().is_some_and(|it| it == "rs") && name != "tests.rs" {
            parts_of(&fs::read_to_string(&path).unwrap(), parts);
        }
    }
}

/// Adds the literal parts of the texts in a source: what stands between its placeholders.
fn parts_of(source: &str, parts: &mut Vec<String>) {
    let code = source
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//") && !line.contains("example =");
    let lines: Vec<&str> = code.lines().filter(is_code).collect();
    let code = lines.join("\n").replace("'\"'", "").replace("\\\"", "'");
    for text in code.split('"').skip(1).step_by(2) {
        let mut lines = text.split("\\\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let text = lines.fold(first, |text, line| text + line.trim_start());
        let pieces = text.split(['{', '}']).step_by(2);
        parts.extend(pieces.map(without_digits));
    }
}

fn without_digits(text: &str) -> String {
    text.replace(|c: char| c.is_ascii_digit(), "")
}

/// Whether the sources contain every part of the text, except names and units.
fn is_written(detail: &str) -> bool {
    let mut left = without_digits(detail);
    for part in PARTS.iter() {
        left = left.replace(part.as_str(), "|");
    }
    left.chars().filter(|c| c.is_alphabetic()).count() <= 2
}

pub(super) fn assert_written<'a>(findings: impl IntoIterator<Item = &'a Finding>) {
    for found in findings {
        assert!(
            is_written(&found.detail),
            "no pass writes: {}",
            found.detail
        );
    }
}

#[test]
fn text_that_no_source_has_is_noticed() {
    assert!(is_written("the drop has no such slot"));
    assert!(!is_written("admitted 64 s ago, no row and no message"));
    assert!(!is_written("another user holds this slot"));
}
