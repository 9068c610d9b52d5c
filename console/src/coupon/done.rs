//! The sentence on a coupon's page about the change that was just made. It states the present
//! value.

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Allow, DropState};
use firstcome_shared::http::views::CouponDetails;
use firstcome_shared::report::wording::{capital, count};
use firstcome_shared::schedule::{Schedule, Tz};
use strum::{EnumString, IntoStaticStr};

use super::days::DailyTimes;
use super::state::{Openness, codes_end};
use crate::text::{Text as _, short};

/// A change that was just made, as in the address of the page (`done=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Done {
    Made,
    Paused,
    Resumed,
    Quantity,
    Name,
    WaitingList,
    Validity,
    Allow,
    Dates,
    OpensAt,
    ClosesAt,
    Closed,
    Cancelled,
    Listed,
}

/// Returns the sentence for a change, or an empty one if the coupon contradicts it: for example, if
/// another operator has ended the pause.
pub(super) fn sentence(
    done: Done,
    coupon: &CouponDetails,
    now: Openness<'_>,
    daily: Option<&DailyTimes>,
) -> String {
    let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
    match done {
        Done::Made => "Created.".to_owned(),
        Done::Paused if coupon.paused => "Paused. Nobody can claim until it is resumed.".to_owned(),
        Done::Resumed if !coupon.paused => resumed(now),
        Done::Paused | Done::Resumed => String::new(),
        Done::Quantity => format!("The quantity is {} now.", coupon.quantity.text()),
        Done::Name => format!("Renamed: people see “{}” now.", coupon.name.text()),
        Done::WaitingList => match coupon.waiting_list {
            0 => "It has no waiting list now.".to_owned(),
            places => format!(
                "Its waiting list has {} now.",
                count(places, "place", "places")
            ),
        },
        Done::Validity => {
            let end = codes_end(coupon.valid_until, coupon.valid_days, zone);
            format!("Codes can be used {end} now.")
        }
        Done::Allow => {
            let who = who_may_claim(coupon.allow.as_ref(), coupon);
            format!("{} may claim it now.", capital(&who))
        }
        Done::Dates => daily.map(DailyTimes::changed).unwrap_or_default(),
        Done::OpensAt | Done::ClosesAt => window(done, coupon.schedule.as_ref(), zone),
        Done::Closed => "Closed. Nobody who waits gets one any more, except users with a broken \
            promise."
            .to_owned(),
        Done::Cancelled => "Cancelled. It never opens.".to_owned(),
        Done::Listed => "The allow list was changed.".to_owned(),
    }
}

fn resumed(now: Openness<'_>) -> String {
    match (now.open, now.opens) {
        (Some(DropState::SoldOut), _) => "Resumed. It is sold out.".to_owned(),
        (Some(_), _) => "Resumed. People can claim again.".to_owned(),
        (None, Some(opens)) => format!("Resumed. It opens {opens}."),
        (None, None) => "Resumed.".to_owned(),
    }
}

/// Says when a coupon that opens once opens or closes now.
fn window(done: Done, schedule: Option<&Schedule>, zone: Option<Tz>) -> String {
    let Some(Schedule::Once {
        opens_at,
        closes_at,
        ..
    }) = schedule
    else {
        return String::new();
    };
    let at = |at: DateTime<Utc>| short(at, zone);
    match (done, closes_at) {
        (Done::OpensAt, _) => format!("It opens {} now.", at(*opens_at)),
        (_, Some(closes)) => format!("It closes {} now.", at(*closes)),
        (_, None) => "It never closes by itself now.".to_owned(),
    }
}

/// Names the users who may claim, as a part of a sentence.
pub(super) fn who_may_claim(allow: Option<&Allow>, coupon: &CouponDetails) -> String {
    match allow {
        Some(Allow::List) => {
            let users = count(coupon.allow_list_users, "person", "people");
            format!("only the {users} on its allow list")
        }
        Some(Allow::Group(group)) => format!("only people of the group {}", group.as_str().text()),
        None => "everybody".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn coupon(changed: &Value) -> CouponDetails {
        let mut coupon = json!({
            "id": 1, "name": "Winter", "quantity": 1000, "once_per": "coupon", "waiting_list": 0,
            "paused": false, "allow_list_users": 2, "revision": 3, "over": false, "page": "",
            "schedule": {
                "type": "once", "time_zone": "Asia/Seoul", "opens_at": "2026-12-01T06:00:00Z",
            },
        });
        for (name, value) in changed.as_object().unwrap() {
            coupon[name] = value.clone();
        }
        serde_json::from_value(coupon).unwrap()
    }

    const AWAY: Openness<'_> = Openness {
        open: None,
        opens: None,
    };

    #[test]
    fn sentence_states_the_present_value_of_what_was_changed() {
        for (word, changed, says) in [
            ("made", json!({}), "Created."),
            ("quantity", json!({}), "The quantity is 1,000 now."),
            ("name", json!({}), "Renamed: people see “Winter” now."),
            ("waiting_list", json!({}), "It has no waiting list now."),
            (
                "waiting_list",
                json!({"waiting_list": 1}),
                "Its waiting list has 1 place now.",
            ),
            (
                "validity",
                json!({"valid_days": 30}),
                "Codes can be used for 30 days from the claim now.",
            ),
            ("allow", json!({}), "Everybody may claim it now."),
            (
                "allow",
                json!({"allow": "list"}),
                "Only the 2 people on its allow list may claim it now.",
            ),
            (
                "opens_at",
                json!({}),
                "It opens 2026-12-01 15:00 +09:00 now.",
            ),
            ("closes_at", json!({}), "It never closes by itself now."),
            // Somebody else has resumed it meanwhile.
            ("paused", json!({}), ""),
        ] {
            let done = word.parse().unwrap();
            assert_eq!(sentence(done, &coupon(&changed), AWAY, None), says);
        }
    }

    #[test]
    fn sentence_about_a_resumed_coupon_says_whether_and_when_people_can_claim() {
        let opens = Some("2026-12-01 15:00 +09:00");
        for (open, says) in [
            (Some(DropState::Open), "Resumed. People can claim again."),
            (Some(DropState::SoldOut), "Resumed. It is sold out."),
            (None, "Resumed. It opens 2026-12-01 15:00 +09:00."),
        ] {
            let now = Openness { open, opens };
            assert_eq!(
                sentence(Done::Resumed, &coupon(&json!({})), now, None),
                says
            );
        }
    }
}
