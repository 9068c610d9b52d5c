use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::*;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn daily(zone: &str, hours: RangeInclusive<&str>, days: RangeInclusive<&str>) -> Schedule {
    let (opens, closes) = hours.into_inner();
    let (first, last) = days.into_inner();
    serde_json::from_value(serde_json::json!({
        "type": "daily", "time_zone": zone, "opens": opens, "closes": closes, "first_day": first, "last_day": last,
    }))
    .unwrap()
}

#[test]
fn schedules_round_trip_as_json() {
    for json in [
        r#"{"type":"once","opens_at":"2026-12-01T06:00:00Z","closes_at":"2026-12-01T09:00:00Z"}"#,
        r#"{"type":"once","opens_at":"2026-12-01T06:00:00Z"}"#,
        r#"{"type":"daily","time_zone":"Asia/Seoul","opens":"15:00","closes":"18:00","first_day":"2026-12-01","last_day":"2026-12-10"}"#,
    ] {
        let schedule: Schedule = serde_json::from_str(json).unwrap();
        schedule.check().unwrap();
        assert_eq!(serde_json::to_string(&schedule).unwrap(), json);
    }
}

#[test]
fn invalid_schedule_is_refused_with_the_reason() {
    let refused = |json: &str| match serde_json::from_str::<Schedule>(json) {
        Ok(schedule) => schedule.check().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(refused(r#"{"type":"weekly"}"#).contains("weekly"));
    assert!(
        refused(r#"{"type":"once","opens_at":"2026-12-01T06:00:00Z","closes_at":"2026-12-01T06:00:00.0004Z"}"#)
            .contains("later")
    );
    assert!(refused(r#"{"type":"once","opens_at":"9999-12-01T06:00:00Z"}"#).contains("2199"));
    let daily = r#"{"type":"daily","time_zone":"Asia/Seoul","opens":"15:00","closes":"18:00","first_day":"2026-12-02","last_day":"2026-12-01"}"#;
    assert!(refused(daily).contains("first_day"));
    assert!(refused(&daily.replace("Asia/Seoul", "Asia/Soul")).contains("Asia/Soul"));
    for odd in ["25:00", "9:5", "9:05", " 9:05", "09:05:0", "09:05:60"] {
        assert!(refused(&daily.replace("15:00", odd)).contains(odd), "{odd}");
    }
    assert!(refused(&daily.replace("last_day", "lastday")).contains("lastday"));
}

#[test]
fn daily_drop_keeps_its_local_hour_across_dst_changes() {
    // Clocks in New York change from UTC-5 to UTC-4 on 2026-03-08 at 02:00.
    let days = "2026-03-07"..="2026-03-09";
    let schedule = daily("America/New_York", "15:00"..="18:00", days);
    let drops = schedule.drops_from(utc("2026-03-07T12:00:00Z"));
    let opens: Vec<_> = drops.iter().map(|drop| drop.opens_at).collect();
    let expected = ["03-07T20", "03-08T19", "03-09T19"];
    assert_eq!(opens, expected.map(|at| utc(&format!("2026-{at}:00:00Z"))));
}

#[test]
fn schedule_follows_time_zone_rules_that_changed_in_2026() {
    for (zone, opens_at) in [
        ("America/Vancouver", "22:00"),
        ("Canada/Pacific", "22:00"),
        ("America/Edmonton", "21:00"),
        ("Canada/Mountain", "21:00"),
        ("America/Inuvik", "21:00"),
        ("Africa/Casablanca", "15:00"),
        ("Africa/El_Aaiun", "15:00"),
        // These did not change.
        ("Asia/Seoul", "06:00"),
        ("Europe/Berlin", "14:00"),
        ("America/Toronto", "20:00"),
        ("Asia/Kolkata", "09:30"),
    ] {
        let day = "2026-12-10";
        let drops =
            daily(zone, "15:00"..="18:00", day..=day).drops_from(utc("2026-11-26T00:00:00Z"));
        let expected = utc(&format!("{day}T{opens_at}:00Z"));
        assert_eq!(drops[0].opens_at, expected, "{zone}");
    }
}

#[test]
fn skipped_local_time_moves_forward_and_repeated_one_means_the_first() {
    let one = |day: &str, opens: &str| {
        daily("America/New_York", opens..="12:00", day..=day)
            .drops_from(utc("2026-01-01T00:00:00Z"))[0]
            .opens_at
    };
    assert_eq!(one("2026-03-08", "02:30"), utc("2026-03-08T07:30:00Z"));
    assert_eq!(one("2026-11-01", "01:30"), utc("2026-11-01T05:30:00Z"));
}

#[test]
fn window_with_a_moved_closing_time_ends_when_the_next_day_opens() {
    // 02:59 is skipped on 2026-03-08 and moves to 03:59, after the next opening.
    let days = "2026-03-06"..="2026-03-08";
    let schedule = daily("America/New_York", "03:00"..="02:59", days);
    let drops = schedule.drops_from(utc("2026-03-06T12:00:00Z"));
    let closes: Vec<_> = drops.iter().map(|drop| drop.closes_at).collect();
    let expected = ["03-07T07:59", "03-08T07:00", "03-09T06:59"];
    assert_eq!(
        closes,
        expected.map(|at| Some(utc(&format!("2026-{at}:00Z"))))
    );
}

#[test]
fn window_may_cross_midnight() {
    let drops = daily("Asia/Seoul", "23:00"..="01:00", "2026-12-01"..="2026-12-01")
        .drops_from(utc("2026-12-01T15:30:00Z"));
    assert_eq!(drops[0].opens_at, utc("2026-12-01T14:00:00Z"));
    assert_eq!(drops[0].closes_at, Some(utc("2026-12-01T16:00:00Z")));
}

#[test]
fn drops_from_covers_two_days_ahead_and_at_least_the_next_drop_but_no_past_one() {
    let schedule = daily("Asia/Seoul", "15:00"..="18:00", "2026-12-01"..="2026-12-30");
    let drops = schedule.drops_from(utc("2026-12-10T12:00:00Z"));
    assert_eq!(drops.first().unwrap().local_date.to_string(), "2026-12-11");
    assert_eq!(drops.last().unwrap().local_date.to_string(), "2026-12-12");
    assert_eq!(
        schedule.drops_from(utc("2026-01-01T00:00:00Z")).len(),
        1,
        "the first is shown, however far off"
    );
    assert_eq!(schedule.drops_from(utc("2027-01-01T00:00:00Z")).len(), 0);
}

#[test]
fn preview_starts_with_the_current_window_and_refuses_a_schedule_that_is_over() {
    let now = utc("2026-12-03T06:00:01Z");
    let schedule = daily("Asia/Seoul", "15:00"..="18:00", "2026-12-01"..="2026-12-30");
    let opens: Vec<_> = schedule.preview(now).unwrap();
    let opens: Vec<_> = opens.iter().map(|drop| drop.opens_at).collect();
    assert_eq!(
        opens[..2],
        ["03", "04"].map(|day| utc(&format!("2026-12-{day}T06:00:00Z")))
    );
    assert_eq!(opens.len(), 10);
    let once = |closes_at: Option<&str>| Schedule::Once {
        time_zone: None,
        opens_at: utc("2026-01-01T00:00:00Z"),
        closes_at: closes_at.map(utc),
    };
    assert_eq!(once(None).preview(now).unwrap().len(), 1);
    let over = once(Some("2026-12-03T06:00:01Z")).preview(now);
    assert!(over.unwrap_err().starts_with("closes_at is over"));
    let over = schedule.preview(utc("2027-01-01T00:00:00Z"));
    assert!(over.unwrap_err().starts_with("last_day is over"));
}

proptest! {
    #[test]
    fn windows_of_a_schedule_are_valid_and_ordered(
        zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Pacific/Apia", "Australia/Lord_Howe"]),
        days in 0_i64..9_000,
        opens in 0_u32..1_440,
        open_for in prop_oneof![1_u32..=1_440, 1_380_u32..=1_440],
    ) {
        let closes = (opens + open_for) % 1_440;
        let first = NaiveDate::from_ymd_opt(2005, 1, 1).unwrap() + TimeDelta::days(days);
        let time = |m: u32| NaiveTime::from_hms_opt(m / 60, m % 60, 0).unwrap();
        let schedule = Schedule::Daily {
            time_zone: zone.parse().unwrap(), opens: time(opens), closes: time(closes), first_day: first, last_day: None,
        };
        let drops = schedule.drops_from(first.and_time(NaiveTime::MIN).and_utc());
        prop_assert!(drops.iter().all(|d| d.closes_at.unwrap() > d.opens_at));
        prop_assert!(drops.windows(2).all(|w| w[0].opens_at < w[1].opens_at && w[0].local_date < w[1].local_date));
        prop_assert!(drops.windows(2).all(|w| w[0].closes_at.unwrap() <= w[1].opens_at), "one open at a time");
    }
}
