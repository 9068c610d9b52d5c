//! The forms of a coupon's page: what each changes, the question before it, and what the page says
//! once it is done.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use firstcome_shared::coupon::{Allow, MAX_QUANTITY, MAX_VALID_DAYS, MAX_WAITING};
use firstcome_shared::http::views::{CouponDetails, CouponDrops};
use firstcome_shared::schedule::{Schedule, Tz};
use serde_json::{Value, json};

use super::done::{Done, who_may_claim};
use super::state::{codes_end, is_open, is_to_come};
use crate::page::Fields;
use crate::text::{Text as _, short};

/// A form as it was filled in. Numbers and times are checked, except those of `Dates`. The API
/// checks the rest.
#[derive(Debug, PartialEq)]
pub(super) enum CouponForm {
    Pause,
    Resume,
    Quantity(u32),
    Name(String),
    WaitingList(u32),
    /// The end of codes: at a time, after days, or neither.
    Validity {
        until: Option<DateTime<Utc>>,
        days: Option<u32>,
    },
    Allow(Option<Allow>),
    /// The times and the last day of a daily coupon, as typed. Empty opening and closing times stay
    /// as they are, and an empty last day means that the coupon has no end.
    Dates {
        opens: String,
        closes: String,
        last_day: String,
    },
    OpensAt(DateTime<Utc>),
    ClosesAt(Option<DateTime<Utc>>),
    /// Closes the open drop.
    Close,
    /// Ends a coupon before it opens. The first day of a daily coupon becomes its last.
    Cancel {
        last_day: Option<NaiveDate>,
    },
}

/// A question to the operator before a change.
pub(super) struct Question {
    pub(super) text: String,
    pub(super) button: &'static str,
}

impl CouponForm {
    /// Reads a form, or says why it is refused.
    pub(super) fn parse(
        form: &Fields,
        found: &CouponDrops,
        now: DateTime<Utc>,
    ) -> Result<Self, String> {
        let coupon = &found.coupon;
        Ok(match form.get("how") {
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "quantity" => Self::Quantity(new_quantity(form, coupon)?),
            "name" => Self::Name(form.get("name").to_owned()),
            "waiting_list" => {
                let places = form.whole("waiting_list", "The waiting list", 0..=MAX_WAITING)?;
                Self::WaitingList(places)
            }
            "validity" => validity(form, coupon)?,
            "allow" => Self::Allow(form.allow()?),
            "dates" => Self::Dates {
                opens: form.get("opens").to_owned(),
                closes: form.get("closes").to_owned(),
                last_day: form.get("last_day").to_owned(),
            },
            "opens_at" => {
                let opens = typed_time(form, coupon, "opens_at", "Opens at")?;
                Self::OpensAt(opens.ok_or("Give the time at which it opens")?)
            }
            "closes_at" => Self::ClosesAt(typed_time(form, coupon, "closes_at", "Closes at")?),
            "close" => {
                if !found.drops.iter().any(|drop| is_open(drop.state)) {
                    return Err("No drop of it is open".to_owned());
                }
                Self::Close
            }
            "cancel" => {
                if !can_be_cancelled(found, now) {
                    let why = "It has opened or opens at once, or was cancelled: pause it instead";
                    return Err(why.to_owned());
                }
                let last_day = match coupon.schedule {
                    Some(Schedule::Daily { first_day, .. }) => Some(first_day),
                    Some(Schedule::Once { .. }) | None => None,
                };
                Self::Cancel { last_day }
            }
            _ => return Err("The form is not of this page".to_owned()),
        })
    }

    /// Returns the body of the request to the API.
    pub(super) fn body(&self) -> Value {
        match self {
            Self::Pause => json!({"paused": true}),
            Self::Resume => json!({"paused": false}),
            Self::Quantity(quantity) => json!({"quantity": quantity}),
            Self::Name(name) => json!({"name": name}),
            Self::WaitingList(places) => json!({"waiting_list": places}),
            Self::Validity { until, days } => json!({"valid_until": until, "valid_days": days}),
            Self::Allow(allow) => json!({"allow": allow}),
            Self::Dates {
                opens,
                closes,
                last_day,
            } => {
                let mut body = json!({"last_day": null});
                for (field, typed) in [("opens", opens), ("closes", closes), ("last_day", last_day)]
                {
                    if !typed.is_empty() {
                        body[field] = typed.as_str().into();
                    }
                }
                body
            }
            Self::OpensAt(opens) => json!({"opens_at": opens}),
            Self::ClosesAt(closes) => json!({"closes_at": closes}),
            Self::Close | Self::Cancel { last_day: None } => json!({"close_now": true}),
            Self::Cancel { last_day } => json!({"close_now": true, "last_day": last_day}),
        }
    }

    /// Returns the question before the change, if there is one.
    pub(super) fn question(&self, coupon: &CouponDetails) -> Option<Question> {
        let name = coupon.name.text();
        let (text, button) = match self {
            Self::Pause => (
                format!("Nobody can claim {name} until it is resumed. Those who hold one keep it."),
                "Pause it",
            ),
            Self::Quantity(quantity) => {
                (quantity_question(coupon, *quantity), "Change the quantity")
            }
            Self::Name(new) => (
                format!("People see “{}” instead of “{name}”.", new.text()),
                "Rename it",
            ),
            Self::Validity { until, days } => {
                let end = codes_end(*until, *days, zone(coupon));
                (
                    format!(
                        "Codes of {name} can be used {end}. That concerns codes that exist, too."
                    ),
                    "Change the end of codes",
                )
            }
            Self::Allow(allow) => {
                let who = who_may_claim(allow.as_ref(), coupon);
                (
                    format!(
                        "From now on, {who} may claim {name}. Those who hold one or wait keep it."
                    ),
                    "Change who may claim",
                )
            }
            Self::OpensAt(opens) => (
                format!("{name} opens at {}.", short(*opens, zone(coupon))),
                "Change the opening",
            ),
            Self::ClosesAt(None) => (
                format!("{name} then never closes by itself."),
                "Remove the end",
            ),
            Self::ClosesAt(Some(at)) if ends_earlier(coupon, *at) => (
                format!(
                    "{name} closes earlier than before, at {}. Nobody gets one after that.",
                    short(*at, zone(coupon))
                ),
                "Change the end",
            ),
            Self::Dates { last_day, .. } if is_earlier_day(coupon, last_day) => (
                format!("{name} opens on no day after {last_day}, although it would have."),
                "Change the dates",
            ),
            Self::Close => (
                format!(
                    "The open drop of {name} closes now. Nobody who waits gets one any more, \
                    except users with a broken promise. It can't be undone."
                ),
                "Close it now",
            ),
            Self::Cancel { .. } => (
                format!("{name} never opens. Nobody has claimed it. It can't be undone."),
                "Cancel it",
            ),
            Self::Resume | Self::WaitingList(_) | Self::Dates { .. } | Self::ClosesAt(Some(_)) => {
                return None;
            }
        };
        Some(Question { text, button })
    }

    /// Returns the change for the page's address, once it is made.
    pub(super) fn done(&self) -> Done {
        match self {
            Self::Pause => Done::Paused,
            Self::Resume => Done::Resumed,
            Self::Close => Done::Closed,
            Self::Cancel { .. } => Done::Cancelled,
            Self::Quantity(_) => Done::Quantity,
            Self::Name(_) => Done::Name,
            Self::WaitingList(_) => Done::WaitingList,
            Self::Validity { .. } => Done::Validity,
            Self::Allow(_) => Done::Allow,
            Self::Dates { .. } => Done::Dates,
            Self::OpensAt(_) => Done::OpensAt,
            Self::ClosesAt(_) => Done::ClosesAt,
        }
    }
}

fn zone(coupon: &CouponDetails) -> Option<Tz> {
    coupon.schedule.as_ref().and_then(Schedule::time_zone)
}

/// Whether a coupon that opens once would otherwise close later than this, or never.
fn ends_earlier(coupon: &CouponDetails, at: DateTime<Utc>) -> bool {
    match &coupon.schedule {
        Some(Schedule::Once { closes_at, .. }) => closes_at.is_none_or(|closes| at < closes),
        Some(Schedule::Daily { .. }) | None => false,
    }
}

/// Whether a daily coupon would otherwise open on days after the typed one.
fn is_earlier_day(coupon: &CouponDetails, typed: &str) -> bool {
    let day = typed.parse::<NaiveDate>();
    match &coupon.schedule {
        Some(Schedule::Daily { last_day, .. }) => {
            day.is_ok_and(|day| last_day.is_none_or(|last| day < last))
        }
        Some(Schedule::Once { .. }) | None => false,
    }
}

/// Whether a coupon can be cancelled. It may have opened since the page, or the question, was
/// shown. It must not open before the API gets the request either, because the request would close
/// the open drop for good.
fn can_be_cancelled(found: &CouponDrops, now: DateTime<Utc>) -> bool {
    let soon = now + TimeDelta::seconds(30);
    is_to_come(found.coupon.schedule.as_ref(), &found.drops)
        && found.drops.iter().all(|drop| drop.opens_at > soon)
}

fn new_quantity(form: &Fields, coupon: &CouponDetails) -> Result<u32, String> {
    let quantity = form.whole("quantity", "The quantity", 1..=MAX_QUANTITY)?;
    if quantity == coupon.quantity {
        return Err(format!("The quantity is {} already", quantity.text()));
    }
    Ok(quantity)
}

fn quantity_question(coupon: &CouponDetails, quantity: u32) -> String {
    let name = coupon.name.text();
    let from = coupon.quantity.text();
    let to = quantity.text();
    let more = match quantity / coupon.quantity.max(1) {
        0 => " Those who hold one keep it.".to_owned(),
        1..10 => String::new(),
        times => format!(" That is {} times as many!", times.text()),
    };
    let which = "for all its drops that are not closed and for later ones.";
    format!("{name}: {from} → {to}, {which}{more}")
}

fn validity(form: &Fields, coupon: &CouponDetails) -> Result<CouponForm, String> {
    let until = typed_time(form, coupon, "valid_until", "Until")?;
    let days = if form.get("valid_days").is_empty() {
        None
    } else {
        let what = "“Days from the claim”";
        Some(form.whole("valid_days", what, 1..=MAX_VALID_DAYS)?)
    };
    if until.is_some() && days.is_some() {
        return Err("Give a time or a number of days, not both".to_owned());
    }
    Ok(CouponForm::Validity { until, days })
}

/// Reads a time, as typed in the coupon's zone, or in UTC if it has none.
fn typed_time(
    form: &Fields,
    coupon: &CouponDetails,
    field: &str,
    label: &str,
) -> Result<Option<DateTime<Utc>>, String> {
    form.time(field, label, zone(coupon).unwrap_or_else(Tz::utc))
}

#[cfg(test)]
mod tests;
