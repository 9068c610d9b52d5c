//! Tests the forms with tables of cases.

use firstcome_shared::coupon::{CouponPatch, DropState};

use super::*;
use crate::client::HttpRefusal;

/// A coupon in Seoul with a quantity of 100, whose only drop is in this state and opens an hour
/// after the epoch.
fn found(state: DropState) -> CouponDrops {
    let opens_at = "1970-01-01T01:00:00Z";
    let coupon = json!({
        "id": 1, "name": "Winter", "quantity": 100, "once_per": "coupon", "waiting_list": 0,
        "paused": false, "allow_list_users": 2, "revision": 3, "over": false, "page": "",
        "schedule": {"type": "once", "time_zone": "Asia/Seoul", "opens_at": opens_at},
    });
    let drop = json!({"id": 7, "opens_at": opens_at, "quantity": 100, "state": state});
    let found = json!({"coupon": coupon, "drops": [drop], "history": []});
    serde_json::from_value(found).unwrap()
}

fn parse(fields: &str, found: &CouponDrops, now_minute: i64) -> Result<CouponChange, String> {
    let fields = fields.split('&').map(|field| {
        let (name, value) = field.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    });
    let now = DateTime::UNIX_EPOCH + TimeDelta::minutes(now_minute);
    read(&Fields(fields.collect()), found, now).map_err(|why| HttpRefusal::typed(&why).sentence())
}

/// Compares forms with their requests and the questions before them.
fn compare(cases: &[(&str, &str, &str)]) {
    let open = found(DropState::Open);
    for (fields, body, question) in cases {
        let change = parse(fields, &open, 90).unwrap();
        assert_eq!(change.body.to_string(), *body, "{fields}");
        let asked = change.question.map(|question| question.text);
        assert_eq!(asked.unwrap_or_default(), *question, "{fields}");
    }
}

#[test]
fn form_about_pause_quantity_name_or_waiting_list_has_its_request_and_question() {
    compare(&[
        (
            "how=pause",
            r#"{"paused":true}"#,
            "Nobody can claim Winter until it is resumed. Those who hold one keep it.",
        ),
        ("how=resume", r#"{"paused":false}"#, ""),
        (
            "how=quantity&quantity=1,000",
            r#"{"quantity":1000}"#,
            "Winter: 100 → 1,000, for all its drops that are not closed and for later ones. \
             That is 10 times as many!",
        ),
        (
            "how=quantity&quantity=999",
            r#"{"quantity":999}"#,
            "Winter: 100 → 999, for all its drops that are not closed and for later ones.",
        ),
        (
            "how=quantity&quantity=99",
            r#"{"quantity":99}"#,
            "Winter: 100 → 99, for all its drops that are not closed and for later ones. \
             Those who hold one keep it.",
        ),
        (
            "how=name&name= Spring ",
            r#"{"name":"Spring"}"#,
            "People see “Spring” instead of “Winter”.",
        ),
        (
            "how=waiting_list&waiting_list=0",
            r#"{"waiting_list":0}"#,
            "",
        ),
    ]);
}

#[test]
fn form_about_codes_users_or_times_has_its_request_and_question() {
    compare(&[
        (
            "how=validity&valid_until=1970-01-02T09:00&valid_days=",
            r#"{"valid_days":null,"valid_until":"1970-01-02T00:00:00Z"}"#,
            "Codes of Winter can be used until 1970-01-02 09:00 +09:00. That concerns \
             codes that exist, too.",
        ),
        (
            "how=validity&valid_days=1",
            r#"{"valid_days":1,"valid_until":null}"#,
            "Codes of Winter can be used for 1 day from the claim. That concerns codes that \
             exist, too.",
        ),
        (
            "how=validity",
            r#"{"valid_days":null,"valid_until":null}"#,
            "Codes of Winter can be used without an end. That concerns codes that exist, too.",
        ),
        (
            "how=allow&allow=list",
            r#"{"allow":"list"}"#,
            "From now on, only the 2 people on its allow list may claim Winter. Those who \
             hold one or wait keep it.",
        ),
        (
            "how=allow&allow=group&group=vip",
            r#"{"allow":"group:vip"}"#,
            "From now on, only people of the group vip may claim Winter. Those who hold one \
             or wait keep it.",
        ),
        (
            "how=allow&allow=",
            r#"{"allow":null}"#,
            "From now on, everybody may claim Winter. Those who hold one or wait keep it.",
        ),
        (
            "how=dates&opens=10:00&closes=&last_day=",
            r#"{"last_day":null,"opens":"10:00"}"#,
            "",
        ),
        (
            "how=opens_at&opens_at=1970-01-01T12:00",
            r#"{"opens_at":"1970-01-01T03:00:00Z"}"#,
            "Winter opens at 1970-01-01 12:00 +09:00.",
        ),
        (
            "how=closes_at&closes_at=1970-01-01T12:00",
            r#"{"closes_at":"1970-01-01T03:00:00Z"}"#,
            "Winter closes earlier than before, at 1970-01-01 12:00 +09:00. Nobody gets one after \
             that.",
        ),
        (
            "how=closes_at&closes_at=",
            r#"{"closes_at":null}"#,
            "Winter then never closes by itself.",
        ),
        (
            "how=close",
            r#"{"close_now":true}"#,
            "The open drop of Winter closes now. Nobody who waits gets one any more, except users \
             with a broken promise. It can't be undone.",
        ),
    ]);
}

#[test]
fn earlier_end_or_last_day_needs_a_confirmation_and_a_later_one_does_not() {
    let once = json!({"type": "once", "opens_at": "1970-01-01T01:00:00Z",
        "closes_at": "1970-01-02T00:00:00Z"});
    let daily = json!({"type": "daily", "time_zone": "UTC", "opens": "01:00", "closes": "02:00",
        "first_day": "1970-01-01", "last_day": "1970-01-08"});
    for (schedule, fields, asks) in [
        (&once, "how=closes_at&closes_at=1970-01-01T12:00", true),
        (&once, "how=closes_at&closes_at=1970-01-02T00:00", false),
        (&once, "how=closes_at&closes_at=1970-01-03T00:00", false),
        (&daily, "how=dates&opens=01:00&last_day=1970-01-07", true),
        (&daily, "how=dates&opens=01:00&last_day=1970-01-08", false),
        (&daily, "how=dates&opens=01:00&last_day=", false),
    ] {
        let mut open = found(DropState::Open);
        open.coupon.settings.schedule = Some(serde_json::from_value(schedule.clone()).unwrap());
        let change = parse(fields, &open, 90).unwrap();
        assert_eq!(change.question.is_some(), asks, "{fields}");
    }
}

#[test]
fn form_that_cannot_be_applied_is_refused_with_the_reason() {
    let open = found(DropState::Open);
    for (fields, why) in [
        ("how=quantity&quantity=100", "The quantity is 100 already."),
        (
            "how=quantity&quantity=0",
            "The quantity must be a whole number from 1 to ",
        ),
        (
            "how=waiting_list&waiting_list=1.5",
            "The waiting list must be a whole number from 0 to ",
        ),
        (
            "how=validity&valid_days=0",
            "“Days from the claim” must be a whole number from 1 to ",
        ),
        (
            "how=validity&valid_until=1970-01-02T09:00&valid_days=1",
            "Give a time or a number of days, not both.",
        ),
        ("how=validity&valid_until=soon", "“Until” is no time there."),
        ("how=allow&allow=all", "The form is not of this page."),
        (
            "how=allow&allow=group&group=two words",
            "Name the group: letters, digits, - and _, without spaces.",
        ),
        ("how=opens_at&opens_at=", "Give the time at which it opens."),
        (
            "how=cancel",
            "It has opened or opens at once, or was cancelled: pause it instead.",
        ),
        ("how=", "The form is not of this page."),
    ] {
        let refused = parse(fields, &open, 90).unwrap_err();
        assert!(refused.starts_with(why), "{fields}: {refused}");
        assert!(
            refused.ends_with("Nothing was done."),
            "{fields}: {refused}"
        );
    }
    let refused = parse("how=close", &found(DropState::Closed), 90).unwrap_err();
    assert!(refused.starts_with("No drop of it is open."), "{refused}");
}

#[test]
fn coupon_is_cancelled_only_before_it_opens() {
    let to_come = found(DropState::Scheduled);
    let change = parse("how=cancel", &to_come, 59).unwrap();
    assert_eq!(change.body.to_string(), r#"{"close_now":true}"#);
    assert!(parse("how=cancel", &to_come, 60).is_err());
}

#[test]
fn every_field_of_a_change_has_a_form() {
    let coming = found(DropState::Scheduled);
    let mut all = json!({});
    for fields in [
        "how=pause",
        "how=quantity&quantity=5",
        "how=name&name=Summer",
        "how=waiting_list&waiting_list=5",
        "how=validity&valid_days=5",
        "how=allow&allow=list",
        "how=dates&opens=10:00&closes=11:00&last_day=2027-01-01",
        "how=opens_at&opens_at=1970-01-01T11:00",
        "how=closes_at&closes_at=1970-01-01T12:00",
        "how=cancel",
    ] {
        let body = parse(fields, &coming, 0).unwrap().body;
        let sent = body.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(sent);
    }
    let CouponPatch {
        name: Some(_),
        quantity: Some(_),
        paused: Some(_),
        waiting_list: Some(_),
        opens_at: Some(_),
        closes_at: Some(_),
        opens: Some(_),
        closes: Some(_),
        last_day: Some(_),
        close_now: Some(_),
        valid_until: Some(_),
        valid_days: Some(_),
        allow: Some(_),
    } = serde_json::from_value(all.clone()).unwrap()
    else {
        panic!("a field has no form: {all}");
    };
}

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

const AWAY: CouponOpenness<'_> = CouponOpenness {
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
        ("pause", json!({}), ""),
    ] {
        let coupon = coupon(&changed);
        let present = Present {
            coupon: &coupon,
            now: AWAY,
            daily: None,
        };
        assert_eq!(sentence(word, &present), says, "{word}");
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
        let present = Present {
            coupon: &coupon(&json!({})),
            now: CouponOpenness { open, opens },
            daily: None,
        };
        assert_eq!(sentence("resume", &present), says);
    }
}

#[test]
fn every_form_has_its_own_name() {
    let names: std::collections::HashSet<&str> = FORMS.iter().map(|form| form.how).collect();
    assert_eq!(names.len(), FORMS.len());
}
