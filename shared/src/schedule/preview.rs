//! Previews a schedule: the windows of a coupon created now, in words, for the command line and the
//! operations page.

use std::fmt::Display;

use chrono::{DateTime, TimeZone, Utc};

use super::{BadSchedule, PlannedDrop, Schedule};

/// Number of windows shown.
const SHOWN: usize = 10;

/// The note on a window that has already begun.
pub const AT_ONCE: &str = "opens at once";

/// One window in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub drop: PlannedDrop,
    /// When it opens, in local time.
    pub local: String,
    /// When it opens, in UTC.
    pub utc: String,
    /// When it closes, in local time.
    pub closes: String,
    /// The window has already begun, so a coupon created now opens immediately.
    pub at_once: bool,
}

impl Schedule {
    /// Lists the windows of a coupon created at `now`, including a current one.
    pub fn preview<Z: TimeZone<Offset: Display>>(
        &self,
        now: DateTime<Utc>,
        zone: &Z,
    ) -> Result<Vec<Opening>, BadSchedule> {
        self.check_new(now)?;
        let begun = self
            .drops_from(now)
            .into_iter()
            .filter(|drop| drop.opens_at < now);
        let all = begun.chain(self.openings(now, SHOWN)).take(SHOWN);
        Ok(all.map(|drop| in_words(drop, now, zone)).collect())
    }
}

fn in_words<Z: TimeZone<Offset: Display>>(
    drop: PlannedDrop,
    now: DateTime<Utc>,
    zone: &Z,
) -> Opening {
    let local = |at: DateTime<Utc>, form: &str| at.with_timezone(zone).format(form).to_string();
    Opening {
        drop,
        local: local(drop.opens_at, "%a %Y-%m-%d %H:%M %:z"),
        utc: drop.opens_at.format("%Y-%m-%d %H:%M").to_string(),
        closes: drop.closes_at.map_or_else(
            || "stays open".to_owned(),
            |at| local(at, "%m-%d %H:%M %:z"),
        ),
        at_once: drop.opens_at < now,
    }
}
