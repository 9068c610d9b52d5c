//! Changes of a coupon: a pure function of the coupon, its drops and the time.

#![allow(clippy::option_option)] // distinguishes a missing field, null and a value

use chrono::{DateTime, NaiveDate, NaiveTime, SubsecRound as _, TimeDelta, Utc};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::{Allow, Coupon, CouponSettings, Drop, MAX_NAME_CHARS, line};
use crate::domain::{OncePer, Slot};
use crate::schedule::{Schedule, instants, wall_clock};

/// A change. Missing fields stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangeBody)]
pub struct CouponPatch {
    #[schema(example = "Winter coupon", max_length = 200)]
    pub name: Option<String>,
    /// Quantity of each drop that is not closed, and of later ones.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000_000)]
    pub quantity: Option<Slot>,
    /// Stops or resumes admission.
    pub paused: Option<bool>,
    /// Places on the waiting list of a sold-out drop. Users who wait keep theirs.
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub waiting_list: Option<u32>,
    /// When a coupon that opens once opens. Only possible until a minute before it opens.
    #[serde(default, deserialize_with = "instants::or_none")]
    pub opens_at: Option<DateTime<Utc>>,
    /// When a coupon that opens once closes; null: never.
    #[serde(default, deserialize_with = "instant_or_null")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub closes_at: Option<Option<DateTime<Utc>>>,
    /// Local opening time of a daily coupon. Drops that open, or would open, within a minute keep
    /// their times.
    #[serde(default, deserialize_with = "time_of_day")]
    #[schema(value_type = Option<String>, example = "15:00")]
    pub opens: Option<NaiveTime>,
    /// Local closing time of a daily coupon, for the same drops.
    #[serde(default, deserialize_with = "time_of_day")]
    #[schema(value_type = Option<String>, example = "18:00")]
    pub closes: Option<NaiveTime>,
    /// Last local date of a daily coupon; null: none. Drops after it that open in more than a
    /// minute are removed. A coupon that allows one in total keeps it once it is over.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<NaiveDate>)]
    pub last_day: Option<Option<NaiveDate>>,
    /// True closes the open drop immediately and permanently; users on its waiting list get no slot
    /// any more, except those whose promise is broken. A coupon that opens once is ended even
    /// before it opens, and a daily one together with `last_day` = its first day. Otherwise later
    /// drops of a daily coupon stay.
    pub close_now: Option<bool>,
    /// Codes can be used before this time; null: no such end. A time in the past ends their use at
    /// once.
    #[serde(default, deserialize_with = "instant_or_null")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub valid_until: Option<Option<DateTime<Utc>>>,
    /// Codes can be used for this many times 24 hours from the claim; null: no such end.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>, example = 30, minimum = 1, maximum = 3650)]
    pub valid_days: Option<Option<u32>>,
    /// Who may claim, as in `NewCouponBody`. Users who hold a coupon or wait keep their coupon or
    /// place.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<String>, example = "list", max_length = 70)]
    pub allow: Option<Option<Allow>>,
}

/// Distinguishes `null` from a missing field.
fn or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

fn instant_or_null<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Option<DateTime<Utc>>>, D::Error> {
    instants::or_none(d).map(Some)
}

fn time_of_day<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NaiveTime>, D::Error> {
    #[derive(Deserialize)]
    struct WallClock(#[serde(with = "wall_clock")] NaiveTime);
    Ok(Option::<WallClock>::deserialize(d)?.map(|time| time.0))
}

/// Drops that open within this time are neither removed nor moved. A change reaches both stores
/// within this time, so that no user is admitted to a removed drop, or before a later opening.
const CHANGED_BEFORE_OPENING: TimeDelta = TimeDelta::minutes(1);

impl CouponPatch {
    /// Checks the fields one by one, and trims the name.
    ///
    /// # Errors
    /// The message names the field.
    pub fn checked(mut self) -> Result<Self, String> {
        self.close_now = self.close_now.filter(|close| *close);
        if self == Self::default() {
            return Err("give at least one field, close_now only as true".to_owned());
        }
        if let Some(name) = &self.name {
            self.name = Some(line("name", MAX_NAME_CHARS, name)?);
        }
        super::check_numbers(self.quantity.unwrap_or(1), self.waiting_list.unwrap_or(0))?;
        Ok(self)
    }

    /// Whether it changes anything that Redis stores for admission.
    pub fn concerns_redis(&self) -> bool {
        let without_fields_of_mysql = Self {
            name: None,
            valid_until: None,
            valid_days: None,
            ..self.clone()
        };
        without_fields_of_mysql != Self::default()
    }

    /// Whether it may change the quantity or the window of a drop, or which drops there are.
    pub fn concerns_drops(&self) -> bool {
        let without_fields_of_the_coupon = Self {
            name: None,
            valid_until: None,
            valid_days: None,
            paused: None,
            waiting_list: None,
            allow: None,
            ..self.clone()
        };
        without_fields_of_the_coupon != Self::default()
    }

    fn concerns_days(&self) -> bool {
        self.opens.is_some() || self.closes.is_some() || self.last_day.is_some()
    }

    /// Changes a coupon and its drops. `drops` must contain all drops of the coupon; those that the
    /// change removes are taken out of it.
    ///
    /// # Errors
    /// Why the change is not possible, and what to do instead.
    pub fn apply(
        &self,
        coupon: &mut Coupon,
        drops: &mut Vec<Drop>,
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        self.check_goes_on(coupon, drops, now)?;
        let settings = &mut coupon.settings;
        // Quantity and schedule are changed below, together with the drops.
        let CouponSettings {
            name,
            quantity: _,
            once_per: _,
            waiting_list,
            paused,
            valid_until,
            valid_days,
            schedule: _,
            allow,
        } = settings;
        *name = self.name.clone().unwrap_or(name.clone());
        *paused = self.paused.unwrap_or(*paused);
        *waiting_list = self.waiting_list.unwrap_or(*waiting_list);
        *allow = self.allow.clone().unwrap_or(allow.clone());
        *valid_until = self.valid_until.unwrap_or(*valid_until);
        *valid_days = self.valid_days.unwrap_or(*valid_days);
        if let Some(quantity) = self.quantity {
            settings.quantity = quantity;
            for drop in drops.iter_mut().filter(|drop| drop.can_give_slots(now)) {
                drop.quantity = quantity;
            }
        }
        if self.close_now.is_some() && (self.opens_at.is_some() || self.closes_at.is_some()) {
            return Err(
                "close_now closes at once; give it or opens_at and closes_at, not both".into(),
            );
        }
        if let Some(opens_at) = self.opens_at {
            open_at(&mut settings.schedule, drops, opens_at, now)?;
        }
        if let Some(closes_at) = self.closes_at {
            close_at(&mut settings.schedule, drops, closes_at, now)?;
        }
        if self.concerns_days() {
            self.change_days(&mut settings.schedule, drops, now)?;
        }
        if self.close_now.is_some() {
            self.end_drops(&mut settings.schedule, drops, now)?;
        }
        settings.check_validity()?;
        let Some(schedule) = &settings.schedule else {
            return Ok(());
        };
        schedule.check()?;
        if self.concerns_days() {
            check_no_overlap(schedule, drops, now)?;
        }
        Ok(())
    }

    /// Refuses to extend a coupon that allows one in total and is over: retention erases who has one
    /// and who is banned, so that these users could claim again.
    fn check_goes_on(
        &self,
        coupon: &Coupon,
        drops: &[Drop],
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        if coupon.once_per == OncePer::Coupon
            && let Some(Schedule::Daily { last_day, .. }) = coupon.schedule
            && self.last_day.is_some_and(|wanted| wanted != last_day)
            && coupon.is_over_for_good(drops, now)
        {
            return Err("the coupon is over, and keeps its last_day; create a new coupon".into());
        }
        Ok(())
    }

    /// Ends the open drop, or a coupon that has not opened yet.
    fn end_drops(
        &self,
        schedule: &mut Option<Schedule>,
        drops: &mut [Drop],
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        let ends_before_it_opens = match schedule {
            Some(Schedule::Once { .. }) => true,
            // The change leaves only the first drop, which has not opened.
            Some(Schedule::Daily { first_day, .. }) => {
                self.last_day == Some(Some(*first_day))
                    && drops.iter().all(|drop| drop.opens_at > now)
            }
            None => false,
        };
        close_now(schedule, drops, ends_before_it_opens, now)
    }

    fn change_days(
        &self,
        schedule: &mut Option<Schedule>,
        drops: &mut Vec<Drop>,
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        let soon = now + CHANGED_BEFORE_OPENING;
        let Some(Schedule::Daily {
            opens,
            closes,
            last_day,
            ..
        }) = schedule
        else {
            return Err(
                "opens, closes and last_day apply to daily coupons; coupons that open \
                once have closes_at"
                    .into(),
            );
        };
        *opens = self.opens.unwrap_or(*opens);
        *closes = self.closes.unwrap_or(*closes);
        *last_day = self.last_day.unwrap_or(*last_day);
        if let Some(Some(last)) = self.last_day {
            drops.retain(|drop| {
                let is_later = drop.local_date.is_some_and(|day| day > last);
                !is_later || drop.opens_at <= soon
            });
        }
        if let Some(schedule) = schedule
            && (self.opens.is_some() || self.closes.is_some())
        {
            for drop in drops.iter_mut().filter(|drop| drop.opens_at > soon) {
                let planned = drop.local_date.and_then(|day| schedule.drop_on(day));
                if let Some(planned) = planned.filter(|planned| planned.opens_at > soon) {
                    drop.opens_at = planned.opens_at;
                    drop.closes_at = planned.closes_at;
                }
            }
        }
        Ok(())
    }
}

/// Refuses new times if a drop would open before one that keeps its times closes: admission would
/// use only the later one, and users who retry a claim on the earlier one would get a second coupon.
fn check_no_overlap(new: &Schedule, drops: &[Drop], now: DateTime<Utc>) -> Result<(), String> {
    let made = drops.iter().filter(|drop| drop.can_give_slots(now));
    let mut windows: Vec<_> = made.map(|drop| (drop.opens_at, drop.closes_at)).collect();
    let is_made = |day| drops.iter().any(|drop| drop.local_date == Some(day));
    let mut planned = new.drops_from(now);
    planned.retain(|drop| !is_made(drop.local_date));
    windows.extend(planned.iter().map(|drop| (drop.opens_at, drop.closes_at)));
    windows.sort_unstable();
    for pair in windows.windows(2) {
        if let [(opens, Some(closes)), (next, _)] = pair
            && next < closes
        {
            return Err(format!(
                "the drop that opens at {} stays open until {}, but the next one would open at \
                {}: give a later time",
                opens.to_rfc3339(),
                closes.to_rfc3339(),
                next.to_rfc3339()
            ));
        }
    }
    Ok(())
}

/// Moves the opening of a coupon that opens once. Succeeds at any time if the opening is already
/// the wanted one, so that a request can be repeated.
fn open_at(
    schedule: &mut Option<Schedule>,
    drops: &mut [Drop],
    wanted: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let Some(Schedule::Once { opens_at, .. }) = schedule else {
        return Err("opens_at applies to coupons that open once; daily coupons have opens".into());
    };
    let wanted = wanted.trunc_subsecs(3);
    if wanted == *opens_at {
        return Ok(());
    }
    let soon = now + CHANGED_BEFORE_OPENING;
    if drops.iter().any(|drop| drop.opens_at <= soon) {
        return Err("the coupon has opened, or opens within a minute".into());
    }
    if wanted <= now {
        return Err("opens_at is in the past".into());
    }
    *opens_at = wanted;
    for drop in drops {
        drop.opens_at = wanted;
    }
    Ok(())
}

fn close_at(
    schedule: &mut Option<Schedule>,
    drops: &mut [Drop],
    wanted: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let Some(Schedule::Once { closes_at, .. }) = schedule else {
        return Err(
            "closes_at applies to coupons that open once; daily coupons have closes and last_day"
                .into(),
        );
    };
    *closes_at = wanted.map(|at| at.trunc_subsecs(3));
    if closes_at.is_some_and(|at| at <= now) {
        return Err("closes_at is in the past; to close at once, send close_now".into());
    }
    if !drops.iter().any(|drop| drop.can_give_slots(now)) {
        return Err("the coupon is closed and does not open again; create a new coupon".into());
    }
    for drop in drops.iter_mut().filter(|drop| drop.can_give_slots(now)) {
        drop.closes_at = *closes_at;
        drop.closed_early = false;
    }
    Ok(())
}

fn close_now(
    schedule: &mut Option<Schedule>,
    drops: &mut [Drop],
    ends_before_it_opens: bool,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let last = drops.iter().rfind(|drop| drop.opens_at <= now);
    // More than an hour after a drop was closed early, the request is not a retry, but concerns the
    // next drop.
    let since = Some(now - TimeDelta::hours(1));
    let is_repeated = last.is_some_and(|last| last.closed_early && last.closes_at > since);
    let is_unopened = last.is_none();
    let mut ending = drops
        .iter_mut()
        .filter(|drop| drop.can_give_slots(now) && (ends_before_it_opens || drop.opens_at <= now))
        .peekable();
    if !is_repeated && ending.peek().is_none() {
        let remedies = "no drop is open; to prevent that another opens, pause the coupon, or send \
            an earlier last_day";
        return Err(match schedule {
            Some(Schedule::Daily { first_day, .. }) if is_unopened => format!(
                "{remedies}; to end the coupon before it opens, send last_day = {first_day}, its \
                first_day, together with close_now"
            ),
            _ => remedies.to_owned(),
        });
    }
    for drop in ending {
        // The schema refuses an empty window.
        drop.opens_at = drop.opens_at.min(now);
        let at = now.max(drop.opens_at + TimeDelta::milliseconds(1));
        drop.closes_at = Some(at);
        drop.closed_early = true;
        if let Some(Schedule::Once {
            opens_at,
            closes_at,
            ..
        }) = schedule
        {
            (*opens_at, *closes_at) = (drop.opens_at, Some(at));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::coupon::{AllowList, CouponSettings};
    use crate::domain::{CouponId, DropId};

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-12-{text}:00Z").parse().unwrap()
    }

    /// Returns a daily coupon from 11:00 to the given time, with drops on days 1 to 3.
    fn daily(closes: &str) -> (Coupon, Vec<Drop>) {
        let settings = json!({
            "name": "Winter", "quantity": 5, "once_per": "drop",
            "schedule": {"type": "daily", "time_zone": "UTC", "opens": "11:00", "closes": closes, "first_day": "2026-12-01"},
        });
        let settings: CouponSettings = serde_json::from_value(settings).unwrap();
        let schedule = settings.schedule.as_ref().unwrap();
        let planned = schedule.drops_from(at("01T11:00"));
        let drop = |(id, planned): (i64, &crate::schedule::PlannedDrop)| Drop {
            id: DropId(id),
            coupon_id: CouponId(1),
            local_date: Some(planned.local_date),
            opens_at: planned.opens_at,
            closes_at: planned.closes_at,
            quantity: 5,
            closed_early: false,
            sealed_at: None,
            sealed_rows: None,
        };
        let drops = (1..).zip(&planned).map(drop).collect();
        let coupon = Coupon {
            id: CouponId(1),
            settings,
            revision: 1,
            era: 0,
            allow_list: AllowList::default(),
        };
        (coupon, drops)
    }

    /// Returns a coupon that opens once, on day 1 at 11:00.
    fn once(closes_at: Option<DateTime<Utc>>) -> (Coupon, Vec<Drop>) {
        let mut once = daily("12:00");
        once.1.truncate(1);
        once.0.settings.schedule = Some(Schedule::Once {
            time_zone: None,
            opens_at: at("01T11:00"),
            closes_at,
        });
        once.1[0].closes_at = closes_at;
        once
    }

    fn change(
        (coupon, drops): &mut (Coupon, Vec<Drop>),
        now: &str,
        patch: Value,
    ) -> Result<(), String> {
        let patch: CouponPatch = serde_json::from_value(patch).unwrap();
        patch.checked()?.apply(coupon, drops, at(now))
    }

    #[test]
    fn new_times_move_the_drops_that_neither_open_nor_would_open_within_a_minute() {
        let mut all = daily("12:00");
        assert_eq!(all.1.len(), 3, "today and two days ahead");
        let windows = |all: &(Coupon, Vec<Drop>)| -> Vec<_> {
            let windows = all.1.iter();
            windows
                .map(|it| (it.opens_at, it.closes_at.unwrap()))
                .collect()
        };
        let times = json!({"opens": "06:30", "closes": "07:45"});
        change(&mut all, "01T12:00", times).unwrap();
        let moved = [
            (at("01T11:00"), at("01T12:00")),
            (at("02T06:30"), at("02T07:45")),
            (at("03T06:30"), at("03T07:45")),
        ];
        assert_eq!(windows(&all), moved);
        // The second would have opened, and the third keeps the schedule's closing time.
        change(&mut all, "02T06:28", json!({"opens": "06:00"})).unwrap();
        assert_eq!(windows(&all)[1], moved[1]);
        assert_eq!(windows(&all)[2], (at("03T06:00"), at("03T07:45")));
        // It opens within a minute.
        change(
            &mut all,
            "02T06:29",
            json!({"opens": "09:00", "closes": "10:00"}),
        )
        .unwrap();
        assert_eq!(windows(&all)[1], moved[1]);
        let next = all.0.schedule.as_ref().unwrap();
        let next = next.drop_on(NaiveDate::from_ymd_opt(2026, 12, 4).unwrap());
        assert_eq!(next.unwrap().opens_at, at("04T09:00"));
        assert_eq!(all.0.name, "Winter");
    }

    #[test]
    fn new_times_that_overlap_an_open_drop_are_refused() {
        let mut all = daily("11:00");
        for patch in [
            json!({"opens": "10:00"}),
            json!({"opens": "10:00", "paused": true}),
        ] {
            let refused = change(&mut all.clone(), "01T12:00", patch).unwrap_err();
            let until = "until 2026-12-02T11:00:00+00:00";
            assert!(refused.contains(until), "{refused}");
        }
        change(&mut all, "01T12:00", json!({"closes": "10:00"})).unwrap();
        change(&mut all, "01T12:00", json!({"opens": "11:01"})).unwrap();
    }

    #[test]
    fn earlier_last_day_removes_drops_that_do_not_open_soon() {
        let mut all = daily("12:00");
        for (now, last_day, left) in [
            ("01T12:00", json!("2026-12-02"), &[1, 2][..]),
            ("02T10:59", json!("2026-12-01"), &[1, 2]), // drop 2 opens within a minute
            ("02T10:58", json!("2026-12-01"), &[1]),
            ("02T10:58", json!(null), &[1]),
        ] {
            change(&mut all, now, json!({"last_day": last_day})).unwrap();
            let ids: Vec<i64> = all.1.iter().map(|drop| drop.id.0).collect();
            assert_eq!(ids, left, "{now} {last_day}");
        }
    }

    #[test]
    fn coupon_that_allows_one_in_total_is_not_extended_once_it_is_over() {
        let mut all = daily("12:00");
        let extend = |all: &(Coupon, Vec<Drop>), last_day| {
            change(&mut all.clone(), "04T12:00", json!({"last_day": last_day}))
        };
        let last = json!("2026-12-03");
        change(&mut all, "03T12:00", json!({"last_day": last})).unwrap();
        all.0.settings.once_per = OncePer::Coupon;
        let later = [json!(null), json!("2026-12-09")];
        for last in later.clone() {
            extend(&all, last).unwrap();
        }
        for drop in &mut all.1 {
            drop.sealed_at = drop.closes_at;
        }
        for last in later.clone() {
            let refused = extend(&all, last).unwrap_err();
            assert!(refused.contains("create a new coupon"), "{refused}");
        }
        extend(&all, last).unwrap();
        all.0.settings.once_per = OncePer::Drop;
        for last in later {
            extend(&all, last).unwrap();
        }
    }

    #[test]
    fn quantity_applies_to_drops_that_are_not_closed() {
        let mut all = daily("12:00");
        change(&mut all, "02T12:00", json!({"quantity": 7})).unwrap();
        let quantities: Vec<_> = all.1.iter().map(|drop| drop.quantity).collect();
        assert_eq!((quantities, all.0.quantity), (vec![5, 5, 7], 7));
    }

    #[test]
    fn close_now_ends_an_open_drop_and_a_coupon_that_has_not_opened() {
        let close = json!({"close_now": true});
        let mut all = daily("12:00");
        change(&mut all, "01T11:30", close.clone()).unwrap();
        let early: Vec<_> = all.1.iter().map(|drop| drop.closed_early).collect();
        assert_eq!(early, [true, false, false]);
        change(&mut all, "01T11:40", close.clone()).unwrap();
        let refused = change(&mut daily("12:00"), "01T10:00", close.clone()).unwrap_err();
        assert!(refused.contains("an earlier last_day"), "{refused}");
        let third = "send last_day = 2026-12-01, its first_day, together with close_now";
        assert!(refused.contains(third), "{refused}");
        let between = change(&mut daily("12:00"), "01T13:30", close.clone()).unwrap_err();
        assert!(!between.contains("together"), "{between}");
        let cancel = json!({"close_now": true, "last_day": "2026-12-01"});
        let mut all = daily("12:00");
        for now in ["01T09:00", "01T09:30"] {
            change(&mut all, now, cancel.clone()).unwrap();
            let [first] = &all.1[..] else {
                panic!("{:?}", all.1);
            };
            let window = first.closes_at.unwrap() - first.opens_at;
            assert_eq!(window, TimeDelta::milliseconds(1));
            assert_eq!(first.opens_at, at("01T09:00"), "{now}");
        }
        let schedule = all.0.schedule.as_ref().unwrap();
        assert_eq!(schedule.drops_from(at("03T09:00")), []);
        // Once the coupon has opened, the same request ends only the open drop.
        let mut all = daily("12:00");
        change(&mut all, "01T11:30", cancel.clone()).unwrap();
        assert_eq!((all.1.len(), all.1[0].opens_at), (1, at("01T11:00")));
        let refused = change(&mut daily("12:00"), "01T12:30", cancel).unwrap_err();
        assert!(refused.contains("no drop is open"), "{refused}");

        let mut once = once(None);
        for again in 0..2 {
            change(&mut once, "01T09:00", close.clone()).unwrap();
            assert!(!once.1[0].can_give_slots(at("01T09:01")), "{again}");
            assert!(once.1[0].opens_at < once.1[0].closes_at.unwrap());
        }
        let schedule = once.0.schedule.as_ref().unwrap();
        let drop = &schedule.drops_from(at("01T09:00"))[0];
        assert_eq!(drop.opens_at, at("01T09:00"));
    }

    #[test]
    fn opening_can_be_moved_until_a_minute_before_it() {
        let mut once = once(Some(at("01T12:00")));
        let opens = |text: &str| json!({"opens_at": format!("2026-12-{text}:00Z")});
        for (now, patch, says) in [
            ("01T10:59", opens("01T11:30"), "within a minute"),
            ("01T11:30", opens("01T11:45"), "has opened"),
            ("01T10:00", opens("01T09:59"), "in the past"),
            ("01T10:00", opens("01T12:00"), "later than opens_at"),
        ] {
            let refused = change(&mut once.clone(), now, patch).unwrap_err();
            assert!(refused.contains(says), "{now}: {refused}");
        }
        for moved in ["01T11:30", "01T10:00"] {
            change(&mut once, "01T09:00", opens(moved)).unwrap();
            assert_eq!(once.1[0].opens_at, at(moved));
            // A repeated request gets the same answer, even after the coupon has opened.
            change(&mut once, "01T11:31", opens(moved)).unwrap();
        }
        let both = json!({"opens_at": "2026-12-02T11:00:00Z", "closes_at": null});
        change(&mut once, "01T09:00", both).unwrap();
        assert_eq!(once.1[0].closes_at, None);
        let refused = change(&mut daily("12:00"), "01T09:00", opens("01T11:30")).unwrap_err();
        assert!(refused.contains("daily coupons have opens"), "{refused}");
    }

    /// Otherwise a coupon would give out codes that have expired, and each later change would be
    /// refused.
    #[test]
    fn end_of_the_codes_is_compared_with_the_new_opening() {
        let mut once = once(None);
        let end = |day: &str| format!("2026-12-{day}T00:00:00Z");
        let ends = json!({"valid_until": end("10")});
        change(&mut once, "01T09:00", ends).unwrap();
        let later = json!({"opens_at": end("20"), "closes_at": null});
        let refused = change(&mut once, "01T09:00", later.clone()).unwrap_err();
        assert!(refused.contains("valid_until must be after"), "{refused}");
        let mut both = later;
        both["valid_until"] = end("21").into();
        change(&mut once, "01T09:00", both).unwrap();
        let earlier = json!({"opens_at": end("05"), "valid_until": end("06")});
        change(&mut once, "01T09:00", earlier).unwrap();
    }

    #[test]
    fn empty_change_and_numbers_out_of_bounds_are_refused() {
        for (patch, says) in [
            (json!({}), "at least one"),
            (json!({"close_now": false}), "at least one"),
            (json!({"quantity": 0}), "quantity must be"),
            (json!({"quantity": 10_000_001}), "quantity must be"),
            (json!({"waiting_list": 1_000_001}), "waiting_list must be"),
            (json!({"name": " "}), "name must have"),
            (json!({"valid_days": 0}), "valid_days must be"),
            (
                json!({"valid_days": 7, "valid_until": "2027-01-01T00:00:00Z"}),
                "null for the other",
            ),
        ] {
            let refused = change(&mut daily("12:00"), "01T12:00", patch.clone()).unwrap_err();
            assert!(refused.contains(says), "{patch}: {refused}");
        }
    }

    #[test]
    fn fields_of_a_change_decide_whether_it_concerns_redis_and_drops() {
        for (patch, expected) in [
            (json!({"name": "x"}), [false, false]),
            (json!({"valid_days": null}), [false, false]),
            (json!({"paused": true}), [true, false]),
            (json!({"allow": null}), [true, false]),
            (json!({"quantity": 7}), [true, true]),
            (json!({"last_day": null}), [true, true]),
            (json!({"name": "x", "close_now": true}), [true, true]),
        ] {
            let patch: CouponPatch = serde_json::from_value(patch).unwrap();
            assert_eq!([patch.concerns_redis(), patch.concerns_drops()], expected);
        }
    }
}
