//! A report of a run to keep, as CSV: the numbers of each drop before and after, and all findings.
//! The run's id and times are not in it, so two reports of an unchanged system are equal.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use chrono::NaiveDate;
use csv::{Terminator, WriterBuilder};
use firstcome_shared::spreadsheet::guarded;
use serde::Serialize;

use crate::report::{DropReport, Finding, Run};

/// Tells Excel that the text is UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A finding with the numbers of its drop, or these numbers alone.
#[derive(Debug, Default, Serialize)]
struct Line {
    coupon_id: Option<String>,
    coupon: Option<String>,
    day: Option<NaiveDate>,
    drop_id: Option<String>,
    quantity: Option<u32>,
    exact: Option<bool>,
    users_before: Option<u64>,
    users_after: Option<u64>,
    rows_before: Option<u64>,
    rows_after: Option<u64>,
    failed_claims_before: Option<u64>,
    failed_claims_after: Option<u64>,
    kind: Option<&'static str>,
    slot: Option<i64>,
    user_id: Option<String>,
    action: Option<&'static str>,
    result: Option<&'static str>,
    needs_person: Option<bool>,
    detail: Option<String>,
}

impl Line {
    fn of_drop(drop: &DropReport) -> Self {
        Self {
            coupon_id: Some(guarded(drop.coupon_id.to_string())),
            coupon: Some(guarded(drop.coupon_name.clone())),
            day: drop.day,
            drop_id: Some(guarded(drop.drop_id.to_string())),
            quantity: Some(drop.quantity),
            exact: Some(drop.exact),
            users_before: Some(drop.before.users),
            users_after: Some(drop.after.users),
            rows_before: Some(drop.before.rows),
            rows_after: Some(drop.after.rows),
            failed_claims_before: Some(drop.before.failed_claims),
            failed_claims_after: Some(drop.after.failed_claims),
            ..Self::default()
        }
    }

    fn with(self, finding: &Finding) -> Self {
        Self {
            coupon_id: self
                .coupon_id
                .or(finding.coupon_id.map(|id| guarded(id.to_string()))),
            drop_id: self
                .drop_id
                .or(finding.drop_id.map(|id| guarded(id.to_string()))),
            kind: Some(finding.kind.as_str()),
            slot: finding.slot,
            user_id: finding.user_id.clone().map(guarded),
            action: Some(finding.action.as_str()),
            result: Some(finding.result.as_str()),
            needs_person: Some(finding.needs_person),
            detail: Some(guarded(finding.text())),
            ..self
        }
    }
}

/// Writes a run.
///
/// # Errors
/// None that is expected: it writes to memory.
pub(crate) fn write(run: &Run) -> anyhow::Result<Vec<u8>> {
    let mut csv = WriterBuilder::new()
        .terminator(Terminator::CRLF)
        .from_writer(BYTE_ORDER_MARK.into());
    // Only a line writes the heading, so a run without drops and findings has an empty one.
    let mut is_empty = true;
    for drop in &run.drops {
        is_empty = false;
        if drop.findings.is_empty() {
            csv.serialize(Line::of_drop(drop))?;
        }
        for finding in &drop.findings {
            csv.serialize(Line::of_drop(drop).with(finding))?;
        }
    }
    for finding in &run.findings {
        is_empty = false;
        csv.serialize(Line::default().with(finding))?;
    }
    if is_empty {
        csv.serialize(Line::default())?;
    }
    Ok(csv.into_inner()?)
}

pub(crate) fn write_file(run: &Run, file: &Path) -> anyhow::Result<()> {
    fs::write(file, write(run)?).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use firstcome_shared::domain::{CouponId, DropId};

    use super::*;
    use crate::report::{Kind, Trigger};

    fn run(id: &str) -> Run {
        let mut run = Run::begun(id, Trigger::Cli, Utc::now());
        let left = Finding {
            slot: Some(3),
            user_id: Some("00123".to_owned()),
            ..Finding::report(Kind::Unissued, "no row")
        };
        let mut drop = DropReport::begun(CouponId(1), DropId(4_097_180_345_487_943), 5);
        drop.findings = vec![left];
        run.drops = vec![drop, DropReport::begun(CouponId(1), DropId(8), 5)];
        run.findings = vec![Finding::report(Kind::Stalled, "=1+1")];
        run
    }

    #[test]
    fn report_lists_each_drop_and_finding_and_spreadsheets_change_nothing() {
        let text = String::from_utf8(write(&run("1")).unwrap()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[0].starts_with("\u{feff}coupon_id,coupon,day,drop_id,"),
            "{text}"
        );
        assert!(lines[1].contains("'4097180345487943"), "{text}");
        assert!(lines[1].contains(",unissued,3,'00123,"), "{text}");
        assert!(lines[2].starts_with("1,,,8,5,"), "{text}");
        assert!(lines[3].contains("'=1+1"), "{text}");
    }

    #[test]
    fn reports_of_an_unchanged_system_are_equal_although_their_runs_differ() {
        assert_eq!(write(&run("1")).unwrap(), write(&run("2")).unwrap());
    }
}
