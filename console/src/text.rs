//! How values are shown. Foreign texts are reduced to one harmless line.

use chrono::{DateTime, NaiveDateTime, Utc};
use firstcome_shared::report::wording::{LONGEST, grouped, line, person};
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

/// A number that identifies something, such as a slot, or a count in MySQL: without separators.
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

/// Shows the ID of a user, masked until it is revealed.
pub(crate) fn whom(user: Option<&String>, revealed: bool) -> String {
    let shown = user.map(|id| if revealed { id.text() } else { person(id) });
    shown.text()
}

/// Reads a time of a browser's `datetime-local` in this zone. A time that the clocks skip there is
/// invalid.
pub(crate) fn local_time(typed: &str, zone: Tz) -> Option<DateTime<Utc>> {
    let local = NaiveDateTime::parse_from_str(typed, "%Y-%m-%dT%H:%M").ok()?;
    let at = zone.instant(local)?;
    (zone.local(at).naive_local() == local).then_some(at)
}

/// Formats a time to the minute in this zone; `None`: in UTC.
pub(crate) fn short(at: DateTime<Utc>, zone: Option<Tz>) -> String {
    let Some(zone) = zone.filter(|zone| *zone != Tz::utc()) else {
        return at.format("%Y-%m-%d %H:%M UTC").to_string();
    };
    let at = zone.local(at);
    at.format("%Y-%m-%d %H:%M %Z").to_string()
}

/// Formats the period between two times in the coupon's zone. A drop without an end stays open.
/// Times in UTC are complete, because the browser shows each of them in its own zone.
pub(crate) fn window(
    opens: DateTime<Utc>,
    closes: Option<DateTime<Utc>>,
    zone: Option<Tz>,
) -> String {
    let Some(zone) = zone.filter(|zone| *zone != Tz::utc()) else {
        let opens = short(opens, None);
        return match closes {
            Some(closes) => format!("{opens} to {}", short(closes, None)),
            None => format!("from {opens}"),
        };
    };
    let there = |at| zone.local(at).format("%Y-%m-%d %H:%M").to_string();
    let begin = there(opens);
    let name = zone.name();
    let Some(end) = closes.map(there) else {
        return format!("from {begin} {name}");
    };
    // The end of the same day is only a time.
    let day = begin.split_inclusive(' ').next().unwrap_or_default();
    format!(
        "{begin} to {} {name}",
        end.strip_prefix(day).unwrap_or(&end)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_clocks_skip_is_invalid_and_of_a_repeated_time_the_first_counts() {
        let berlin: Tz = "Europe/Berlin".parse().unwrap();
        let read = |typed| local_time(typed, berlin).map(|at: DateTime<Utc>| at.to_rfc3339());
        assert_eq!(read("2027-03-28T02:30"), None);
        let first = "2027-10-31T00:30:00+00:00";
        assert_eq!(read("2027-10-31T02:30").as_deref(), Some(first));
    }

    #[test]
    fn times_of_a_coupon_are_shown_in_its_zone_or_in_utc() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let opens = at("2026-12-01T06:00:00Z");
        let [same, next] = ["2026-12-01T09:00:00Z", "2026-12-01T16:00:00Z"].map(|it| Some(at(it)));
        let seoul = Some("Asia/Seoul".parse().unwrap());
        for (text, expected) in [
            (short(opens, None), "2026-12-01 06:00 UTC"),
            (short(opens, seoul), "2026-12-01 15:00 +09:00"),
            (window(opens, None, None), "from 2026-12-01 06:00 UTC"),
            (
                window(opens, None, seoul),
                "from 2026-12-01 15:00 Asia/Seoul",
            ),
            (
                window(opens, same, None),
                "2026-12-01 06:00 UTC to 2026-12-01 09:00 UTC",
            ),
            (
                window(opens, same, seoul),
                "2026-12-01 15:00 to 18:00 Asia/Seoul",
            ),
            (
                window(opens, next, seoul),
                "2026-12-01 15:00 to 2026-12-02 01:00 Asia/Seoul",
            ),
        ] {
            assert_eq!(text, expected);
        }
    }
}
