//! Coupons and drops: the types that all processes share.

mod patch;

use std::ops::{Deref, RangeInclusive};
use std::str::FromStr;

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Utc};
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::prelude::*;
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::columns::StoredSchedule;
use crate::domain::{CouponId, DropId, OncePer, Slot, unfit_in_a_name};
use crate::schedule::{Schedule, instants};
use crate::schema::{coupons, drops};

pub use self::patch::CouponPatch;

/// The settings of a coupon.
//
// The body of `POST /v1/coupons` and the row in MySQL. `CouponPatch` changes it.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    Queryable,
    Selectable,
    QueryableByName,
    Insertable,
    AsChangeset,
)]
#[diesel(table_name = coupons, treat_none_as_default_value = false, treat_none_as_null = true)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCouponBody)]
pub struct CouponSettings {
    /// At least one character.
    #[schema(example = "Winter coupon", max_length = 200)]
    pub name: String,
    /// Quantity of each drop.
    #[schema(value_type = u32, example = 100, minimum = 1, maximum = 10_000_000)]
    pub quantity: Slot,
    /// Scope in which a user may hold one coupon.
    pub once_per: OncePer,
    /// Places on the waiting list of a sold-out drop.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub waiting_list: u32,
    /// No claim is admitted while this is set.
    #[serde(default)]
    pub paused: bool,
    /// Codes can be used before this time; null: no such end.
    #[serde(default, deserialize_with = "instants::or_none")]
    #[diesel(skip_update)] // `AsChangeset` takes no optional time: `mysql/change.rs` writes it
    pub valid_until: Option<DateTime<Utc>>,
    /// Codes can be used for this many times 24 hours from the claim; null: no such end. At most
    /// one of `valid_until` and `valid_days` can be set.
    #[schema(example = 30, minimum = 1, maximum = 3650)]
    pub valid_days: Option<u32>,
    /// When it opens. A new coupon needs it; null if its drops were inserted manually.
    #[schema(required = true)]
    #[diesel(deserialize_as = StoredSchedule)]
    pub schedule: Option<Schedule>,
    /// Who may claim: null is everybody, `list` users on its allow list, `group:NAME` users whose
    /// token names that group.
    #[schema(value_type = Option<String>, example = "list", max_length = 70)]
    #[diesel(column_name = allow_rule)]
    pub allow: Option<Allow>,
}

pub const MAX_QUANTITY: Slot = 10_000_000;
pub const MAX_WAITING: u32 = 1_000_000;
pub const MAX_VALID_DAYS: u32 = 3_650;

/// Maximum length of a name, in characters.
const MAX_NAME_CHARS: usize = 200;

impl CouponSettings {
    /// Checks a new coupon, and trims its name.
    ///
    /// # Errors
    /// The message names the field.
    pub fn checked_new(mut self, now: DateTime<Utc>) -> Result<Self, String> {
        self.name = line("name", MAX_NAME_CHARS, &self.name)?;
        check_numbers(self.quantity, self.waiting_list)?;
        let schedule = self.schedule.as_ref().ok_or("schedule is missing")?;
        schedule
            .check_new(now)
            .map_err(|error| format!("schedule: {error}"))?;
        self.check_validity()?;
        if self.valid_until.is_some_and(|end| end <= now) {
            return Err("valid_until is in the past: no code could be used".to_owned());
        }
        Ok(self)
    }

    /// Checks that at most one end of the codes is given, that it is within its limits, and that a
    /// coupon that opens once opens before it.
    fn check_validity(&self) -> Result<(), String> {
        if self.valid_until.is_some() && self.valid_days.is_some() {
            return Err("give valid_until or valid_days, and null for the other".to_owned());
        }
        in_range(
            "valid_days",
            self.valid_days.unwrap_or(1),
            1..=MAX_VALID_DAYS,
        )?;
        if self.valid_until.is_some_and(|end| end.year() > 9_999) {
            return Err("valid_until is too late: the last year is 9999".to_owned());
        }
        if let Some(Schedule::Once { opens_at, .. }) = &self.schedule
            && self.valid_until.is_some_and(|end| end <= *opens_at)
        {
            return Err("valid_until must be after opens_at".to_owned());
        }
        Ok(())
    }

    /// Returns when the code of a claim expires, or `None` if it never does.
    pub fn code_expires_at(&self, claimed_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        code_expires_at(self.valid_until, self.valid_days, claimed_at)
    }
}

/// Returns when the code of a claim expires, or `None` if it never does.
pub fn code_expires_at(
    valid_until: Option<DateTime<Utc>>,
    valid_days: Option<u32>,
    claimed_at: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let days = valid_days.map(|days| TimeDelta::days(days.into()));
    valid_until.or_else(|| claimed_at.checked_add_signed(days?))
}

fn check_numbers(quantity: Slot, waiting_list: u32) -> Result<(), String> {
    in_range("quantity", quantity, 1..=MAX_QUANTITY)?;
    in_range("waiting_list", waiting_list, 0..=MAX_WAITING)
}

fn in_range(field: &str, number: u32, allowed: RangeInclusive<u32>) -> Result<(), String> {
    if allowed.contains(&number) {
        return Ok(());
    }
    let (least, most) = allowed.into_inner();
    Err(format!(
        "{field} must be a whole number from {least} to {most}, not {number}"
    ))
}

/// Trims and checks a line of text.
///
/// # Errors
/// The message names the field.
pub fn line(field: &str, most: usize, text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > most {
        return Err(format!("{field} must have 1 to {most} characters"));
    }
    if let Some(unfit) = unfit_in_a_name(text) {
        return Err(format!(
            "{field} must not hold control or invisible characters: it holds U+{:04X}",
            u32::from(unfit)
        ));
    }
    Ok(text.to_owned())
}

/// A coupon. Its settings are read as if they were its own fields.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Queryable, Selectable, QueryableByName,
)]
#[diesel(table_name = coupons)]
pub struct Coupon {
    pub id: CouponId,
    #[diesel(embed)]
    pub settings: CouponSettings,
    /// Increases with each change, and when a process takes the next one to write the settings to
    /// Redis (`fc:{C}:revision`). It is the fencing token of those writes.
    pub revision: u64,
    /// Increased each time the coupon is closed so that its data in Redis can be verified or
    /// rebuilt. Starts at 0. Redis has its copy in `fc:{C}:gate`.
    pub era: u64,
    /// The allow list. It may exist before the coupon is restricted to it.
    #[diesel(embed)]
    pub allow_list: AllowList,
}

impl Deref for Coupon {
    type Target = CouponSettings;

    fn deref(&self) -> &CouponSettings {
        &self.settings
    }
}

/// A restriction of claims. In JSON, Redis and MySQL: `list`, or `group:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
#[serde(try_from = "String", into = "String")]
pub enum Allow {
    /// Users on the coupon's allow list.
    List,
    /// Users whose token names this group.
    Group(Group),
}

/// A group of users, by its name in tokens: 1–64 characters of `A–Z a–z 0–9 . _ - /`. A leading
/// `/`, which Keycloak writes, is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group(String);

/// Identifies the state of an allow list: it changes with every change of the list.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Queryable,
    Selectable,
    QueryableByName,
)]
#[diesel(table_name = coupons)]
pub struct AllowList {
    /// The coupon's revision when the list was last changed, or 0 if there never was a list.
    #[diesel(column_name = allow_list_revision)]
    pub revision: u64,
    #[diesel(column_name = allow_list_people)]
    pub people: u32,
}

impl Group {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let fits = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        if (1..=64).contains(&text.len()) && fits {
            return Ok(Self(text.to_owned()));
        }
        Err("the name of a group has 1 to 64 characters of A-Z a-z 0-9 . _ - /".to_owned())
    }
}

impl TryFrom<String> for Allow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("group:") {
            Some(name) => name.parse().map(Self::Group),
            None if text == "list" => Ok(Self::List),
            None => Err("allow is null (everybody), \"list\", or \"group:NAME\"".to_owned()),
        }
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> Self {
        match allow {
            Allow::List => "list".to_owned(),
            Allow::Group(group) => format!("group:{}", group.0),
        }
    }
}

/// One opening of a coupon.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Queryable, Selectable, QueryableByName,
)]
#[diesel(table_name = drops)]
pub struct Drop {
    pub id: DropId,
    pub coupon_id: CouponId,
    /// The day in the coupon's time zone. `None` only for drops that were inserted manually.
    pub local_date: Option<NaiveDate>,
    /// Claims are admitted from this time.
    pub opens_at: DateTime<Utc>,
    /// Claims are rejected from this time, or `None` if the drop stays open.
    pub closes_at: Option<DateTime<Utc>>,
    pub quantity: Slot,
    /// An operator closed it early: from its waiting list, only users with a broken promise are
    /// promoted.
    pub closed_early: bool,
    /// When it was verified exact after closing.
    pub sealed_at: Option<DateTime<Utc>>,
    /// Number of its rows, if it is sealed.
    pub sealed_rows: Option<u32>,
}

/// The properties of a drop that decide whether a message may add a row to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = drops)]
pub struct DropWindow {
    pub opens_at: DateTime<Utc>,
    pub closes_at: Option<DateTime<Utc>>,
    #[diesel(select_expression = drops::sealed_at.is_not_null())]
    pub is_sealed: bool,
}

/// Why a message does not add a row to its drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimFault {
    /// The drop was verified exact: every promise has a row, or is listed as broken.
    SealedDrop,
    /// The drop was not open at the time of the claim.
    OutsideWindow,
}

impl ClaimFault {
    /// Returns an explanation for operators, without user ids.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::SealedDrop => "the drop is sealed, and nobody in it has this claim",
            Self::OutsideWindow => "the drop was not open when it was claimed",
        }
    }
}

impl DropWindow {
    /// Maximum distance between an accepted admission and the window. Redis admits users by its
    /// copy of the window, and an operator's change reaches MySQL first.
    const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

    /// Returns why a claim that was admitted at this time does not add a row. A claim with an
    /// unknown time matches every window.
    pub fn fault(&self, claimed_at: Option<DateTime<Utc>>) -> Option<ClaimFault> {
        if self.is_sealed {
            return Some(ClaimFault::SealedDrop);
        }
        let at = claimed_at?;
        let is_outside = at < self.opens_at - Self::TOLERANCE
            || self
                .closes_at
                .is_some_and(|closes| at >= closes + Self::TOLERANCE);
        is_outside.then_some(ClaimFault::OutsideWindow)
    }
}

/// State of a drop, as users see it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum DropState {
    /// Opens later.
    Scheduled,
    /// Slots are available.
    Open,
    /// All slots are taken.
    SoldOut,
    /// An operator paused it.
    Paused,
    /// Its window has ended.
    Closed,
    /// Its window has ended, and the drop was verified exact.
    Sealed,
}

impl DropState {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Coupon {
    /// Whether the coupon has drops, all of them sealed, and its schedule has no more of them.
    pub fn is_over_for_good(&self, drops: &[Drop], now: DateTime<Utc>) -> bool {
        let goes_on = self.schedule.as_ref().is_some_and(|schedule| {
            matches!(schedule, Schedule::Daily { .. }) && !schedule.drops_from(now).is_empty()
        });
        !goes_on && !drops.is_empty() && drops.iter().all(|drop| drop.sealed_at.is_some())
    }
}

impl Drop {
    /// Returns the drop's state at `now`, given how many slots can still be given out.
    pub fn state(&self, now: DateTime<Utc>, paused: bool, remaining: u32) -> DropState {
        if self.sealed_at.is_some() {
            DropState::Sealed
        } else if self.closes_at.is_some_and(|closes| now >= closes) {
            DropState::Closed
        } else if now < self.opens_at {
            DropState::Scheduled
        } else if paused {
            DropState::Paused
        } else if remaining == 0 {
            DropState::SoldOut
        } else {
            DropState::Open
        }
    }

    pub fn window(&self) -> DropWindow {
        DropWindow {
            opens_at: self.opens_at,
            closes_at: self.closes_at,
            is_sealed: self.sealed_at.is_some(),
        }
    }

    /// Whether the drop is not sealed and has not ended at `now`. It may open later.
    pub fn can_give_slots(&self, now: DateTime<Utc>) -> bool {
        self.sealed_at.is_none() && self.closes_at.is_none_or(|closes| closes > now)
    }

    /// Whether the window contains `now`.
    pub fn is_open_at(&self, now: DateTime<Utc>) -> bool {
        self.opens_at <= now && self.closes_at.is_none_or(|closes| now < closes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    fn drop(id: i64, window: RangeInclusive<i64>) -> Drop {
        let (opens, closes) = window.into_inner();
        Drop {
            id: DropId(id),
            coupon_id: CouponId(1),
            local_date: None,
            opens_at: at(opens),
            closes_at: Some(at(closes)),
            quantity: 1,
            closed_early: false,
            sealed_at: None,
            sealed_rows: None,
        }
    }

    #[test]
    fn name_is_trimmed_and_refused_with_control_or_invisible_characters() {
        let name = |text: &str| line("name", MAX_NAME_CHARS, text);
        assert_eq!(name("  Winter · 겨울 ").unwrap(), "Winter · 겨울");
        assert_eq!(name(&"ü".repeat(200)).unwrap().chars().count(), 200);
        for good in ["❤\u{fe0f} Valentine", "👩\u{200d}👧 family", "عيد مبارك"] {
            assert_eq!(name(good).unwrap(), good);
        }
        let long = "x".repeat(201);
        let bad = [
            "",
            "   ",
            &long,
            "a\nb",
            "a\r\nBcc: x",
            "a\u{0}",
            "\u{1b}[31m",
        ];
        for bad in bad {
            assert!(name(bad).unwrap_err().starts_with("name "), "{bad:?}");
        }
        let invisible = "\u{202e}\u{200b}\u{200f}\u{61c}\u{ad}\u{e0041}\u{3164}\u{2800}\u{feff}";
        for invisible in invisible.chars() {
            assert!(name(&format!("a{invisible}b")).is_err(), "{invisible:?}");
        }
    }

    #[test]
    fn restriction_round_trips_and_invalid_text_is_refused() {
        let read = |text: &str| Allow::try_from(text.to_owned());
        let longest = format!("group:{}", "x".repeat(64));
        for good in ["list", "group:vip", "group:A.b_c-9", &longest] {
            assert_eq!(String::from(read(good).unwrap()), good);
        }
        let too_long = format!("{longest}x");
        let bad = "|List|everybody|group:|group:a b|group:a,b|group:a:b|group:ü|vip";
        for bad in bad.split('|').chain([&*too_long]) {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn message_adds_a_row_only_to_an_unsealed_drop_near_its_window() {
        let [d, mut endless, mut sealed] = [1, 2, 3].map(|id| drop(id, 10..=20));
        endless.closes_at = None;
        sealed.sealed_at = Some(at(30));
        let outside = Some(ClaimFault::OutsideWindow);
        let of_sealed = Some(ClaimFault::SealedDrop);
        for (minute, of_drop, of_endless) in [
            (Some(4), outside, outside),
            (Some(5), None, None),
            (Some(10), None, None),
            (Some(24), None, None),
            (Some(25), outside, None),
            (Some(9_000), outside, None),
            (None, None, None),
        ] {
            let faults = [&d, &endless, &sealed].map(|it| it.window().fault(minute.map(at)));
            assert_eq!(
                faults,
                [of_drop, of_endless, of_sealed],
                "minute {minute:?}"
            );
        }
    }

    #[test]
    fn drop_state_depends_on_seal_then_window_then_pause_then_remaining_slots() {
        let mut d = drop(1, 10..=20);
        for (minute, is_paused, left, expected) in [
            (9, true, 0, DropState::Scheduled),
            (10, false, 1, DropState::Open),
            (10, false, 0, DropState::SoldOut),
            (10, true, 1, DropState::Paused),
            (20, true, 1, DropState::Closed),
        ] {
            assert_eq!(d.state(at(minute), is_paused, left), expected, "{minute}");
        }
        d.sealed_at = Some(at(30));
        assert_eq!(d.state(at(31), false, 0), DropState::Sealed);
    }
}
