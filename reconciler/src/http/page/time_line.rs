//! The passes of a screen on a line of time.

use chrono::{DateTime, Utc};

use super::times::instant;
use crate::record::RunSummary;
use crate::report::Status;

/// A line of time from the oldest to the newest of these passes.
pub(super) struct TimeLine {
    /// Where each of them stands, in thousandths, and how it ended.
    pub(super) marks: Vec<(i64, &'static str)>,
    /// When the oldest and the newest began.
    pub(super) from: String,
    pub(super) to: String,
}

/// `runs` are in order, newest first. `None` where there is none.
pub(super) fn time_line(runs: &[RunSummary]) -> Option<TimeLine> {
    let (newest, oldest) = (runs.first()?.started_at, runs.last()?.started_at);
    let since = |at: DateTime<Utc>| (at - oldest).num_milliseconds();
    let whole = since(newest).max(1);
    let at = |run: &RunSummary| (since(run.started_at) * 1_000 / whole).clamp(0, 1_000);
    let tone =
        |run: &RunSummary| result(run.status.parse().unwrap_or(Status::Failed), run.dry_run).1;
    let marks = runs.iter().map(|run| (at(run), tone(run))).collect();
    Some(TimeLine {
        marks,
        from: instant(oldest),
        to: instant(newest),
    })
}

/// How a pass ended, and a class of the style.
pub(super) fn result(status: Status, dry_run: bool) -> (&'static str, &'static str) {
    match status {
        Status::Running => ("running", "plain"),
        Status::Clean => ("nothing found", "quiet"),
        Status::Repaired => ("repaired", "plain"),
        Status::Drift if dry_run => ("found, not changed", "plain"),
        Status::Drift => ("needs a person", "bad"),
        Status::Braked => ("held back", "bad"),
        Status::Failed => ("failed", "bad"),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn began(minute: i64, status: &str, dry_run: bool) -> RunSummary {
        RunSummary {
            run_id: minute.to_string(),
            trigger: "cron".to_owned(),
            dry_run,
            deep: false,
            confirmed: false,
            status: status.to_owned(),
            started_at: DateTime::UNIX_EPOCH + TimeDelta::minutes(minute),
            finished_at: None,
            drops_examined: 0,
            users_examined: 0,
            rows_examined: 0,
            failed_claims_examined: 0,
            applied: 0,
            skipped: 0,
            failed: 0,
            error: None,
            asked_by: None,
        }
    }

    #[test]
    fn passes_stand_where_they_began_and_the_ends_of_the_line_have_their_instants() {
        let runs = [
            began(50, "clean", false),
            began(40, "braked", false),
            began(20, "drift", true),
            began(10, "drift", false),
        ];
        let line = time_line(&runs).unwrap();
        assert_eq!(
            line.marks,
            [(1_000, "quiet"), (750, "bad"), (250, "plain"), (0, "bad")]
        );
        assert_eq!(
            (line.from.as_str(), line.to.as_str()),
            ("1970-01-01 00:10:00 UTC", "1970-01-01 00:50:00 UTC")
        );
    }

    #[test]
    fn a_single_pass_is_a_line_and_none_is_no_line() {
        let line = time_line(&[began(10, "clean", false)]).unwrap();
        assert_eq!(
            (line.marks.as_slice(), &line.from),
            ([(0, "quiet")].as_slice(), &line.to)
        );
        assert!(time_line(&[]).is_none());
    }
}
