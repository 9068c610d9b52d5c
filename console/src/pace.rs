//! The pace of a drop as a chart with a table and a summary. Pure functions.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::wording::grouped;
use firstcome_shared::http::views::{DropOverview, SlotTimes};

use super::chart::{Chart, chart, length};

/// Number of lines in the table next to the chart.
const LINES: usize = 10;

/// Admissions and rows of a drop, over time.
pub(super) struct Pace {
    pub(super) chart: Chart,
    /// The origin of the time axis of the chart and the table.
    pub(super) since: &'static str,
    /// Describes when half of the slots were given, and the latest row.
    pub(super) summary: String,
    /// Describes the share of sampled slots with a row within a second.
    pub(super) share: String,
    pub(super) lines: Vec<PaceLine>,
}

/// A slot in the table.
pub(super) struct PaceLine {
    pub(super) slot: String,
    pub(super) admitted: String,
    pub(super) row: String,
}

/// Returns the pace of the sample, or `None` if it is empty.
pub(super) fn pace(steps: &[SlotTimes], drop: &DropOverview, sampled: u32) -> Option<Pace> {
    let first = steps.iter().map(|step| step.claimed_at).min()?;
    let end = steps
        .iter()
        .map(|step| step.issued_at.unwrap_or(step.claimed_at))
        .max()?;
    let opened = drop.opens_at;
    // If the first admissions are long after the opening, start the axis at the first one.
    // Otherwise the chart would be a single line at its edge.
    let (begin, since_what) = if first - opened > end - first {
        (first, "the first admission")
    } else {
        (opened, "the opening")
    };
    let since = |at: DateTime<Utc>| (at - begin).max(TimeDelta::zero());
    let took = |step: &SlotTimes| {
        step.issued_at
            .map(|at| (at - step.claimed_at).max(TimeDelta::zero()))
    };
    let mut admitted: Vec<TimeDelta> = steps.iter().map(|step| since(step.claimed_at)).collect();
    let mut issued: Vec<TimeDelta> = steps
        .iter()
        .filter_map(|step| step.issued_at)
        .map(since)
        .collect();
    admitted.sort_unstable();
    issued.sort_unstable();
    let half = *admitted.get(admitted.len().saturating_sub(1) / 2)?;
    let last = *admitted.last()?;
    let slowest = steps.iter().max_by_key(|step| took(step));
    let of_row = slowest
        .and_then(|step| Some((step.slot, took(step)?)))
        .map_or_else(String::new, |(slot, took)| {
            format!(
                " The slowest row came {} after its claim, in slot {}.",
                length(took),
                grouped(slot.into())
            )
        });
    let in_time = steps
        .iter()
        .filter_map(took)
        .filter(|took| *took <= TimeDelta::seconds(1))
        .count();
    let every = steps.len().div_ceil(LINES);
    let is_shown =
        |(at, step): &(usize, &SlotTimes)| at.is_multiple_of(every) || slowest == Some(*step);
    let line = |(_, step): (usize, &SlotTimes)| PaceLine {
        slot: grouped(step.slot.into()),
        admitted: length(since(step.claimed_at)),
        row: took(step).map_or_else(|| "–".to_owned(), length),
    };
    Some(Pace {
        since: since_what,
        chart: chart(&admitted, &issued, drop.quantity, sampled as usize),
        summary: format!(
            "Half of them were admitted within {} of {since_what}, the last after {}.{of_row}",
            length(half),
            length(last)
        ),
        share: share(in_time as u64, steps.len() as u64),
        lines: steps
            .iter()
            .enumerate()
            .filter(is_shown)
            .map(line)
            .collect(),
    })
}

/// Formats a share in percent. It never rounds up to 100 %.
fn share(part: u64, whole: u64) -> String {
    let tenths = (part * 1_000).checked_div(whole).unwrap_or(0);
    format!(
        "{}.{} % of {} sampled",
        tenths / 10,
        tenths % 10,
        grouped(whole)
    )
}

#[cfg(test)]
mod tests {
    use firstcome_shared::coupon::DropState;
    use firstcome_shared::domain::{CouponId, DropId};

    use super::*;

    fn step(slot: u32, claimed_ms: i64, issued_ms: i64) -> SlotTimes {
        let at = |ms| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms);
        SlotTimes {
            slot,
            claimed_at: at(claimed_ms),
            issued_at: Some(at(issued_ms)),
        }
    }

    fn of_drop(steps: &[SlotTimes], quantity: u32) -> Option<Pace> {
        let drop = DropOverview {
            coupon_id: CouponId(3),
            coupon_name: String::new(),
            time_zone: None,
            drop_id: DropId(7),
            opens_at: DateTime::UNIX_EPOCH,
            closes_at: None,
            quantity,
            state: DropState::Open,
            verified: true,
            redis: None,
            rows: None,
            failed_claims: None,
            stuck: false,
            last_run: String::new(),
        };
        pace(steps, &drop, quantity.min(100))
    }

    #[test]
    fn user_without_a_row_appears_only_as_admitted_and_counts_as_late() {
        let mut steps = vec![step(1, 0, 10), step(2, 100, 110)];
        steps[1].issued_at = None;
        let one = of_drop(&steps, 2).unwrap();
        assert_eq!(
            (
                one.chart.admitted.split(' ').count(),
                one.chart.issued.split(' ').count()
            ),
            (2, 1)
        );
        assert_eq!(
            (one.lines[0].row.as_str(), one.lines[1].row.as_str()),
            ("0.0 s", "–")
        );
        assert_eq!(one.share, "50.0 % of 2 sampled");
        steps[0].issued_at = None;
        let none = of_drop(&steps, 2).unwrap();
        assert_eq!(
            (none.chart.issued.as_str(), none.summary.contains("slowest")),
            ("", false)
        );
    }

    #[test]
    fn slowest_row_is_shown_in_chart_table_and_text() {
        let mut steps: Vec<SlotTimes> = (1..=100)
            .map(|n| step(n, i64::from(n) * 10, i64::from(n) * 10 + 30))
            .collect();
        steps[21].issued_at = steps[21].issued_at.map(|at| at + TimeDelta::seconds(34));
        let one = of_drop(&steps, 500).unwrap();
        assert_eq!(
            one.summary,
            "Half of them were admitted within 0.5 s of the opening, the last after 1.0 s. \
             The slowest row came 34.0 s after its claim, in slot 22."
        );
        let slots: Vec<&str> = one.lines.iter().map(|line| line.slot.as_str()).collect();
        assert_eq!(
            slots,
            [
                "1", "11", "21", "22", "31", "41", "51", "61", "71", "81", "91"
            ]
        );
        assert_eq!(
            one.chart.times,
            ["0", "10 s", "20 s", "30 s", "40 s"],
            "all of it has room"
        );
        assert_eq!(one.chart.slots, ["500", "375", "250", "125", "0"]);
        assert!(
            one.chart.issued.ends_with(" 856.2,0.0"),
            "{}",
            one.chart.issued
        );
        assert_eq!(one.share, "99.0 % of 100 sampled");
    }

    #[test]
    fn empty_sample_has_no_chart_and_row_before_its_claim_is_tolerated() {
        assert!(of_drop(&[], 9).is_none());
        let one = of_drop(&[step(7, 5_000, 4_000)], 9).unwrap();
        assert_eq!(one.lines[0].row, "0.0 s");
        let late = of_drop(
            &[step(1, 3_600_000, 3_600_030), step(2, 3_601_000, 3_601_100)],
            9,
        )
        .unwrap();
        assert_eq!(
            (late.since, late.chart.times[4].as_str()),
            ("the first admission", "2 s")
        );
        let early = of_drop(&[step(7, -5_000, -4_000)], 9).unwrap();
        for chart in [one.chart, early.chart] {
            assert!(
                !chart.admitted.contains("NaN") && !chart.admitted.contains('-'),
                "{}",
                chart.admitted
            );
        }
    }

    #[test]
    fn share_is_never_rounded_up_to_100_percent() {
        assert_eq!(share(9_999, 10_000), "99.9 % of 10,000 sampled");
        assert_eq!(share(10, 10), "100.0 % of 10 sampled");
        assert_eq!(share(0, 0), "0.0 % of 0 sampled");
    }
}
