//! Draws a chart with two lines that show slots over the time since the opening. The labels of both
//! axes are evenly spaced, so that the style sheet can place them: the page has no inline styles.

use chrono::TimeDelta;

use firstcome_notifier::wording::grouped;

/// Width and height of the drawing, in its own units.
const SIZE: f64 = 1_000.0;

/// Number of divisions of the time axis.
const PARTS: i64 = 4;

/// Readable lengths of a division, in milliseconds.
const STEPS: [i64; 24] = [
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    15_000,
    30_000,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    5 * DAY,
    10 * DAY,
];
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

pub(super) struct Chart {
    /// Points of an SVG polyline.
    pub(super) admitted: String,
    pub(super) issued: String,
    /// Grid lines at the labels of both axes, as a path.
    pub(super) grid: String,
    /// Labels of the time axis, from left to right.
    pub(super) times: Vec<String>,
    /// Labels of the slot axis, from top to bottom.
    pub(super) slots: Vec<String>,
}

/// Draws the chart. Both lists are sorted times since the opening. `sampled` is the number of the
/// drop's slots in the sample.
pub(super) fn chart(
    admitted: &[TimeDelta],
    issued: &[TimeDelta],
    quantity: u32,
    sampled: usize,
) -> Chart {
    let longest = admitted
        .last()
        .max(issued.last())
        .copied()
        .unwrap_or_default()
        .num_milliseconds();
    let fits = |step: &i64| step * PARTS >= longest;
    // Beyond the largest step, use whole days.
    let step = STEPS
        .into_iter()
        .find(fits)
        .unwrap_or((longest / PARTS / DAY + 1) * DAY);
    let end = TimeDelta::milliseconds(step * PARTS);
    let parts = parts(quantity);
    // Each user in the sample represents several users.
    #[expect(clippy::cast_precision_loss, reason = "a sample of a hundred")]
    let up = |number: usize| SIZE - number as f64 / sampled.max(number) as f64 * SIZE;
    let point = |(at, since): (usize, &TimeDelta)| {
        format!(
            "{:.1},{:.1}",
            since.as_seconds_f64() / end.as_seconds_f64() * SIZE,
            up(at + 1)
        )
    };
    let points = |all: &[TimeDelta]| {
        all.iter()
            .enumerate()
            .map(point)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let across = (1..PARTS).map(|part| format!("M{} 0V1000", part * 1_000 / PARTS));
    let upwards = (1..parts).map(|part| format!("M0 {}H1000", part * 1_000 / parts));
    Chart {
        admitted: points(admitted),
        issued: points(issued),
        grid: across.chain(upwards).collect(),
        times: (0..=PARTS).map(|part| label(step * part)).collect(),
        slots: (0..=parts)
            .rev()
            .map(|part| grouped(u64::from(quantity) * part / parts))
            .collect(),
    }
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
    let whole = |unit: i64| ms % unit == 0;
    match ms {
        0 => "0".to_owned(),
        _ if whole(DAY) => format!("{} d", ms / DAY),
        _ if whole(HOUR) => format!("{} h", ms / HOUR),
        _ if whole(MINUTE) => format!("{} min", ms / MINUTE),
        _ if whole(1_000) => format!("{} s", ms / 1_000),
        _ => length(TimeDelta::milliseconds(ms)),
    }
}

/// Formats a duration in its largest unit.
pub(super) fn length(time: TimeDelta) -> String {
    match time.num_minutes() {
        ..2 => format!("{:.1} s", time.as_seconds_f64()),
        minutes @ 2..120 => format!("{minutes} min"),
        minutes @ 120..2_880 => format!("{} h", minutes / 60),
        minutes => format!("{} days", minutes / 1_440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_cover_all_points() {
        let drawn = |ms: i64, quantity: u32| {
            let at = [TimeDelta::milliseconds(ms)];
            let one = chart(&at, &at, quantity, 1);
            let x: f64 = one.issued.split(',').next().unwrap().parse().unwrap();
            assert!(x <= SIZE, "{ms}: {x}");
            (one.times.join(", "), one.slots.join(", "))
        };
        for (ms, times) in [
            (0, "0, 0.1 s, 0.2 s, 0.3 s, 0.4 s"),
            (401, "0, 0.2 s, 0.4 s, 0.6 s, 0.8 s"),
            (4_600, "0, 2 s, 4 s, 6 s, 8 s"),
            (60_000, "0, 15 s, 30 s, 45 s, 1 min"),
            (90 * MINUTE, "0, 30 min, 1 h, 90 min, 2 h"),
            (DAY, "0, 6 h, 12 h, 18 h, 1 d"),
            (41 * DAY, "0, 11 d, 22 d, 33 d, 44 d"),
        ] {
            assert_eq!(drawn(ms, 100).0, times);
        }
        for (quantity, slots) in [
            (1, "1, 0"),
            (6, "6, 3, 0"),
            (20, "20, 15, 10, 5, 0"),
            (1_001, "1,001, 750, 500, 250, 0"),
        ] {
            assert_eq!(drawn(0, quantity).1, slots);
        }
    }
}
