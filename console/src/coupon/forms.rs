//! The changes that a coupon's page offers, each a constant: how its form is read, which question
//! precedes it, and what the page says once it is done.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use firstcome_shared::coupon::{Allow, DropState, MAX_QUANTITY, MAX_VALID_DAYS, MAX_WAITING};
use firstcome_shared::http::views::{CouponDetails, CouponDrops};
use firstcome_shared::report::wording::{capital, count};
use firstcome_shared::schedule::{Schedule, Tz};
use serde_json::{Value, json};

use super::days::DailyTimes;
use super::state::{CouponOpenness, codes_end, is_open, is_to_come};
use crate::page::Fields;
use crate::text::{Text as _, short};

/// A form of the page.
pub(super) struct CouponForm {
    /// Its name: `how` in the form, `done` in the page's address after the change.
    pub(super) how: &'static str,
    /// Reads the form as it was filled in, or says why it is refused. The API checks the rest.
    read: fn(&Fields, &CouponDrops, DateTime<Utc>) -> Result<CouponChange, String>,
    /// States the present value. Empty if the coupon contradicts the change: for example, if another
    /// operator has ended the pause.
    done: fn(&Present<'_>) -> String,
}

/// A change to make.
#[derive(Debug)]
pub(super) struct CouponChange {
    /// The body of the request to the API.
    pub(super) body: Value,
    /// The question to the operator before it, if there is one.
    pub(super) question: Option<FormQuestion>,
}

#[derive(Debug)]
pub(super) struct FormQuestion {
    pub(super) text: String,
    pub(super) button: &'static str,
    /// The further slots of a new quantity: the question then names those who wait.
    pub(super) slots: Option<u32>,
}

/// A coupon as its page shows it.
pub(super) struct Present<'a> {
    pub(super) coupon: &'a CouponDetails,
    pub(super) now: CouponOpenness<'a>,
    pub(super) daily: Option<&'a DailyTimes>,
}

/// The word in the page's address after a coupon was created.
pub(crate) const MADE: &str = "made";

/// The word in the page's address after its allow list was changed.
pub(super) const LISTED: &str = "listed";

/// Reads a form, or says why it is refused.
pub(super) fn read(
    form: &Fields,
    found: &CouponDrops,
    now: DateTime<Utc>,
) -> Result<CouponChange, String> {
    let how = form.get("how");
    match FORMS.iter().find(|known| known.how == how) {
        Some(known) => (known.read)(form, found, now),
        None => Err("The form is not of this page".to_owned()),
    }
}

/// Returns the sentence about the change that was just made, or an empty one.
pub(super) fn sentence(done: &str, present: &Present<'_>) -> String {
    match done {
        MADE => "Created.".to_owned(),
        LISTED => "The allow list was changed.".to_owned(),
        how => match FORMS.iter().find(|known| known.how == how) {
            Some(known) => (known.done)(present),
            None => String::new(),
        },
    }
}

const FORMS: [CouponForm; 12] = [
    PAUSE,
    RESUME,
    QUANTITY,
    NAME,
    WAITING_LIST,
    VALIDITY,
    ALLOW,
    DATES,
    OPENS_AT,
    CLOSES_AT,
    CLOSE,
    CANCEL,
];

const PAUSE: CouponForm = CouponForm {
    how: "pause",
    read: |_, found, _| {
        let name = found.coupon.name.text();
        let text =
            format!("Nobody can claim {name} until it is resumed. Those who hold one keep it.");
        Ok(asking(json!({"paused": true}), text, "Pause it"))
    },
    done: |present| {
        if present.coupon.paused {
            "Paused. Nobody can claim until it is resumed.".to_owned()
        } else {
            String::new()
        }
    },
};

const RESUME: CouponForm = CouponForm {
    how: "resume",
    read: |_, _, _| Ok(at_once(json!({"paused": false}))),
    done: |present| match (present.coupon.paused, present.now.open, present.now.opens) {
        (true, _, _) => String::new(),
        (false, Some(DropState::SoldOut), _) => "Resumed. It is sold out.".to_owned(),
        (false, Some(_), _) => "Resumed. People can claim again.".to_owned(),
        (false, None, Some(opens)) => format!("Resumed. It opens {opens}."),
        (false, None, None) => "Resumed.".to_owned(),
    },
};

const QUANTITY: CouponForm = CouponForm {
    how: "quantity",
    read: |form, found, _| {
        let coupon = &found.coupon;
        let quantity = form.whole("quantity", "The quantity", 1..=MAX_QUANTITY)?;
        if quantity == coupon.quantity {
            return Err(format!("The quantity is {} already", quantity.text()));
        }
        let text = quantity_question(coupon, quantity);
        Ok(CouponChange {
            body: json!({"quantity": quantity}),
            question: Some(FormQuestion {
                text,
                button: "CouponChange the quantity",
                slots: Some(quantity.saturating_sub(coupon.quantity)),
            }),
        })
    },
    done: |present| format!("The quantity is {} now.", present.coupon.quantity.text()),
};

const NAME: CouponForm = CouponForm {
    how: "name",
    read: |form, found, _| {
        let new = form.get("name");
        let name = found.coupon.name.text();
        let text = format!("People see “{}” instead of “{name}”.", new.text());
        Ok(asking(json!({"name": new}), text, "Rename it"))
    },
    done: |present| format!("Renamed: people see “{}” now.", present.coupon.name.text()),
};

const WAITING_LIST: CouponForm = CouponForm {
    how: "waiting_list",
    read: |form, _, _| {
        let places = form.whole("waiting_list", "The waiting list", 0..=MAX_WAITING)?;
        Ok(at_once(json!({"waiting_list": places})))
    },
    done: |present| match present.coupon.waiting_list {
        0 => "It has no waiting list now.".to_owned(),
        places => format!(
            "Its waiting list has {} now.",
            count(places, "place", "places")
        ),
    },
};

/// The end of codes: at a time, after days, or neither.
const VALIDITY: CouponForm = CouponForm {
    how: "validity",
    read: |form, found, _| {
        let coupon = &found.coupon;
        let until = typed_time(form, coupon, "valid_until", "Until")?;
        let days = match form.get("valid_days") {
            "" => None,
            _ => Some(form.whole("valid_days", "“Days from the claim”", 1..=MAX_VALID_DAYS)?),
        };
        if until.is_some() && days.is_some() {
            return Err("Give a time or a number of days, not both".to_owned());
        }
        let name = coupon.name.text();
        let end = codes_end(until, days, zone(coupon));
        let text =
            format!("Codes of {name} can be used {end}. That concerns codes that exist, too.");
        let body = json!({"valid_until": until, "valid_days": days});
        Ok(asking(body, text, "CouponChange the end of codes"))
    },
    done: |present| {
        let coupon = present.coupon;
        let end = codes_end(coupon.valid_until, coupon.valid_days, zone(coupon));
        format!("Codes can be used {end} now.")
    },
};

const ALLOW: CouponForm = CouponForm {
    how: "allow",
    read: |form, found, _| {
        let allow = form.allow()?;
        let name = found.coupon.name.text();
        let who = who_may_claim(allow.as_ref(), &found.coupon);
        let text =
            format!("From now on, {who} may claim {name}. Those who hold one or wait keep it.");
        Ok(asking(
            json!({"allow": allow}),
            text,
            "CouponChange who may claim",
        ))
    },
    done: |present| {
        let who = who_may_claim(present.coupon.allow.as_ref(), present.coupon);
        format!("{} may claim it now.", capital(&who))
    },
};

/// The times and the last day of a daily coupon, as typed. Empty opening and closing times stay as
/// they are, and an empty last day means that the coupon has no end.
const DATES: CouponForm = CouponForm {
    how: "dates",
    read: |form, found, _| {
        let mut body = json!({"last_day": null});
        for field in ["opens", "closes", "last_day"] {
            let typed = form.get(field);
            if !typed.is_empty() {
                body[field] = typed.into();
            }
        }
        let last_day = form.get("last_day");
        if !is_earlier_day(&found.coupon, last_day) {
            return Ok(at_once(body));
        }
        let name = found.coupon.name.text();
        let text = format!("{name} opens on no day after {last_day}, although it would have.");
        Ok(asking(body, text, "CouponChange the dates"))
    },
    done: |present| present.daily.map(DailyTimes::changed).unwrap_or_default(),
};

const OPENS_AT: CouponForm = CouponForm {
    how: "opens_at",
    read: |form, found, _| {
        let coupon = &found.coupon;
        let opens = typed_time(form, coupon, "opens_at", "Opens at")?
            .ok_or("Give the time at which it opens")?;
        let name = coupon.name.text();
        let text = format!("{name} opens at {}.", short(opens, zone(coupon)));
        Ok(asking(
            json!({"opens_at": opens}),
            text,
            "CouponChange the opening",
        ))
    },
    done: |present| match &present.coupon.schedule {
        Some(Schedule::Once { opens_at, .. }) => {
            format!("It opens {} now.", short(*opens_at, zone(present.coupon)))
        }
        Some(Schedule::Daily { .. }) | None => String::new(),
    },
};

const CLOSES_AT: CouponForm = CouponForm {
    how: "closes_at",
    read: |form, found, _| {
        let coupon = &found.coupon;
        let closes = typed_time(form, coupon, "closes_at", "Closes at")?;
        let body = json!({"closes_at": closes});
        let name = coupon.name.text();
        Ok(match closes {
            None => {
                let text = format!("{name} then never closes by itself.");
                asking(body, text, "Remove the end")
            }
            Some(at) if ends_earlier(coupon, at) => {
                let at = short(at, zone(coupon));
                let text = format!(
                    "{name} closes earlier than before, at {at}. Nobody gets one after that."
                );
                asking(body, text, "CouponChange the end")
            }
            Some(_) => at_once(body),
        })
    },
    done: |present| match &present.coupon.schedule {
        Some(Schedule::Once {
            closes_at: Some(closes),
            ..
        }) => {
            format!("It closes {} now.", short(*closes, zone(present.coupon)))
        }
        Some(Schedule::Once {
            closes_at: None, ..
        }) => "It never closes by itself now.".to_owned(),
        Some(Schedule::Daily { .. }) | None => String::new(),
    },
};

/// Closes the open drop.
const CLOSE: CouponForm = CouponForm {
    how: "close",
    read: |_, found, _| {
        if !found.drops.iter().any(|drop| is_open(drop.state)) {
            return Err("No drop of it is open".to_owned());
        }
        let text = format!(
            "The open drop of {} closes now. Nobody who waits gets one any more, except users with \
            a broken promise. It can't be undone.",
            found.coupon.name.text()
        );
        Ok(asking(json!({"close_now": true}), text, "Close it now"))
    },
    done: |_| {
        "Closed. Nobody who waits gets one any more, except users with a broken promise.".to_owned()
    },
};

/// Ends a coupon before it opens. The first day of a daily coupon becomes its last.
const CANCEL: CouponForm = CouponForm {
    how: "cancel",
    read: |_, found, now| {
        if !can_be_cancelled(found, now) {
            let why = "It has opened or opens at once, or was cancelled: pause it instead";
            return Err(why.to_owned());
        }
        let body = match found.coupon.schedule {
            Some(Schedule::Daily { first_day, .. }) => {
                json!({"close_now": true, "last_day": first_day})
            }
            Some(Schedule::Once { .. }) | None => json!({"close_now": true}),
        };
        let name = found.coupon.name.text();
        let text = format!("{name} never opens. Nobody has claimed it. It can't be undone.");
        Ok(asking(body, text, "Cancel it"))
    },
    done: |_| "Cancelled. It never opens.".to_owned(),
};

fn at_once(body: Value) -> CouponChange {
    CouponChange {
        body,
        question: None,
    }
}

fn asking(body: Value, text: String, button: &'static str) -> CouponChange {
    CouponChange {
        body,
        question: Some(FormQuestion {
            text,
            button,
            slots: None,
        }),
    }
}

fn zone(coupon: &CouponDetails) -> Option<Tz> {
    coupon.schedule.as_ref().and_then(Schedule::time_zone)
}

/// Names the users who may claim, as a part of a sentence.
fn who_may_claim(allow: Option<&Allow>, coupon: &CouponDetails) -> String {
    match allow {
        Some(Allow::List) => {
            let users = count(coupon.allow_list_users, "person", "people");
            format!("only the {users} on its allow list")
        }
        Some(Allow::Group(group)) => format!("only people of the group {}", group.as_str().text()),
        None => "everybody".to_owned(),
    }
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
