//! A preview of a schedule: when it opens next, in local time and in UTC.

use std::fmt::Write as _;

use chrono::{DateTime, Local, TimeZone, Utc};
use firstcome_shared::schedule::{PlannedDrop, Schedule};
use serde_json::{Value, json};

/// How many are shown.
const OPENINGS: usize = 10;

/// The next ten openings of a coupon that is not made yet; an error says why it can't be made.
pub(super) fn preview(schedule: &Value, now: DateTime<Utc>, json: bool) -> Result<String, String> {
    let wrong = |why: String| format!("schedule: {why}");
    let planned: Schedule = serde_json::from_value(schedule.clone()).map_err(|error| wrong(error.to_string()))?;
    planned.check().map_err(|error| wrong(error.to_string()))?;
    if !json {
        return Ok(next_ten(schedule, now).trim_start().to_owned());
    }
    let openings = planned.openings(now, OPENINGS);
    let openings = openings.iter().map(|drop| json!({"opens_at": drop.opens_at, "closes_at": drop.closes_at}));
    Ok(format!("{}\n", openings.collect::<Value>()))
}

/// The next ten openings as a table; a sentence where there is none.
pub(super) fn next_ten(schedule: &Value, now: DateTime<Utc>) -> String {
    let Ok(schedule) = serde_json::from_value::<Schedule>(schedule.clone()) else {
        return "\nno schedule: its drops are put in by hand\n".to_owned();
    };
    let openings = schedule.openings(now, OPENINGS);
    if openings.is_empty() {
        return "\nno opening is to come\n".to_owned();
    }
    match &schedule {
        Schedule::Once { .. } => table(&openings, &Local, "your time"),
        Schedule::Daily { time_zone, .. } => table(&openings, time_zone, time_zone.name()),
    }
}

fn table<Z: TimeZone<Offset: std::fmt::Display>>(openings: &[PlannedDrop], zone: &Z, name: &str) -> String {
    let mut text = format!("\nopens next\n  {name:<27}  {:<16}  closes ({name})\n", "UTC");
    for drop in openings {
        let local = drop.opens_at.with_timezone(zone).format("%a %Y-%m-%d %H:%M %:z");
        let closes = drop.closes_at.map(|at| at.with_timezone(zone).format("%m-%d %H:%M %:z").to_string());
        let (utc, closes) = (drop.opens_at.format("%Y-%m-%d %H:%M"), closes.unwrap_or_else(|| "stays open".to_owned()));
        // Writing to a text can't fail.
        let _ = writeln!(text, "  {local:<27}  {utc:<16}  {closes}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_keep_their_local_time_through_a_change_of_clocks() {
        let schedule = json!({
            "type": "daily", "time_zone": "Europe/Berlin", "opens": "02:30", "closes": "04:00", "first_day": "2026-03-28",
            "last_day": "2026-03-30",
        });
        let text = next_ten(&schedule, "2026-03-27T12:00:00Z".parse().unwrap());
        // On the 29th there is no 02:30: it is 03:30 there.
        for line in [
            "Sat 2026-03-28 02:30 +01:00  2026-03-28 01:30  03-28 04:00 +01:00",
            "Sun 2026-03-29 03:30 +02:00  2026-03-29 01:30  03-29 04:00 +02:00",
            "Mon 2026-03-30 02:30 +02:00  2026-03-30 00:30  03-30 04:00 +02:00",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(text.lines().count(), 6, "{text}");
        let endless = json!({
            "type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00", "first_day": "2026-12-01",
        });
        let text = next_ten(&endless, "2026-12-03T06:00:01Z".parse().unwrap());
        assert_eq!(text.lines().count(), 13, "{text}");
        assert!(text.contains("Fri 2026-12-04 15:00 +09:00  2026-12-04 06:00"), "today's has opened: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let preview_of = |schedule: &Value| preview(schedule, "2026-12-03T06:00:01Z".parse().unwrap(), true);
        let told: Value = serde_json::from_str(&preview_of(&endless).unwrap()).unwrap();
        assert_eq!(told.as_array().unwrap().len(), 10, "{told}");
        assert_eq!(told[0], json!({"opens_at": "2026-12-04T06:00:00Z", "closes_at": "2026-12-04T09:00:00Z"}));
        let backwards =
            json!({"type": "once", "opens_at": "2027-01-02T00:00:00Z", "closes_at": "2027-01-01T00:00:00Z"});
        assert!(preview_of(&backwards).unwrap_err().contains("later than opens_at"));
        let over = json!({"type": "once", "opens_at": "2026-01-01T00:00:00Z"});
        assert!(next_ten(&over, "2026-12-03T06:00:01Z".parse().unwrap()).contains("no opening"));
        assert!(next_ten(&Value::Null, Utc::now()).contains("by hand"));
    }
}
