//! Tests the forms with tables of cases.

use firstcome_shared::coupon::CouponPatch;

use super::*;
use crate::coupon::tests::found;

fn parse(fields: &str, found: &CouponDrops, now_minute: i64) -> Result<CouponChange, String> {
    let fields = fields.split('&').map(|field| {
        let (name, value) = field.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    });
    let now = DateTime::UNIX_EPOCH + TimeDelta::minutes(now_minute);
    read(&FormFields(fields.collect()), found, now)
        .map_err(|why| HttpRefusal::typed(&why).sentence())
}

fn daily() -> Value {
    json!({
        "type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00",
        "first_day": "1970-01-01",
    })
}

#[test]
fn change_of_settings_sends_what_differs_and_asks_about_it() {
    let once = found(&json!({}), "open");
    let daily = found(&json!({"schedule": daily()}), "open");
    let group = found(&json!({"allow": "group:vip"}), "open");
    for (found, fields, body, question) in [
        (
            &once,
            "name=Winter&quantity=1000&waiting_list=0",
            r#"{"quantity":1000}"#,
            "Quantity: 100 → 1,000. Of each drop.",
        ),
        (
            &once,
            "name=Spring&quantity=100",
            r#"{"name":"Spring"}"#,
            "Name: Winter → Spring. People see it.",
        ),
        (
            &once,
            "valid_until=1970-01-02T09:00&valid_days=",
            r#"{"valid_until":"1970-01-02T00:00:00Z"}"#,
            "Use codes until: no such end → 1970-01-02 09:00 +09:00. ",
        ),
        (
            &once,
            "allow=group&group=vip",
            r#"{"allow":"group:vip"}"#,
            "Who may claim: everybody → group:vip. ",
        ),
        (
            &group,
            "allow=&group=vip",
            r#"{"allow":null}"#,
            "Who may claim: group:vip → everybody. ",
        ),
        (
            &once,
            "opens_at=1970-01-01T12:00&closes_at=1970-01-01T13:00",
            r#"{"closes_at":"1970-01-01T04:00:00Z","opens_at":"1970-01-01T03:00:00Z"}"#,
            "Opens at: 1970-01-01 10:00 +09:00 → 1970-01-01 12:00 +09:00. ",
        ),
        (
            &daily,
            "opens=15:00&closes=17:00&last_day=1970-01-09",
            r#"{"closes":"17:00","last_day":"1970-01-09"}"#,
            "Last day: no end → 1970-01-09. ",
        ),
    ] {
        let change = parse(&format!("how=settings&{fields}"), found, 90).unwrap();
        assert_eq!(change.body.to_string(), body, "{fields}");
        let asked = &change.question;
        assert!(asked.contains(question), "{fields}: {asked}");
        let lines = change.body.as_object().unwrap().len();
        assert_eq!(asked.lines().count(), lines, "{fields}: {asked}");
    }
}

#[test]
fn button_has_its_request_and_asks_unless_it_resumes() {
    for (how, settings, body, question) in [
        ("pause", json!({}), r#"{"paused":true}"#, "Nobody can claim"),
        ("resume", json!({"paused": true}), r#"{"paused":false}"#, ""),
        ("close", json!({}), r#"{"close_now":true}"#, "closes now"),
    ] {
        let change = parse(&format!("how={how}"), &found(&settings, "open"), 90).unwrap();
        assert_eq!(change.body.to_string(), body, "{how}");
        assert_eq!(change.question.is_empty(), question.is_empty(), "{how}");
        assert!(change.question.contains(question), "{how}");
    }
}

#[test]
fn form_that_cannot_be_applied_is_refused_with_the_reason() {
    let open = found(&json!({}), "open");
    let closed = found(&json!({}), "closed");
    for (found, fields, why) in [
        (
            &open,
            "how=settings&quantity=100",
            "The form has the present settings.",
        ),
        (
            &open,
            "how=settings&quantity=0",
            "“Quantity” must be a whole number from 1 to ",
        ),
        (
            &open,
            "how=settings&quantity=1.5",
            "“Quantity” must be a whole number from 1 to ",
        ),
        (&open, "how=settings&quantity=", "Fill in “Quantity”."),
        (
            &open,
            "how=settings&valid_days=0",
            "“Days to use a code” must be a whole number",
        ),
        (
            &open,
            "how=settings&valid_until=soon",
            "“Use codes until” must be a time that exists",
        ),
        (&open, "how=resume", "This is not possible now."),
        (&open, "how=cancel", "This is not possible now."),
        (&closed, "how=pause", "This is not possible now."),
        (&closed, "how=close", "This is not possible now."),
        (&open, "how=", "This is not possible now."),
    ] {
        let refused = parse(fields, found, 90).unwrap_err();
        assert!(refused.starts_with(why), "{fields}: {refused}");
        assert!(
            refused.ends_with("Nothing was done."),
            "{fields}: {refused}"
        );
    }
}

#[test]
fn coupon_is_cancelled_only_before_it_opens() {
    let to_come = found(&json!({}), "scheduled");
    let change = parse("how=cancel", &to_come, 59).unwrap();
    assert_eq!(change.body.to_string(), r#"{"close_now":true}"#);
    assert!(parse("how=cancel", &to_come, 60).is_err());
    let daily = found(&json!({"schedule": daily()}), "scheduled");
    let change = parse("how=cancel", &daily, 59).unwrap();
    let first_day = r#"{"close_now":true,"last_day":"1970-01-01"}"#;
    assert_eq!(change.body.to_string(), first_day);
}

#[test]
fn every_field_of_a_change_has_a_form() {
    let once = found(&json!({}), "scheduled");
    let daily = found(&json!({"schedule": daily()}), "scheduled");
    let mut all = json!({});
    for (found, fields) in [
        (&once, "how=pause"),
        (&once, "how=cancel"),
        (
            &once,
            "how=settings&name=Summer&quantity=5&waiting_list=5&allow=list&valid_days=5&\
            valid_until=1970-01-09T00:00&opens_at=1970-01-01T11:00&closes_at=1970-01-01T12:00",
        ),
        (
            &daily,
            "how=settings&opens=10:00&closes=11:00&last_day=2027-01-01",
        ),
    ] {
        let body = parse(fields, found, 0).unwrap().body;
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
