//! Previews a schedule: its next openings in local time and UTC.

use std::fmt::Write as _;

use chrono::{DateTime, Local, Utc};
use firstcome_shared::coupon::CouponSettings;
use firstcome_shared::http::json;
use firstcome_shared::schedule::{AT_ONCE, Opening, Schedule};
use serde_json::{Value, json};

/// Lists the next ten openings of a coupon that does not exist yet. Refuses the same input that the
/// API refuses.
pub(super) fn preview(body: &Value, now: DateTime<Utc>, json: bool) -> Result<String, String> {
    let body: CouponSettings = json::read(body.to_string().as_bytes())?;
    let checked = body.checked_new(now)?;
    let planned = checked.schedule.ok_or("schedule is missing")?;
    let openings = match &planned {
        Schedule::Once { .. } => planned.preview(now, &Local),
        Schedule::Daily { time_zone, .. } => planned.preview(now, time_zone),
    };
    let openings = openings.map_err(|error| format!("schedule: {error}"))?;
    if !json {
        return Ok(table(&openings, zone_of(&planned)).trim_start().to_owned());
    }
    let openings = openings
        .iter()
        .map(|one| json!({"opens_at": one.drop.opens_at, "closes_at": one.drop.closes_at, "at_once": one.at_once}));
    Ok(format!("{}\n", openings.collect::<Value>()))
}

/// Formats the next ten openings as a table, or says that there are none.
pub(super) fn next_ten(schedule: &Value, now: DateTime<Utc>) -> String {
    let Ok(schedule) = serde_json::from_value::<Schedule>(schedule.clone()) else {
        return "\nno schedule: its drops were created manually\n".to_owned();
    };
    let openings = match &schedule {
        Schedule::Once { .. } => schedule.to_come(now, &Local),
        Schedule::Daily { time_zone, .. } => schedule.to_come(now, time_zone),
    };
    if openings.is_empty() {
        "\nno opening is to come\n".to_owned()
    } else {
        table(&openings, zone_of(&schedule))
    }
}

fn zone_of(schedule: &Schedule) -> &'static str {
    match schedule {
        Schedule::Once { .. } => "your time",
        Schedule::Daily { time_zone, .. } => time_zone.name(),
    }
}

fn table(openings: &[Opening], zone: &str) -> String {
    let mut text = format!(
        "\nopens next\n  {zone:<27}  {:<16}  closes ({zone})\n",
        "UTC"
    );
    for Opening {
        local,
        utc,
        closes,
        at_once,
        ..
    } in openings
    {
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {local:<27}  {utc:<16}  {closes}");
        if *at_once {
            let _ = writeln!(text, "    its window has begun: it {AT_ONCE}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_keep_their_local_time_when_the_clocks_change() {
        let schedule = json!({
            "type": "daily", "time_zone": "Europe/Berlin", "opens": "02:30", "closes": "04:00", "first_day": "2026-03-28",
            "last_day": "2026-03-30",
        });
        let text = next_ten(&schedule, "2026-03-27T12:00:00Z".parse().unwrap());
        // On the 29th, 02:30 does not exist and becomes 03:30.
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
        assert!(
            text.contains("Fri 2026-12-04 15:00 +09:00  2026-12-04 06:00"),
            "the drop of today has opened: {text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let body = |schedule: &Value| json!({"name": "x", "quantity": 1, "once_per": "coupon", "schedule": schedule});
        let preview_of = |schedule: &Value| {
            preview(
                &body(schedule),
                "2026-12-03T06:00:01Z".parse().unwrap(),
                true,
            )
        };
        let told: Value = serde_json::from_str(&preview_of(&endless).unwrap()).unwrap();
        assert_eq!(told.as_array().unwrap().len(), 10, "{told}");
        let today = json!({"opens_at": "2026-12-03T06:00:00Z", "closes_at": "2026-12-03T09:00:00Z", "at_once": true});
        assert_eq!(
            (&told[0], &told[1]["opens_at"]),
            (&today, &json!("2026-12-04T06:00:00Z"))
        );
        let backwards = json!({"type": "once", "opens_at": "2027-01-02T00:00:00Z", "closes_at": "2027-01-01T00:00:00Z"});
        assert!(
            preview_of(&backwards)
                .unwrap_err()
                .contains("later than opens_at")
        );
        let begun = json!({"type": "once", "opens_at": "2026-01-01T00:00:00Z"});
        let text = preview(
            &body(&begun),
            "2026-12-03T06:00:01Z".parse().unwrap(),
            false,
        )
        .unwrap();
        assert!(
            text.contains("stays open") && text.contains("it opens at once"),
            "{text}"
        );
        let over = json!({"type": "once", "opens_at": "2026-01-01T00:00:00Z", "closes_at": "2026-01-02T00:00:00Z"});
        assert!(preview_of(&over).unwrap_err().contains("would never open"));
        assert!(next_ten(&over, "2026-12-03T06:00:01Z".parse().unwrap()).contains("no opening"));
        assert!(next_ten(&Value::Null, Utc::now()).contains("manually"));
        for (field, value) in [
            ("quantity", json!(0)),
            ("name", json!(" ")),
            ("allow", json!("vip")),
        ] {
            let mut wrong = body(&endless);
            wrong[field] = value;
            let refused =
                preview(&wrong, "2026-12-03T06:00:01Z".parse().unwrap(), true).unwrap_err();
            assert!(refused.contains(field), "{refused}");
        }
    }
}
