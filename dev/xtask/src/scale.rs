//! Measures properties that must hold at any size, at full size on real servers. Prints a table,
//! and writes it as JSON to target/scale. The measurements are tests that print lines of the format
//! `scale: what | at full size | small | target` (dev/testkit/src/scale.rs).
//!
//! The targets are for a release build. PROFILE=dev builds faster and runs slower.

use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::programs::{Profile, build_all_and_fetch, target};
use crate::shell::{Failed, setting};
use crate::suite;

pub(crate) fn run() -> Result<()> {
    let profile = Profile::or("release");
    build_all_and_fetch(&profile)?;
    let what = setting("WHAT").unwrap_or_else(|| "operations::".to_owned());
    let mut args = vec![
        "--profile",
        &profile.name,
        "--features",
        "firstcome-shared/crash-points",
    ];
    // Tests run one after the other, so that each has the machine to itself.
    args.extend(["--test", "it", "--", "--nocapture", "--test-threads=1"]);
    args.extend(what.split_whitespace());
    let measured = suite::log_of_full_size(&args)?;

    let rows: Vec<_> = measured.log.lines().filter_map(Row::parse).collect();
    println!("\n{}", table(&rows, &profile.name));
    let folder = target().join("scale");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("log.txt"), &measured.log)?;
    let json: Vec<_> = rows.iter().map(Row::json).collect();
    let report = serde_json::to_string_pretty(&json!({"profile": profile.name, "rows": json}))?;
    fs::write(folder.join("report.json"), report)?;

    if let Some(failed) = measured.failed {
        return Err(failed);
    }
    let missed = rows
        .iter()
        .filter(|row| row.is_met() == Some(false))
        .count();
    match (rows.len(), missed) {
        (0, _) => Err(Failed::check("nothing was measured")),
        (_, 0) => Ok(()),
        _ => Err(Failed::check(format!("{missed} targets are missed"))),
    }
}

struct Row<'l> {
    what: &'l str,
    full: &'l str,
    small: &'l str,
    target: &'l str,
}

impl<'l> Row<'l> {
    fn parse(line: &'l str) -> Option<Self> {
        let (_, row) = line.split_once("scale: ")?;
        let mut parts = row.split('|').map(str::trim);
        let mut part = || parts.next().unwrap_or_default();
        Some(Self {
            what: part(),
            full: part(),
            small: part(),
            target: part(),
        })
    }

    /// Whether the target is met. `None` if there is no target or no measurement at full size.
    fn is_met(&self) -> Option<bool> {
        let value = number(self.full)?;
        let target = number(self.target.trim_start_matches(['≥', '≤']))?;
        Some(if self.target.starts_with('≥') {
            value >= target
        } else {
            value <= target
        })
    }

    fn met(&self) -> &'static str {
        self.is_met()
            .map_or("", |is_met| if is_met { "yes" } else { "no" })
    }

    fn json(&self) -> serde_json::Value {
        let Self {
            what,
            full,
            small,
            target,
        } = self;
        json!({"what": what, "small": small, "full": full, "target": target, "met": self.met()})
    }
}

/// Returns the number at the beginning of the text.
fn number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

fn table(rows: &[Row<'_>], profile: &str) -> String {
    let mut table = format!(
        "| What ({profile} build) | small | full size | target | met? |\n|---|---|---|---|---|"
    );
    for row in rows {
        let Row {
            what,
            full,
            small,
            target,
        } = row;
        let met = row.met();
        table.extend([
            "\n| ", what, " | ", small, " | ", full, " | ", target, " | ", met, " |",
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_targets_as_upper_or_lower_limits() {
        let met = |line| Row::parse(line).unwrap().is_met();
        assert_eq!(
            met("test a ... scale: a pass | 12.5 ms | 3 ms | ≤ 20 ms"),
            Some(true)
        );
        assert_eq!(met("scale: a pass | 25 ms | 3 ms | ≤ 20 ms"), Some(false));
        assert_eq!(met("scale: rows | 900 /s | - | ≥ 1000 /s"), Some(false));
        assert_eq!(met("scale: rows | - | 5 /s | ≥ 1000 /s"), None);
        assert_eq!(met("scale: rows | 900 /s | - |"), None);
        assert!(Row::parse("test a ... ok").is_none());
    }

    #[test]
    fn table_has_a_line_for_each_measurement() {
        let rows = [Row::parse("scale: a pass | 25 ms | 3 ms | ≤ 20 ms").unwrap()];
        assert!(table(&rows, "dev").ends_with("| a pass | 3 ms | 25 ms | ≤ 20 ms | no |"));
    }
}
