//! IANA time zones. The rules are those in this program, so that all processes of a version agree on
//! each opening, whatever their hosts have installed.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::LazyLock;

use chrono::{DateTime, FixedOffset, NaiveDateTime, Offset as _, TimeDelta, Timelike as _, Utc};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A time zone by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tz(&'static TimeZone);

/// All zones by name, read once.
static ZONES: LazyLock<BTreeMap<String, TimeZone>> = LazyLock::new(|| {
    let bundled = TimeZoneDatabase::bundled();
    let named = bundled.available().filter_map(|name| {
        let zone = bundled.get(name.as_str()).ok()?;
        Some((name.to_string(), zone))
    });
    named.collect()
});

static UTC: TimeZone = TimeZone::UTC;

/// Returns the names of all zones.
pub fn names() -> impl Iterator<Item = &'static str> {
    ZONES.keys().map(String::as_str)
}

impl Tz {
    /// Returns the time zone UTC.
    pub fn utc() -> Self {
        Self(&UTC)
    }

    pub fn name(self) -> &'static str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Returns the time that clocks in this zone show.
    pub fn local(self, at: DateTime<Utc>) -> DateTime<FixedOffset> {
        let instant = Timestamp::from_second(at.timestamp()).unwrap_or_default();
        let offset = FixedOffset::east_opt(self.0.to_offset(instant).seconds());
        at.with_timezone(&offset.unwrap_or(Utc.fix()))
    }

    /// Returns when clocks in this zone change next after `at`.
    pub fn next_change(self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = Timestamp::from_second(at.timestamp()).ok()?;
        let change = self.0.following(after).next()?.timestamp();
        DateTime::from_timestamp(change.as_second(), 0)
    }

    /// Returns the instant at which clocks in this zone show `local`. A time that occurs twice
    /// means the first occurrence; a skipped time is moved forward by the length of the gap (02:30
    /// becomes 03:30), as in RFC 5545.
    pub fn instant(self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let as_utc = Timestamp::from_second(local.and_utc().timestamp()).ok()?;
        let instant = self
            .0
            .to_ambiguous_timestamp(Offset::UTC.to_datetime(as_utc))
            .compatible()
            .ok()?;
        DateTime::from_timestamp(instant.as_second(), local.nanosecond())
    }

    /// Like [`instant`](Self::instant), but a skipped time means the end of the gap.
    pub fn first_instant(self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let instant = self.instant(local)?;
        if self.local(instant).naive_local() == local {
            return Some(instant);
        }
        // A gap lasts at most a day (Samoa skipped one), and clocks change less often than daily.
        self.next_change(instant - TimeDelta::days(1))
    }
}

impl FromStr for Tz {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim();
        // Most processes use no other zone, so they need not read the rules of six hundred.
        if name == "UTC" {
            return Ok(Self::utc());
        }
        let zone = ZONES.get(name).map(Self);
        zone.ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            format!("{shown:?} is not a time zone; give an IANA name such as Asia/Seoul")
        })
    }
}

impl Serialize for Tz {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Tz {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_found_by_its_iana_name_and_any_other_name_is_refused() {
        assert_eq!(" Asia/Seoul ".parse().map(Tz::name), Ok("Asia/Seoul"));
        assert_eq!("UTC".parse(), Ok(Tz::utc()));
        for other in ["", "Seoul", "KST", "+09:00", &"x".repeat(10_000)] {
            let error = other.parse::<Tz>().unwrap_err();
            assert!(
                error.ends_with("give an IANA name such as Asia/Seoul") && error.len() < 150,
                "{error}"
            );
        }
    }
}
