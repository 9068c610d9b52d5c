//! When a coupon opens: once, or daily in an IANA time zone. Drop times are computed from the zone
//! and stored in UTC.

pub mod time_zone;

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, SubsecRound as _, TimeDelta, Utc};
use diesel::expression::AsExpression;
use diesel::sql_types::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::time_zone::Tz;

/// A schedule, as given in `POST /v1/coupons`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, AsExpression)]
#[diesel(sql_type = Json)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// One drop.
    Once {
        /// The zone in which its times are shown, an IANA name; without it UTC.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>, example = "Asia/Seoul")]
        time_zone: Option<Tz>,
        /// Claims are admitted from this time.
        #[serde(deserialize_with = "instants::one")]
        opens_at: DateTime<Utc>,
        /// Claims are rejected from this time; without it the drop stays open.
        #[serde(
            default,
            deserialize_with = "instants::or_none",
            skip_serializing_if = "Option::is_none"
        )]
        closes_at: Option<DateTime<Utc>>,
    },
    /// One drop a local date, from `first_day` to `last_day`, both included.
    Daily {
        /// IANA name, such as `Asia/Seoul`.
        #[schema(value_type = String, example = "Asia/Seoul")]
        time_zone: Tz,
        /// Local opening time, `HH:MM` or `HH:MM:SS`.
        #[serde(with = "wall_clock")]
        #[schema(value_type = String, example = "15:00")]
        opens: NaiveTime,
        /// Local closing time; if not later than `opens`, on the next day.
        #[serde(with = "wall_clock")]
        #[schema(value_type = String, example = "18:00")]
        closes: NaiveTime,
        first_day: NaiveDate,
        /// Without it the coupon continues.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_day: Option<NaiveDate>,
    },
}

/// A drop that a schedule requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedDrop {
    /// The day in the schedule's time zone (by default UTC).
    pub local_date: NaiveDate,
    /// Start of the window, inclusive.
    pub opens_at: DateTime<Utc>,
    /// End of the window, exclusive, or `None` if the drop stays open.
    pub closes_at: Option<DateTime<Utc>>,
}

/// How many days ahead daily drops are created, so that no single stopped process prevents an
/// opening.
pub const DAYS_AHEAD: i64 = 2;

impl Schedule {
    /// Returns the time zone in which its times are shown; `None` is UTC.
    pub fn time_zone(&self) -> Option<Tz> {
        match self {
            Self::Once { time_zone, .. } => *time_zone,
            Self::Daily { time_zone, .. } => Some(*time_zone),
        }
    }

    /// Checks constraints that the types cannot express.
    ///
    /// # Errors
    /// Why the schedule is invalid, for its author.
    pub fn check(&self) -> Result<(), &'static str> {
        let (first, last) = match self {
            Self::Once {
                opens_at,
                closes_at,
                ..
            } => {
                let opens = opens_at.trunc_subsecs(3);
                if closes_at.is_some_and(|closes| closes.trunc_subsecs(3) <= opens) {
                    return Err("closes_at must be later than opens_at");
                }
                (opens.date_naive(), closes_at.map(|at| at.date_naive()))
            }
            Self::Daily {
                first_day,
                last_day,
                ..
            } => (*first_day, *last_day),
        };
        if last.is_some_and(|last| last < first) {
            return Err("last_day must not be before first_day");
        }
        if (2000..2200).contains(&first.year()) && last.is_none_or(|last| last.year() < 2200) {
            return Ok(());
        }
        Err("dates must lie between the years 2000 and 2199")
    }

    /// Checks the schedule of a coupon that is created at `now`: its last window must not have
    /// ended.
    pub fn check_new(&self, now: DateTime<Utc>) -> Result<(), &'static str> {
        self.check()?;
        match self {
            Self::Once { closes_at, .. } if closes_at.is_some_and(|closes| closes <= now) => {
                Err("closes_at is over, so it would never open")
            }
            Self::Daily { .. } if self.drops_from(now).is_empty() => {
                Err("last_day is over, so it would never open")
            }
            _ => Ok(()),
        }
    }

    /// Returns the drops from two days before `from` on, in order, because a window may end on the
    /// next day, and a time zone may skip a day. For a coupon that opens once, returns its drop.
    pub(crate) fn planned(
        &self,
        from: DateTime<Utc>,
    ) -> Box<dyn Iterator<Item = PlannedDrop> + '_> {
        match self {
            Self::Once {
                opens_at,
                closes_at,
                time_zone,
            } => Box::new(std::iter::once(PlannedDrop {
                local_date: time_zone.unwrap_or(Tz::utc()).local(*opens_at).date_naive(),
                opens_at: opens_at.trunc_subsecs(3),
                closes_at: closes_at.map(|at| at.trunc_subsecs(3)),
            })),
            Self::Daily {
                time_zone,
                opens,
                closes,
                first_day,
                last_day,
            } => {
                let start = time_zone.local(from).date_naive() - TimeDelta::days(2);
                let last_day = last_day.unwrap_or(NaiveDate::MAX);
                let days = start
                    .max(*first_day)
                    .iter_days()
                    .take_while(move |day| *day <= last_day);
                Box::new(days.filter_map(|day| daily_drop(*time_zone, day, *opens, *closes)))
            }
        }
    }

    /// Returns the drops whose windows have not ended at `now`, up to [`DAYS_AHEAD`] days ahead, in
    /// order. Always includes the next drop, so that a coupon can show when it opens. For a coupon
    /// that opens once, returns its drop, even if it has ended.
    pub fn drops_from(&self, now: DateTime<Utc>) -> Vec<PlannedDrop> {
        let Self::Daily {
            time_zone,
            first_day,
            ..
        } = self
        else {
            return self.planned(now).collect();
        };
        let today = time_zone.local(now).date_naive();
        let horizon = (today + TimeDelta::days(DAYS_AHEAD)).max(*first_day);
        self.planned(now)
            .take_while(|drop| drop.local_date <= horizon)
            .filter(|drop| drop.closes_at.is_none_or(|closes| closes > now))
            .collect()
    }

    /// Returns the drop of a local date, or `None` if there is none.
    pub fn drop_on(&self, day: NaiveDate) -> Option<PlannedDrop> {
        self.planned(day.and_time(NaiveTime::MIN).and_utc())
            .take_while(|drop| drop.local_date <= day)
            .find(|drop| drop.local_date == day)
    }

    /// Returns the first windows, at most ten, of a coupon created at `now`, including a current
    /// one.
    ///
    /// # Errors
    /// Why the schedule is invalid.
    pub fn preview(&self, now: DateTime<Utc>) -> Result<Vec<PlannedDrop>, &'static str> {
        self.check_new(now)?;
        Ok(self
            .planned(now)
            .filter(|drop| drop.closes_at.is_none_or(|closes| closes > now))
            .take(10)
            .collect())
    }
}

/// Returns the drop of a local date, or `None` if its window is within the hour that a DST change
/// skips.
fn daily_drop(
    zone: Tz,
    day: NaiveDate,
    opens: NaiveTime,
    closes: NaiveTime,
) -> Option<PlannedDrop> {
    let closing_day = if closes > opens { day } else { day.succ_opt()? };
    let opens_at = zone.instant(day.and_time(opens))?;
    // End the window at the latest when the next day's drop opens: a skipped closing time is moved
    // forward, perhaps beyond that opening.
    let next_opens_at = zone.instant(day.succ_opt()?.and_time(opens))?;
    let closes_at = zone
        .instant(closing_day.and_time(closes))?
        .min(next_opens_at);
    (closes_at > opens_at).then_some(PlannedDrop {
        local_date: day,
        opens_at,
        closes_at: Some(closes_at),
    })
}

/// Parses timestamps that name their time zone; the errors say what to write.
pub mod instants {
    use chrono::{DateTime, NaiveDateTime, Timelike as _, Utc};
    use serde::{Deserialize as _, Deserializer, de::Error as _};

    /// Whether this is a leap second (`23:59:60`), which MySQL does not support.
    pub fn is_leap_second(at: &DateTime<Utc>) -> bool {
        at.nanosecond() >= 1_000_000_000
    }

    fn read(text: &str) -> Result<DateTime<Utc>, String> {
        match text.parse() {
            Ok(at) if !is_leap_second(&at) => Ok(at),
            _ if text.parse::<NaiveDateTime>().is_ok() => Err(format!(
                "{text:?} has no time zone; write {text}Z or {text}+09:00"
            )),
            _ => Err(format!(
                "{text:?} is not an instant such as 2026-12-01T06:00:00Z"
            )),
        }
    }

    pub fn one<'de, D: Deserializer<'de>>(d: D) -> Result<DateTime<Utc>, D::Error> {
        read(&String::deserialize(d)?).map_err(D::Error::custom)
    }

    pub fn or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<DateTime<Utc>>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| read(&text))
            .transpose()
            .map_err(D::Error::custom)
    }
}

pub mod wall_clock {
    use chrono::{NaiveTime, Timelike as _};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub fn serialize<S: Serializer>(time: &NaiveTime, s: S) -> Result<S::Ok, S::Error> {
        let form = if time.second() == 0 {
            "%H:%M"
        } else {
            "%H:%M:%S"
        };
        s.collect_str(&time.format(form))
    }

    pub fn read(text: &str) -> Result<NaiveTime, String> {
        // chrono would also read `9:5`, and spaces.
        let mut bytes = text.bytes().enumerate();
        let is_whole = bytes.all(|(at, byte)| (at % 3 == 2) || byte.is_ascii_digit());
        NaiveTime::parse_from_str(text, "%H:%M")
            .or_else(|_| NaiveTime::parse_from_str(text, "%H:%M:%S"))
            .ok()
            .filter(|time| {
                is_whole && matches!(text.len(), 5 | 8) && time.nanosecond() < 1_000_000_000
            })
            .ok_or_else(|| format!("{text:?} is not a time of day such as 09:05"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<NaiveTime, D::Error> {
        read(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
