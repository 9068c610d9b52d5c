//! The body of a change.

#![allow(clippy::option_option)] // a field that is missing, null, or a value

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use firstcome_shared::coupon::Allow;
use firstcome_shared::domain::Slot;
use firstcome_shared::http::Problem;
use firstcome_shared::schedule;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::serve::auth::Identity;
use crate::serve::routes::extract::invalid;
use crate::serve::routes::validate;

/// A change. Missing fields stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeBody {
    #[schema(example = "Winter coupon", max_length = 200)]
    name: Option<String>,
    /// Quantity of each drop that is not closed, and of later ones.
    #[schema(minimum = 1, maximum = 10_000_000)]
    quantity: Option<i64>,
    /// Stops or resumes admission.
    paused: Option<bool>,
    /// Places on the waiting list of a sold-out drop. Users who wait keep theirs.
    #[schema(minimum = 0, maximum = 1_000_000)]
    waiting_list: Option<i64>,
    /// When a coupon that opens once closes; null: never.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    closes_at: Option<Option<Instant>>,
    /// Local opening time of a daily coupon, for drops that have not opened.
    #[schema(value_type = Option<String>, example = "15:00")]
    opens: Option<WallClock>,
    /// Local closing time of a daily coupon, for drops that have not opened.
    #[schema(value_type = Option<String>, example = "18:00")]
    closes: Option<WallClock>,
    /// Last local date of a daily coupon; null: none. Unopened drops after it are removed.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<NaiveDate>)]
    last_day: Option<Option<NaiveDate>>,
    /// True closes the open drop immediately and permanently; its waiting list gets nothing more.
    /// Later drops of a daily coupon stay.
    close_now: Option<bool>,
    /// Who may claim, as in `NewCouponBody`. Users who hold a coupon or wait keep it.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<String>, example = "list", max_length = 70)]
    allow: Option<Option<String>>,
}

#[derive(Debug, Deserialize)]
struct WallClock(#[serde(with = "schedule::wall_clock")] NaiveTime);

#[derive(Debug, Deserialize)]
struct Instant(#[serde(deserialize_with = "schedule::instants::one")] DateTime<Utc>);

/// Distinguishes `null` from a missing field.
fn or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// A change whose fields are valid individually.
#[derive(Debug, Clone, Default)]
pub(super) struct WantedChange {
    pub(super) name: Option<String>,
    pub(super) quantity: Option<Slot>,
    pub(super) paused: Option<bool>,
    pub(super) waiting_list: Option<u32>,
    pub(super) allow: Option<Option<Allow>>,
    pub(super) windows: Windows,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) closes_at: Option<Option<DateTime<Utc>>>,
    pub(super) opens: Option<NaiveTime>,
    pub(super) closes: Option<NaiveTime>,
    pub(super) last_day: Option<Option<NaiveDate>>,
    pub(super) close_now: bool,
}

impl Windows {
    pub(super) const NONE: Self = Self {
        closes_at: None,
        opens: None,
        closes: None,
        last_day: None,
        close_now: false,
    };
}

impl WantedChange {
    /// Whether the change concerns Redis, which does not store the name.
    pub(super) fn is_in_redis(&self) -> bool {
        self.quantity.is_some()
            || self.paused.is_some()
            || self.waiting_list.is_some()
            || self.allow.is_some()
            || self.windows != Windows::NONE
    }
}

impl ChangeBody {
    pub(super) fn check(self, identity: &Identity) -> Result<WantedChange, Problem> {
        let windows = Windows {
            closes_at: self.closes_at.map(|at| at.map(|at| at.0)),
            opens: self.opens.map(|time| time.0),
            closes: self.closes.map(|time| time.0),
            last_day: self.last_day,
            close_now: self.close_now == Some(true),
        };
        let wanted = WantedChange {
            name: self.name.as_deref().map(validate::name).transpose()?,
            quantity: self.quantity.map(validate::quantity).transpose()?,
            paused: self.paused,
            waiting_list: self.waiting_list.map(validate::waiting_list).transpose()?,
            allow: match self.allow {
                Some(Some(allow)) => Some(Some(validate::allow(&allow, Some(identity))?)),
                other => other.map(|_| None),
            },
            windows,
        };
        if wanted.name.is_none() && !wanted.is_in_redis() {
            let fields = "name, quantity, paused, waiting_list, allow, closes_at, opens, closes, last_day, close_now (true)";
            return Err(invalid(format!("give at least one of {fields}")));
        }
        Ok(wanted)
    }
}
