//! The pace of a drop: a chart with two lines that show slots over the time since the opening, and
//! a sentence that says the same. The labels of both axes are evenly spaced, so that the style
//! sheet can place them: the page has no inline styles.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::http::views::DropOverview;
use firstcome_shared::mysql::pace::SlotTimes;
use firstcome_shared::report::wording::grouped;

/// Width and height of the drawing, in its own units.
const SIZE: f64 = 1_000.0;

/// Number of divisions of the time axis.
const PARTS: i64 = 4;

/// Readable lengths of a division in milliseconds; beyond the largest, whole days.
const STEPS: [i64; 10] = [
    100,
    500,
    1_000,
    5_000,
    15_000,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    HOUR,
    6 * HOUR,
];
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

pub(super) struct Chart {
    /// The origin of the time axis.
    pub(super) since: &'static str,
    /// Points of an SVG polyline.
    pub(super) admitted: String,
    pub(super) issued: String,
    /// Grid lines at the labels of both axes, as a path.
    pub(super) grid: String,
    /// Labels of the time axis, from left to right.
    pub(super) times: Vec<String>,
    /// Labels of the slot axis, from top to bottom.
    pub(super) slots: Vec<String>,
    /// When half of the slots were given, and the slowest row.
    pub(super) summary: String,
}

/// Draws a sample of a drop's slots, or `None` if it is empty.
pub(super) fn chart(sample: &[SlotTimes], drop: &DropOverview, sampled: u32) -> Option<Chart> {
    let first = sample.iter().map(|one| one.claimed_at).min()?;
    let end = sample
        .iter()
        .map(|one| one.issued_at.unwrap_or(one.claimed_at));
    // If the first admissions are long after the opening, start the axis at the first one.
    // Otherwise the chart would be a single line at its edge.
    let (begin, since) = if first - drop.opens_at > end.max()? - first {
        (first, "the first admission")
    } else {
        (drop.opens_at, "the opening")
    };
    let after = |at: DateTime<Utc>| (at - begin).max(TimeDelta::zero());
    let mut admitted: Vec<TimeDelta> = sample.iter().map(|one| after(one.claimed_at)).collect();
    let mut issued: Vec<TimeDelta> = sample
        .iter()
        .filter_map(|one| one.issued_at)
        .map(after)
        .collect();
    admitted.sort_unstable();
    issued.sort_unstable();
    let longest = admitted.last().max(issued.last())?.num_milliseconds();
    let step = STEPS
        .into_iter()
        .find(|step| step * PARTS >= longest)
        .unwrap_or((longest / PARTS / DAY + 1) * DAY);
    let parts = parts(drop.quantity);
    let line = |times: &[TimeDelta]| line(times, step * PARTS, sampled as usize);
    let across = (1..PARTS).map(|part| format!("M{} 0V1000", part * 1_000 / PARTS));
    let upwards = (1..parts).map(|part| format!("M0 {}H1000", part * 1_000 / parts));
    Some(Chart {
        since,
        admitted: line(&admitted),
        issued: line(&issued),
        grid: across.chain(upwards).collect(),
        times: (0..=PARTS).map(|part| label(step * part)).collect(),
        slots: (0..=parts)
            .rev()
            .map(|part| grouped(u64::from(drop.quantity) * part / parts))
            .collect(),
        summary: summary(sample, &admitted, since)?,
    })
}

/// Draws one line. Each user in the sample represents several users.
fn line(times: &[TimeDelta], end_ms: i64, sampled: usize) -> String {
    let mut points = String::new();
    #[expect(clippy::cast_precision_loss, reason = "a sample of a hundred")]
    for (at, time) in times.iter().enumerate() {
        let x = time.num_milliseconds() as f64 / end_ms as f64 * SIZE;
        let y = SIZE - (at + 1) as f64 / sampled.max(times.len()) as f64 * SIZE;
        points = format!("{points}{x:.1},{y:.1} ");
    }
    points.trim_end().to_owned()
}

fn summary(sample: &[SlotTimes], admitted: &[TimeDelta], since: &str) -> Option<String> {
    let took = |one: &SlotTimes| Some((one.issued_at? - one.claimed_at).max(TimeDelta::zero()));
    let half = length(*admitted.get(admitted.len().saturating_sub(1) / 2)?);
    let last = length(*admitted.last()?);
    let mut text =
        format!("Half of them were admitted within {half} of {since}, the last after {last}.");
    let slowest = sample.iter().max_by_key(|one| took(one))?;
    if let Some(took) = took(slowest) {
        let took = length(took);
        let slot = grouped(slowest.slot.into());
        text = format!("{text} The slowest row came {took} after its claim, in slot {slot}.");
    }
    Some(text)
}

/// Returns the number of divisions of the slot axis, so that labels are whole numbers or nearly so.
fn parts(quantity: u32) -> u64 {
    match quantity {
        n if n >= 100 || n.is_multiple_of(4) => 4,
        n if n.is_multiple_of(2) => 2,
        _ => 1,
    }
}

fn label(ms: i64) -> String {
    for (unit, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (1_000, "s")] {
        if ms > 0 && ms % unit == 0 {
            return format!("{} {name}", ms / unit);
        }
    }
    if ms == 0 {
        return "0".to_owned();
    }
    length(TimeDelta::milliseconds(ms))
}

/// Formats a duration in its largest unit.
fn length(time: TimeDelta) -> String {
    match time.num_minutes() {
        ..2 => format!("{:.1} s", time.as_seconds_f64()),
        minutes @ 2..120 => format!("{minutes} min"),
        minutes @ 120..2_880 => format!("{} h", minutes / 60),
        minutes => format!("{} days", minutes / 1_440),
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::coupon::DropState;
    use firstcome_shared::domain::{CouponId, DropId};

    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms)
    }

    fn with_quantity(quantity: u32) -> DropOverview {
        DropOverview {
            coupon_id: CouponId(1),
            coupon_name: "Winter".to_owned(),
            time_zone: None,
            drop_id: DropId(7),
            opens_at: at(0),
            closes_at: None,
            quantity,
            state: DropState::Open,
            paused: false,
            verified: true,
            redis: None,
            rows: None,
            failed_claims: None,
            last_run: String::new(),
        }
    }

    fn slot(slot: u32, claimed: i64, issued: Option<i64>) -> SlotTimes {
        SlotTimes {
            slot,
            claimed_at: at(claimed),
            issued_at: issued.map(at),
        }
    }

    #[test]
    fn lines_labels_and_sentence_say_the_same() {
        let sample = [
            slot(1, 200, Some(400)),
            slot(2, 800, Some(3_900)),
            slot(3, 1_000, None),
        ];
        let chart = chart(&sample, &with_quantity(4), 4).unwrap();
        assert_eq!(chart.admitted, "50.0,750.0 200.0,500.0 250.0,250.0");
        assert_eq!(chart.issued, "100.0,750.0 975.0,500.0");
        assert_eq!(chart.times, ["0", "1 s", "2 s", "3 s", "4 s"]);
        assert_eq!(chart.slots, ["4", "3", "2", "1", "0"]);
        assert_eq!(
            chart.summary,
            "Half of them were admitted within 0.8 s of the opening, the last after 1.0 s. \
             The slowest row came 3.1 s after its claim, in slot 2."
        );
    }

    #[test]
    fn late_admissions_begin_the_axis_and_an_empty_sample_has_no_chart() {
        assert!(chart(&[], &with_quantity(4), 4).is_none());
        let late = chart(&[slot(1, 3_600_000, None)], &with_quantity(3), 3).unwrap();
        assert_eq!(late.since, "the first admission");
        assert_eq!(late.slots, ["3", "0"]);
    }
}
