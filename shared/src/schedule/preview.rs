//! Previews a schedule: the windows of a coupon created now, in words, for the command line and the
//! operations page.

use chrono::{DateTime, Utc};

use super::{PlannedDrop, Schedule, Tz};

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
    ///
    /// # Errors
    /// Why the schedule is invalid.
    pub fn preview(&self, now: DateTime<Utc>, zone: Tz) -> Result<Vec<Opening>, &'static str> {
        self.check_new(now)?;
        let is_ahead = |drop: &PlannedDrop| drop.closes_at.is_none_or(|closes| closes > now);
        let all = self.planned(now).filter(is_ahead).take(SHOWN);
        let local = |at: DateTime<Utc>, form: &str| zone.local(at).format(form).to_string();
        let in_words = |drop: PlannedDrop| Opening {
            drop,
            local: local(drop.opens_at, "%a %Y-%m-%d %H:%M %:z"),
            utc: drop.opens_at.format("%Y-%m-%d %H:%M").to_string(),
            closes: drop
                .closes_at
                .map_or("stays open".to_owned(), |at| local(at, "%m-%d %H:%M %:z")),
            at_once: drop.opens_at < now,
        };
        Ok(all.map(in_words).collect())
    }
}
