//! A daily coupon over three local days; the clocks of its time zone change on the second.
//!
//! Instants are injected: the product creates the drops for chosen days in the future, then all
//! windows are shifted by the same distance so that the day in question lies around Redis's current
//! time.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::OncePer;
use firstcome_shared::mysql::catalogue::NewCoupon;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::schedule::Schedule;
use firstcome_testkit::{
    Answer, ApiClient, LIMIT, MadeCoupon, Running, World, all_issued, assert_exact, eventually,
    people, rush, tally,
};
use serde_json::json;

/// Clocks in New York go forward in the night to the second day: it has 23 hours.
const DAYS: [(i32, u32, u32); 3] = [(2027, 3, 13), (2027, 3, 14), (2027, 3, 15)];
const QUANTITIES: [u32; 3] = [5, 8, 3];

fn day(index: usize) -> NaiveDate {
    let (year, month, day) = DAYS[index];
    NaiveDate::from_ymd_opt(year, month, day).unwrap()
}

/// Makes the coupon as of the eve of its first day, with a quantity of its own for each day.
async fn make(world: &World) -> (i64, Vec<Drop>) {
    let settings = DbSettings {
        url: world.sql.url().to_owned().into(),
        pool_size: 2,
        limit: std::time::Duration::from_secs(10),
    };
    let db = Db::new(&settings).unwrap();
    let clock = |hour| NaiveTime::from_hms_opt(hour, 0, 0).unwrap();
    let schedule = Schedule::Daily {
        time_zone: chrono_tz::America::New_York,
        opens: clock(15),
        closes: clock(18),
        first_day: day(0),
        last_day: Some(day(2)),
    };
    let eve = (day(0) - TimeDelta::days(1)).and_time(clock(12)).and_utc();
    let new = NewCoupon {
        name: "Daily".into(),
        quantity: 5,
        once_per: OncePer::Coupon,
        waiting_list: 0,
        schedule,
        allow: None,
    };
    let (coupon, drops) = db
        .create_coupon(new, eve, Operator::default())
        .await
        .unwrap();
    for (drop, quantity) in drops.iter().zip(QUANTITIES) {
        world
            .sql
            .query(&format!(
                "UPDATE drops SET quantity = {quantity} WHERE id = {}",
                drop.id
            ))
            .await;
    }
    (coupon.id.0, drops)
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Shifts all windows so that `drop` opened an hour ago by Redis's clock, and starts a process that
/// reads them afresh.
async fn move_to(world: &World, coupon: i64, drop: &Drop) -> Running<ApiClient> {
    let now_ms = world.redis.now_ms().await;
    let current = format!(
        "SELECT CAST(UNIX_TIMESTAMP(opens_at) * 1000 AS SIGNED) FROM drops WHERE id = {}",
        drop.id
    );
    let by_ms = now_ms - 3_600_000 - world.sql.number(&current).await;
    let shifted = |column| {
        format!(
            "{column} = {column} + INTERVAL {} MICROSECOND",
            by_ms * 1_000
        )
    };
    let shift = format!(
        "UPDATE drops SET {}, {} WHERE coupon_id = {coupon}",
        shifted("opens_at"),
        shifted("closes_at")
    );
    world.sql.query(&shift).await;
    // Updates Redis's copy of the windows, as a pass would.
    for row in world.sql.query(&format!("SELECT id, ROUND(UNIX_TIMESTAMP(opens_at) * 1000), ROUND(UNIX_TIMESTAMP(closes_at) * 1000) FROM drops WHERE coupon_id = {coupon}")).await {
        let meta = world.redis.of_drop(coupon, row[0].parse().unwrap(), "meta");
        if world.redis.command::<bool>(&["EXISTS", &meta]).await {
            world.redis.command::<i64>(&["HSET", &meta, "opens_at_ms", &row[1], "closes_at_ms", &row[2]]).await;
        }
    }
    let api = world.serve().await;
    world.open().await;
    api
}

#[tokio::test]
async fn once_per_coupon_a_user_wins_once_in_three_days_across_a_clock_change() {
    let world = World::new("daily").await;
    let (id, drops) = make(&world).await;
    let opens: Vec<_> = drops
        .iter()
        .map(|d| (d.local_date.unwrap(), d.opens_at, d.closes_at.unwrap()))
        .collect();
    let expected = [
        (
            day(0),
            utc("2027-03-13T20:00:00Z"),
            utc("2027-03-13T23:00:00Z"),
        ),
        (
            day(1),
            utc("2027-03-14T19:00:00Z"),
            utc("2027-03-14T22:00:00Z"),
        ), // 15:00 to 18:00 in daylight time
        (
            day(2),
            utc("2027-03-15T19:00:00Z"),
            utc("2027-03-15T22:00:00Z"),
        ),
    ];
    assert_eq!(opens, expected);

    let _consumer = world.consume().await;
    let mut first_day = Vec::new();
    for ((drop, quantity), today) in drops.iter().zip(QUANTITIES).zip(["a", "b", "c"]) {
        let api = move_to(&world, id, drop).await;
        let body = api.coupon(id).await;
        assert_eq!(body["current_drop"]["id"], drop.id.0, "{body}");
        let coupon = MadeCoupon {
            id,
            drop: drop.id.0,
            body,
        };
        // The winners of the first day come first every day.
        let regulars: Vec<String> = people(5);
        let mut answers = rush(&[&api], id, &regulars, 1).await;
        let told_again = answers
            .iter()
            .filter(|(_, a)| matches!(a, Answer::Already { .. }))
            .count();
        if first_day.is_empty() {
            first_day.clone_from(&answers);
        } else {
            assert_eq!(told_again, 5, "{answers:?}");
            let slots = |answers: &[(String, Answer)]| {
                answers
                    .iter()
                    .map(|(_, a)| a.promised())
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                slots(&answers),
                slots(&first_day),
                "confirmed with the slot of the first day"
            );
            answers.clear();
        }
        let others: Vec<String> = (0..10).map(|n| format!("{today}-{n}")).collect();
        answers.extend(rush(&[&api], id, &others, 10).await);
        assert_eq!(
            tally(&answers)["accepted"],
            quantity as usize,
            "the quantity of the day"
        );
        assert!(
            answers
                .iter()
                .filter_map(|(_, a)| a.promised())
                .all(|(d, _)| d == drop.id.0)
        );
        all_issued(&world, drop.id.0, quantity as usize).await;
        assert_exact(&world, &coupon, quantity, &answers).await;
    }
    let each = "SELECT COUNT(*) FROM issued_coupons GROUP BY drop_id ORDER BY drop_id";
    assert_eq!(
        world.sql.query(each).await.concat(),
        QUANTITIES.map(|q| q.to_string())
    );
    eventually("no message is unread", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
    assert_eq!(world.pass().await.all_findings().count(), 0);
    assert!(
        world
            .sql
            .query("SELECT * FROM failed_claims")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn drops_are_created_days_ahead_by_any_remaining_process() {
    let (world, api) = firstcome_testkit::open_world("ahead").await;
    let today = Utc::now().date_naive();
    let schedule = json!({"type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00", "first_day": today});
    let body = json!({"name": "Daily", "quantity": 5, "once_per": "drop", "waiting_list": 0, "schedule": schedule});
    let coupon = api.create_coupon(&body).await;
    let days = "SELECT COUNT(*) FROM drops WHERE opens_at > UTC_TIMESTAMP()";
    let made = world.sql.number(days).await;
    assert!(made >= 6, "{made} days ahead");
    api.process.kill().await;

    // As if nobody had run for days: the later drops do not exist yet.
    let forget = async || {
        world
            .sql
            .query("DELETE FROM drops WHERE opens_at > UTC_TIMESTAMP() + INTERVAL 2 DAY")
            .await;
        assert!(world.sql.number(days).await < made);
    };
    let known_to_admission = async || {
        let mut known = 0;
        for row in world
            .sql
            .query("SELECT id FROM drops WHERE opens_at > UTC_TIMESTAMP()")
            .await
        {
            let meta = world
                .redis
                .of_drop(coupon.id, row[0].parse().unwrap(), "meta");
            known += i64::from(world.redis.command::<bool>(&["EXISTS", &meta]).await);
        }
        known
    };
    forget().await;
    world.pass().await;
    assert_eq!(
        (world.sql.number(days).await, known_to_admission().await),
        (made, made),
        "a pass creates them"
    );
    forget().await;
    let _other = world.serve().await;
    eventually("an API creates them", LIMIT, async || {
        world.sql.number(days).await == made && known_to_admission().await == made
    })
    .await;
}
