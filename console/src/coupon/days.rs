//! The days of a daily coupon after a change of its times: drops are created in advance, and those
//! that have opened keep their times.

use chrono::{NaiveDate, NaiveTime};
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::views::ListedDrop;
use firstcome_shared::schedule::Schedule;

/// Which days of a daily coupon a change of its times applies to, and which keep theirs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DailyTimes {
    /// The first day to which a change of the times applies: that of the first drop that has not
    /// opened, or, after a change, the one after the last drop that kept its times.
    pub(super) changes_from: NaiveDate,
    /// Whether the schedule has such a day.
    has_more: bool,
    /// A sentence about the drops that are not over and keep other times than the schedule's.
    pub(super) kept: Option<String>,
    /// The times and the last day of the schedule.
    now: String,
}

impl DailyTimes {
    /// `None` for a coupon that is not daily. The newest of its drops must be among `drops`.
    pub(super) fn new(schedule: Option<&Schedule>, drops: &[ListedDrop]) -> Option<Self> {
        let schedule = schedule?;
        let Schedule::Daily {
            time_zone,
            opens,
            closes,
            first_day,
            last_day,
        } = schedule
        else {
            return None;
        };
        let day = |drop: &ListedDrop| time_zone.local(drop.opens_at).date_naive();
        let mut kept: Vec<(NaiveDate, String)> = drops
            .iter()
            .filter(|drop| !matches!(drop.state, DropState::Closed | DropState::Sealed))
            .filter(|drop| {
                let planned = schedule.drop_on(day(drop));
                planned.is_some_and(|planned| {
                    (planned.opens_at, planned.closes_at) != (drop.opens_at, drop.closes_at)
                })
            })
            .map(|drop| {
                let at = |at| clock(time_zone.local(at).time());
                let closes = drop.closes_at.map(|closes| format!(" to {}", at(closes)));
                let times = format!("{}{}", at(drop.opens_at), closes.unwrap_or_default());
                (day(drop), times)
            })
            .collect();
        kept.sort();
        let is_scheduled = |drop: &&ListedDrop| drop.state == DropState::Scheduled;
        let next = drops.iter().filter(is_scheduled).map(day).min();
        let after = |day: NaiveDate| day.succ_opt();
        let after_kept = kept.last().and_then(|(day, _)| after(*day));
        let changes_from = after_kept
            .or(next)
            .or_else(|| drops.iter().map(day).max().and_then(after))
            .unwrap_or(*first_day);
        let end = match last_day {
            Some(last) => format!("to {last}"),
            None => "without an end".to_owned(),
        };
        Some(Self {
            changes_from,
            has_more: last_day.is_none_or(|last| changes_from <= last),
            kept: kept_sentence(&kept),
            now: format!("daily from {} to {}, {end}", clock(*opens), clock(*closes)),
        })
    }

    /// Says to which days a change that was just made applies.
    pub(super) fn changed(&self) -> String {
        let from = self.changes_from;
        match &self.kept {
            Some(kept) if self.has_more => format!("Changed from {from} on. {kept}"),
            Some(kept) => format!("Changed, but no further drop follows. {kept}"),
            None => format!("Changed: {}.", self.now),
        }
    }
}

fn kept_sentence(kept: &[(NaiveDate, String)]) -> Option<String> {
    let (first, times) = kept.first()?;
    let (last, _) = kept.last()?;
    let times = if kept.iter().all(|(_, other)| other == times) {
        times
    } else {
        "the times that they have"
    };
    Some(if first == last {
        format!("The drop of {first} keeps {times}.")
    } else {
        format!("The drops of {first} to {last} keep {times}.")
    })
}

/// Formats a time of day, without seconds if these are 0.
pub(crate) fn clock(time: NaiveTime) -> String {
    let text = time.format("%H:%M:%S").to_string();
    text.strip_suffix(":00").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Four drops from 15:00 to 18:00 in Seoul, the first of which has ended.
    fn drops() -> Vec<ListedDrop> {
        let days = [
            (28, "closed"),
            (29, "open"),
            (30, "scheduled"),
            (31, "scheduled"),
        ];
        let drop = |(day, state)| {
            json!({
                "id": day, "quantity": 5, "state": state,
                "opens_at": format!("2026-12-{day}T06:00:00Z"),
                "closes_at": format!("2026-12-{day}T09:00:00Z"),
            })
        };
        serde_json::from_value(days.map(drop).into()).unwrap()
    }

    fn times(opens: &str, closes: &str, last_day: Option<&str>) -> DailyTimes {
        let schedule = json!({
            "type": "daily", "time_zone": "Asia/Seoul", "opens": opens, "closes": closes,
            "first_day": "2026-12-28", "last_day": last_day,
        });
        let schedule = serde_json::from_value(schedule).unwrap();
        DailyTimes::new(Some(&schedule), &drops()).unwrap()
    }

    #[test]
    fn change_of_the_times_says_which_drops_keep_theirs() {
        for (opens, closes, last_day, says) in [
            (
                "14:00",
                "18:00",
                None,
                "Changed from 2027-01-01 on. The drops of 2026-12-29 to 2026-12-31 keep 15:00 to \
                18:00.",
            ),
            (
                "15:00",
                "18:00",
                Some("2027-01-09"),
                "Changed: daily from 15:00 to 18:00, to 2027-01-09.",
            ),
            (
                "15:00",
                "18:00",
                None,
                "Changed: daily from 15:00 to 18:00, without an end.",
            ),
            (
                "15:00",
                "17:30:30",
                Some("2026-12-31"),
                "Changed, but no further drop follows. The drops of 2026-12-29 to 2026-12-31 keep \
                15:00 to 18:00.",
            ),
        ] {
            assert_eq!(times(opens, closes, last_day).changed(), says);
        }
    }

    #[test]
    fn sentence_about_kept_drops_states_their_times_only_if_these_are_equal() {
        let day = |day| NaiveDate::from_ymd_opt(2026, 12, day).unwrap();
        let kept = |kept: &[(u32, &str)]| {
            let kept = kept
                .iter()
                .map(|(of, times)| (day(*of), (*times).to_owned()));
            kept_sentence(&kept.collect::<Vec<_>>())
        };
        assert_eq!(kept(&[]), None);
        let one = kept(&[(1, "15:00 to 18:00")]).unwrap();
        assert_eq!(one, "The drop of 2026-12-01 keeps 15:00 to 18:00.");
        let equal = kept(&[(1, "15:00 to 18:00"), (2, "15:00 to 18:00")]).unwrap();
        assert_eq!(
            equal,
            "The drops of 2026-12-01 to 2026-12-02 keep 15:00 to 18:00."
        );
        let both = kept(&[(1, "15:00 to 18:00"), (2, "14:00 to 18:00")]).unwrap();
        assert!(both.ends_with("keep the times that they have."), "{both}");
    }
}
