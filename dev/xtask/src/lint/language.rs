//! A ratchet for language patterns (language.tsv), counted in comments, docs and test names. Each
//! pattern has a maximum, which can only decrease: `record` lowers it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::str::Lines;

use anyhow::{Context, Result};
use clap::Subcommand;
use regex_lite::Regex;

use super::report;
use crate::shell::{command, files, output, read};

const TABLE: &str = "dev/xtask/src/lint/language.tsv";

/// This file is not counted, because it is generated from comments, which are counted.
const GENERATED: &str = "docs/API.md";

#[derive(Subcommand)]
pub(crate) enum Part {
    /// Lower the allowed counts to the current ones
    Record,
    /// Print every match of this pattern, or of all patterns
    Show { name: Option<String> },
}

pub(crate) fn run(part: Option<Part>) -> Result<()> {
    let table = read(TABLE)?;
    let mut patterns = parse(&table)?;
    for path in files(&[
        "*.rs", "*.md", "*.lua", "*.sql", "*.sh", "*.toml", "*.yml", "*.yaml",
    ])? {
        if path != Path::new(GENERATED) {
            let text = read(&path)?;
            for pattern in &mut patterns {
                pattern.look(&path, &text);
            }
        }
    }
    match part {
        None => judge(&patterns),
        Some(Part::Record) => {
            fs::write(TABLE, record(&table, &patterns))?;
            judge(&patterns)
        }
        Some(Part::Show { name }) => {
            let wanted = patterns
                .iter()
                .filter(|pattern| name.as_deref().is_none_or(|name| name == pattern.name));
            for place in wanted.flat_map(|pattern| &pattern.found) {
                println!("{place}");
            }
            Ok(())
        }
    }
}

struct Pattern<'t> {
    allowed: usize,
    name: &'t str,
    regex: Regex,
    bad: &'t str,
    good: &'t str,
    /// Every match with its line.
    found: Vec<String>,
}

fn parse(table: &str) -> Result<Vec<Pattern<'_>>> {
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let mut columns = row.split('\t');
        let mut column = || {
            columns
                .next()
                .with_context(|| format!("{TABLE}: {row}: five columns"))
        };
        Ok(Pattern {
            allowed: column()?.parse()?,
            name: column()?,
            regex: Regex::new(column()?)?,
            bad: column()?,
            good: column()?,
            found: Vec::new(),
        })
    })
    .collect()
}

impl Pattern<'_> {
    fn look(&mut self, path: &Path, text: &str) {
        for (number, line) in prose(path, text) {
            for _ in self.regex.find_iter(line) {
                self.found
                    .push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }

    fn problem(&self) -> Option<String> {
        let Self {
            allowed,
            name,
            bad,
            good,
            found,
            ..
        } = self;
        (found.len() > *allowed).then(|| {
            format!(
                "{name}: {} matches, {allowed} are allowed. Not \"{bad}\" but \"{good}\"",
                found.len()
            )
        })
    }
}

fn judge(patterns: &[Pattern<'_>]) -> Result<()> {
    let changed = changed()?;
    let mut found = Vec::new();
    for pattern in patterns {
        if let Some(problem) = pattern.problem() {
            let new = pattern.found.iter().filter(|place| is_in(&changed, place));
            found.extend(new.cloned());
            found.push(problem);
        }
    }
    if patterns
        .iter()
        .any(|pattern| pattern.found.len() < pattern.allowed)
    {
        eprintln!(
            "[lint] fewer places than allowed: `cargo xtask lint language record` lowers the numbers"
        );
    }
    report(
        &found,
        "rewrite the new places: `cargo xtask lint language show NAME` lists all of a pattern",
    )
}

/// Returns the files with uncommitted changes. Their matches are shown first.
fn changed() -> Result<Vec<String>> {
    let mut status = command("git");
    let status = output(status.args(["status", "--porcelain", "--untracked-files=all"]))?;
    let path = |line: &str| Some(line.get(3..)?.rsplit(" -> ").next()?.to_owned());
    Ok(status.lines().filter_map(path).collect())
}

fn is_in(files: &[String], place: &str) -> bool {
    let file = place.split(':').next().unwrap_or_default();
    files.is_empty() || files.iter().any(|changed| changed == file)
}

/// Returns the table, with each allowed count lowered to the number of matches found.
fn record(table: &str, patterns: &[Pattern<'_>]) -> String {
    let mut recorded = String::new();
    let mut patterns = patterns.iter();
    for line in table.lines() {
        let row = line.split_once('\t').filter(|_| !line.starts_with('#'));
        match row.and_then(|(_, rest)| Some((patterns.next()?, rest))) {
            Some((pattern, rest)) => {
                let lower = pattern.allowed.min(pattern.found.len());
                recorded.extend([lower.to_string().as_str(), "\t", rest, "\n"]);
            }
            None => recorded.extend([line, "\n"]),
        }
    }
    recorded
}

/// Returns the lines of prose with their numbers: comments without their markers, test names, and
/// Markdown without code.
fn prose<'t>(path: &Path, text: &'t str) -> Vec<(usize, &'t str)> {
    match path.extension().and_then(OsStr::to_str) {
        Some("rs") => [comments("//", text.lines()), tests_of(text)].concat(),
        Some("lua" | "sql") => comments("--", text.lines()),
        Some("md") => markdown(text),
        _ => comments("#", text.lines()),
    }
}

fn comments<'t>(sign: &str, lines: Lines<'t>) -> Vec<(usize, &'t str)> {
    let comment = |(line, number): (&'t str, usize)| {
        let comment = line.trim_start().strip_prefix(sign)?;
        Some((number, comment.trim_start_matches(['/', '!']).trim()))
    };
    lines.zip(1..).filter_map(comment).collect()
}

fn tests_of(text: &str) -> Vec<(usize, &str)> {
    let mut is_test = false;
    let mut names = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim_start();
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let signature = line.strip_prefix("async ").unwrap_or(line);
        if let Some(signature) = signature.strip_prefix("fn ")
            && std::mem::take(&mut is_test)
        {
            names.push((number, signature.split('(').next().unwrap_or_default()));
        }
    }
    names
}

fn markdown(text: &str) -> Vec<(usize, &str)> {
    let mut is_code = false;
    let mut prose = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.push((number, line.trim()));
        }
    }
    prose
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = include_str!("language.tsv");

    fn count(pattern: &mut Pattern<'_>, text: &str) -> usize {
        pattern.found.clear();
        pattern.look(Path::new("a.md"), text);
        pattern.found.len()
    }

    #[test]
    fn each_pattern_finds_only_its_bad_example() {
        let mut patterns = parse(OWN).unwrap();
        assert!(patterns.len() > 8);
        for pattern in &mut patterns {
            let Pattern {
                name, bad, good, ..
            } = *pattern;
            assert_eq!(count(pattern, bad), 1, "{name}: {bad}");
            assert_eq!(count(pattern, good), 0, "{name}: {good}");
        }
    }

    #[test]
    fn no_pattern_matches_good_english() {
        let good = "What is promised?\n| What | Why |\nIt waits so long as the lock is held.\nOf course it does.\n\
            Whatever happens, the row stays.\nIs there any more work?\nWho am I?";
        for pattern in &mut parse(OWN).unwrap() {
            assert_eq!(count(pattern, good), 0, "{}", pattern.name);
        }
    }

    #[test]
    fn more_matches_than_allowed_fail_and_fewer_lower_the_limit() {
        let table = "# head\n1\tanew\t\\banew\\b\tbad\tgood\n3\ttold\ttold\tbad\tgood\n";
        let mut patterns = parse(table).unwrap();
        for pattern in &mut patterns {
            pattern.look(
                Path::new("a.rs"),
                "// anew\nlet anew = 1;\n/// anew, told\n",
            );
        }
        assert!(
            patterns[0]
                .problem()
                .unwrap()
                .starts_with("anew: 2 matches, 1 are allowed")
        );
        assert_eq!(patterns[0].found[1], "a.rs:3: anew, told");
        assert!(patterns[1].problem().is_none());
        assert_eq!(
            record(table, &patterns),
            table.replace("3\ttold", "1\ttold")
        );
    }

    #[test]
    fn shows_matches_in_changed_files_or_all_if_none_is_changed() {
        let changed = ["a.rs".to_owned()];
        assert!(is_in(&changed, "a.rs:3: anew") && !is_in(&changed, "b.rs:3: anew"));
        assert!(is_in(&[], "b.rs:3: anew"));
    }

    #[test]
    fn checks_only_prose() {
        let rust = prose(Path::new("a.rs"), "let x = 1; // no\n    //! yes\n");
        assert_eq!(rust, [(2, "yes")]);
        let tests =
            "#[tokio::test(start_paused = true)]\nasync fn yes() {\n#[cfg(test)]\nfn no() {";
        assert_eq!(prose(Path::new("a.rs"), tests), [(2, "yes")]);
        assert_eq!(prose(Path::new("a.lua"), "-- yes\nreturn 1"), [(1, "yes")]);
        assert_eq!(
            markdown("yes\n```sh\nno\n```\nyes"),
            [(1, "yes"), (5, "yes")]
        );
    }
}
