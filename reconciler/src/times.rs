//! The times of a cron expression in a time zone whose clocks change.

use chrono::{DateTime, SubsecRound as _, Utc};
use croner::Cron;
use firstcome_shared::schedule::Tz;

/// When a job runs: a cron expression, as clocks in a time zone show it.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    pub(crate) cron: Cron,
    pub(crate) zone: Tz,
}

impl Times {
    /// Returns the next time after `at`. A schedule that has a wildcard for its hours follows
    /// elapsed time. Any other one follows the clocks on the wall, as in ISC cron: when they are
    /// set back, a time comes once; when they are set forward, times in the gap are due at its end.
    pub(crate) fn next_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // croner keeps fractions of a second, so that the next time would be up to a second late.
        let at = at.trunc_subsecs(0);
        if self.cron.pattern.hours.is_all_set() {
            self.next_as_time_passes(at)
        } else {
            self.next_on_the_wall(at)
        }
    }

    fn next_on_the_wall(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut wall = self.zone.local(at).naive_local().and_utc();
        loop {
            wall = self.cron.find_next_occurrence(&wall, false).ok()?;
            let due = self.zone.first_instant(wall.naive_utc())?;
            // A time that clocks show twice was due when they showed it first.
            if due > at {
                return Some(due);
            }
        }
    }

    fn next_as_time_passes(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Self { cron, zone } = self;
        let mut from = zone.local(at);
        let mut is_from_included = false;
        loop {
            let next = cron
                .find_next_occurrence(&from, is_from_included)
                .ok()?
                .to_utc();
            // Beyond a change, clocks show something else than the offset of `from` says.
            let change = zone.next_change(from.to_utc());
            let Some(change) = change.filter(|change| *change <= next) else {
                return Some(next);
            };
            from = zone.local(change);
            is_from_included = true;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::str::FromStr as _;

    use super::*;
    use crate::args::parse_cron;

    pub(crate) fn at(text: &str) -> DateTime<Utc> {
        DateTime::from_str(text).unwrap()
    }

    pub(crate) fn times(text: &str, zone: &str) -> Times {
        let cron = parse_cron(text).unwrap();
        let zone = zone.parse().unwrap();
        Times { cron, zone }
    }

    /// In New York, clocks did not show 02:00 to 03:00 on 8 March 2026, and showed 01:00 to 02:00
    /// twice on 1 November.
    #[test]
    fn no_run_comes_twice_and_none_is_lost_when_clocks_change() {
        for (text, from, next) in [
            (
                "0 30 3 * * *",
                "2026-03-08T00:00:00Z",
                ["2026-03-08T07:30:00Z", "2026-03-09T07:30:00Z"],
            ),
            (
                "0 30 2 * * *",
                "2026-03-07T12:00:00Z",
                ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
            ),
            (
                "0 */20 2 * * *",
                "2026-03-08T06:59:59Z",
                ["2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z"],
            ),
            (
                "0 30 1 * * *",
                "2026-10-31T12:00:00Z",
                ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
            ),
            (
                "0 0 * * * *",
                "2026-03-08T06:10:00Z",
                ["2026-03-08T07:00:00Z", "2026-03-08T08:00:00Z"],
            ),
            (
                "0 0 * * * *",
                "2026-11-01T05:10:00Z",
                ["2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"],
            ),
            (
                "0 30 3 * * *",
                "2026-03-10T07:29:59.7Z",
                ["2026-03-10T07:30:00Z", "2026-03-11T07:30:00Z"],
            ),
            (
                "*/30 * * * * *",
                "2026-03-10T07:29:59.7Z",
                ["2026-03-10T07:30:00Z", "2026-03-10T07:30:30Z"],
            ),
            (
                "*/30 * * * * *",
                "2026-11-01T05:59:30Z",
                ["2026-11-01T06:00:00Z", "2026-11-01T06:00:30Z"],
            ),
        ] {
            let times = times(text, "America/New_York");
            let first = times.next_after(at(from)).unwrap();
            let found = [first, times.next_after(first).unwrap()];
            assert_eq!(found, next.map(at), "{text} after {from}");
        }
    }

    /// In each of these cases, a version that knew only the next change of clocks lost a day or
    /// years, or found no third time.
    #[test]
    fn change_of_clocks_loses_no_rare_run_and_moves_no_run_of_other_days() {
        for (text, zone, from, next) in [
            // Midnight does not exist on these days.
            (
                "0 0 0 * * *",
                "Africa/Cairo",
                "2026-04-23T12:00:00Z",
                "2026-04-23T22:00:00Z 2026-04-24T21:00:00Z 2026-04-25T21:00:00Z",
            ),
            (
                "0 0 0 * * FRI",
                "Africa/Cairo",
                "2027-04-25T12:00:00Z",
                "2027-04-29T22:00:00Z 2027-05-06T21:00:00Z 2027-05-13T21:00:00Z",
            ),
            (
                "0 0 0 * * *",
                "Asia/Beirut",
                "2027-03-27T12:00:00Z",
                "2027-03-27T22:00:00Z 2027-03-28T21:00:00Z 2027-03-29T21:00:00Z",
            ),
            (
                "0 0 0 * * *",
                "America/Santiago",
                "2026-09-05T12:00:00Z",
                "2026-09-06T04:00:00Z 2026-09-07T03:00:00Z 2026-09-08T03:00:00Z",
            ),
            (
                "0 30 2 14 * *",
                "America/New_York",
                "2027-03-01T00:00:00Z",
                "2027-03-14T07:00:00Z 2027-04-14T06:30:00Z 2027-05-14T06:30:00Z",
            ),
            (
                "0 30 2 14 3 *",
                "America/New_York",
                "2026-11-28T00:00:00Z",
                "2027-03-14T07:00:00Z 2028-03-14T06:30:00Z 2029-03-14T06:30:00Z",
            ),
            (
                "0 30 2 13 3 *",
                "America/New_York",
                "2028-12-01T00:00:00Z",
                "2029-03-13T06:30:00Z 2030-03-13T06:30:00Z 2031-03-13T06:30:00Z",
            ),
            (
                "0 30 2 28 3 *",
                "Europe/Berlin",
                "2028-12-01T00:00:00Z",
                "2029-03-28T00:30:00Z 2030-03-28T01:30:00Z 2031-03-28T01:30:00Z",
            ),
            (
                "0 30 4 14 3 *",
                "America/New_York",
                "2026-11-28T00:00:00Z",
                "2027-03-14T08:30:00Z 2028-03-14T08:30:00Z 2029-03-14T08:30:00Z",
            ),
            (
                "0 0 9 1 4 *",
                "Europe/Berlin",
                "2026-11-28T00:00:00Z",
                "2027-04-01T07:00:00Z 2028-04-01T07:00:00Z 2029-04-01T07:00:00Z",
            ),
        ] {
            let times = times(text, zone);
            let first = times.next_after(at(from));
            let found = std::iter::successors(first, |at| times.next_after(*at));
            let found: Vec<_> = found.take(3).collect();
            let next: Vec<_> = next.split(' ').map(at).collect();
            assert_eq!(found, next, "{text} in {zone} after {from}");
        }
    }
}
