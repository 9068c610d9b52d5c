//! Formats times for screens: in UTC and, for a daily coupon, also in its time zone.

use chrono::{DateTime, NaiveDateTime, Utc};
use firstcome_shared::schedule::Tz;

pub(super) fn clock(at: DateTime<Utc>) -> String {
    at.format("%H:%M:%S UTC").to_string()
}

pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Formats a time to the minute in the coupon's zone and in UTC.
pub(super) fn minute(at: DateTime<Utc>, zone: Option<Tz>) -> String {
    span(at, None, zone)
}

/// Formats a time to the minute, for use next to a time that already shows the zone.
pub(super) fn short(at: DateTime<Utc>, zone: Option<Tz>) -> String {
    match zone.filter(|zone| *zone != Tz::utc()) {
        Some(zone) => at
            .with_timezone(&zone)
            .format("%Y-%m-%d %H:%M %Z")
            .to_string(),
        None => at.format("%Y-%m-%d %H:%M UTC").to_string(),
    }
}

/// Formats the period between two times.
pub(super) fn window(
    opens: DateTime<Utc>,
    closes: Option<DateTime<Utc>>,
    zone: Option<Tz>,
) -> String {
    let text = span(opens, closes, zone);
    if closes.is_some() {
        text
    } else {
        format!("from {text}")
    }
}

fn span(begin: DateTime<Utc>, end: Option<DateTime<Utc>>, zone: Option<Tz>) -> String {
    let utc = [Some(begin), end].map(|at| at.map(|at| at.naive_utc()));
    let Some(zone) = zone.filter(|zone| *zone != Tz::utc()) else {
        return format!("{} UTC", local(utc, None));
    };
    let there = [Some(begin), end].map(|at| at.map(|at| at.with_timezone(&zone).naive_local()));
    format!(
        "{} {} ({} UTC)",
        local(there, None),
        zone.name(),
        local(utc, there[0])
    )
}

/// Formats local times. The day of `beside`, a preceding time, is not repeated.
fn local([begin, end]: [Option<NaiveDateTime>; 2], beside: Option<NaiveDateTime>) -> String {
    let text = |at: NaiveDateTime, before: Option<NaiveDateTime>| {
        let is_same_day = before.is_some_and(|before| before.date() == at.date());
        at.format(if is_same_day {
            "%H:%M"
        } else {
            "%Y-%m-%d %H:%M"
        })
        .to_string()
    };
    let begins = begin.map(|at| text(at, beside)).unwrap_or_default();
    end.map_or(begins.clone(), |end| {
        format!("{begins} to {}", text(end, begin))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_daily_coupon_are_shown_in_its_zone_and_in_utc() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let opens = at("2026-12-01T06:00:00Z");
        let closes = Some(at("2026-12-01T09:00:00Z"));
        let seoul = Some("Asia/Seoul".parse().unwrap());
        for (text, expected) in [
            (minute(opens, None), "2026-12-01 06:00 UTC"),
            (
                minute(opens, seoul),
                "2026-12-01 15:00 Asia/Seoul (06:00 UTC)",
            ),
            (
                minute(at("2026-11-30T15:30:00Z"), seoul),
                "2026-12-01 00:30 Asia/Seoul (2026-11-30 15:30 UTC)",
            ),
            (short(opens, None), "2026-12-01 06:00 UTC"),
            (short(opens, seoul), "2026-12-01 15:00 +09:00"),
            (window(opens, None, None), "from 2026-12-01 06:00 UTC"),
            (window(opens, closes, None), "2026-12-01 06:00 to 09:00 UTC"),
            (
                window(opens, closes, Some(Tz::utc())),
                "2026-12-01 06:00 to 09:00 UTC",
            ),
            (
                window(opens, closes, seoul),
                "2026-12-01 15:00 to 18:00 Asia/Seoul (06:00 to 09:00 UTC)",
            ),
            (
                window(opens, Some(at("2026-12-01T16:00:00Z")), seoul),
                "2026-12-01 15:00 to 2026-12-02 01:00 Asia/Seoul (06:00 to 16:00 UTC)",
            ),
            (
                window(opens, Some(at("2026-12-24T06:00:00Z")), None),
                "2026-12-01 06:00 to 2026-12-24 06:00 UTC",
            ),
        ] {
            assert_eq!(text, expected);
        }
    }
}
