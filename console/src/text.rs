//! How values are shown. Foreign texts are reduced to one harmless line.

use chrono::{DateTime, NaiveDateTime, Utc};
use firstcome_notifier::wording::{LONGEST, grouped, line};
use firstcome_shared::schedule::Tz;

/// A value as the screens show it.
pub(crate) trait Text {
    fn text(&self) -> String;
}

impl Text for str {
    fn text(&self) -> String {
        line(self, LONGEST)
    }
}

impl Text for String {
    fn text(&self) -> String {
        self.as_str().text()
    }
}

impl Text for DateTime<Utc> {
    fn text(&self) -> String {
        self.format("%Y-%m-%d %H:%M:%S UTC").to_string()
    }
}

impl Text for u32 {
    fn text(&self) -> String {
        grouped((*self).into())
    }
}

impl Text for u64 {
    fn text(&self) -> String {
        grouped(*self)
    }
}

/// Numbers that name something, such as a slot, or that MySQL counts.
impl Text for i64 {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl<T: Text> Text for Option<T> {
    fn text(&self) -> String {
        self.as_ref().map_or_else(|| "–".to_owned(), Text::text)
    }
}

pub(crate) fn clock(at: DateTime<Utc>) -> String {
    at.format("%H:%M:%S UTC").to_string()
}

/// Formats a time to the minute, for use next to a time that already shows the zone.
pub(crate) fn short(at: DateTime<Utc>, zone: Option<Tz>) -> String {
    match zone.filter(|zone| *zone != Tz::utc()) {
        Some(zone) => {
            let at = zone.local(at);
            at.format("%Y-%m-%d %H:%M %Z").to_string()
        }
        None => at.format("%Y-%m-%d %H:%M UTC").to_string(),
    }
}

/// Formats the period between two times in the coupon's zone and in UTC. A drop without an end stays
/// open.
pub(crate) fn window(
    opens: DateTime<Utc>,
    closes: Option<DateTime<Utc>>,
    zone: Option<Tz>,
) -> String {
    let from = if closes.is_some() { "" } else { "from " };
    let utc = [Some(opens.naive_utc()), closes.map(|at| at.naive_utc())];
    let Some(zone) = zone.filter(|zone| *zone != Tz::utc()) else {
        return format!("{from}{} UTC", local(utc, None));
    };
    let there = [Some(opens), closes].map(|at| at.map(|at| zone.local(at).naive_local()));
    let (there_text, utc) = (local(there, None), local(utc, there[0]));
    format!("{from}{there_text} {} ({utc} UTC)", zone.name())
}

/// Formats local times. The day of `beside`, a preceding time, is not repeated.
fn local([begin, end]: [Option<NaiveDateTime>; 2], beside: Option<NaiveDateTime>) -> String {
    let text = |at: NaiveDateTime, before: Option<NaiveDateTime>| {
        let is_same_day = before.is_some_and(|before| before.date() == at.date());
        let form = if is_same_day {
            "%H:%M"
        } else {
            "%Y-%m-%d %H:%M"
        };
        at.format(form).to_string()
    };
    let begins = begin.map(|at| text(at, beside)).unwrap_or_default();
    match end {
        None => begins,
        Some(end) => format!("{begins} to {}", text(end, begin)),
    }
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
            (
                window(opens, None, seoul),
                "from 2026-12-01 15:00 Asia/Seoul (06:00 UTC)",
            ),
            (
                window(at("2026-11-30T15:30:00Z"), None, seoul),
                "from 2026-12-01 00:30 Asia/Seoul (2026-11-30 15:30 UTC)",
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
