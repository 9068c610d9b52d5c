//! If the reconciler's clock steps by two hours in either direction, its schedules continue. An API
//! whose clock is ahead expires nothing early. (`single` changes clocks during a rush.)

use firstcome_testkit::{ApiClient, Clocks, Running, World, WorldStores, daily_body, eventually};
use serde_json::json;

use super::waves::{HEALED, Waves, impatient};

/// Clock offset in seconds at the start and at the end. In between, the clock is an hour ahead.
const BEHIND: i64 = -3_600;

#[tokio::test]
async fn clock_steps_of_a_reconciler_break_no_promise_and_stop_no_schedule() {
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("daemon").unwrap();
    clock.set(BEHIND).unwrap();
    let mut waves =
        Waves::begin(impatient(WorldStores::shared().await, "clock-daemon").await).await;
    assert_eq!(waves.daemon.process.stop().await, 0);
    let env = clock.env();
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    waves.daemon = waves.world.daemon_with(&env).await;
    waves
        .survives(async |waves| {
            // Number of runs that ended and were recorded with this clock offset.
            waves.wave().await;
            let passes = async |offset: i64| {
                let noted = format!("ABS(TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), started_at) - ({offset})) < 600");
                let ended = "SELECT COUNT(*) FROM reconcile_runs WHERE triggered_by = 'cron' AND status <> 'running'";
                waves.world.sql.number(&format!("{ended} AND {noted}")).await
            };
            eventually("the daemon uses this clock", HEALED, async || passes(BEHIND).await > 0).await;
            for offset in [-BEHIND, BEHIND] {
                clock.set(offset).unwrap();
                let before = passes(offset).await;
                eventually(&format!("passes continue at {offset} s"), HEALED, async || passes(offset).await > before + 1)
                    .await;
            }
        })
        .await;
}

/// Starts an API whose clock is off by this many seconds.
async fn api_at(world: &World, clocks: &Clocks, seconds: i64) -> Running<ApiClient> {
    let clock = clocks.clock("api").unwrap();
    clock.set(seconds).unwrap();
    let env = clock.env();
    world
        .serve_with(&env.each_ref().map(|(name, value)| (*name, value.as_str())))
        .await
}

#[tokio::test]
async fn an_api_whose_clock_is_ahead_shows_a_holder_the_last_drop_until_the_next_opens() {
    let world = World::new("clock-last-drop").await;
    let clocks = Clocks::new().unwrap();
    let mut body = daily_body(5, 2);
    body["once_per"] = json!("drop");
    let maker = world.serve().await;
    let coupon = maker.create_coupon(&body).await;
    assert_eq!(maker.process.stop().await, 0);
    // The first drop is over and sealed, and the second opens in an hour.
    let window = |opens, closes| {
        let at = |hours| format!("UTC_TIMESTAMP(3) + INTERVAL {hours} HOUR");
        format!(
            "UPDATE drops SET opens_at = {}, closes_at = {}",
            at(opens),
            at(closes)
        )
    };
    let sealed = format!(
        "{}, sealed_at = UTC_TIMESTAMP(3), sealed_rows = 1 WHERE id = {}",
        window(-3, -1),
        coupon.drop
    );
    world.sql.query(&sealed).await;
    let statement = format!("{} WHERE id <> {}", window(1, 3), coupon.drop);
    world.sql.query(&statement).await;
    let columns =
        "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_by, slot_limit, person_scope";
    let row = "l.drop_id, 1, l.coupon_id, 'u-1', 'CODE', UTC_TIMESTAMP(3), 'consumer', l.slot_limit, l.person_scope";
    let statement = format!(
        "INSERT INTO issued_coupons ({columns}) SELECT {row} FROM slot_limits l WHERE l.drop_id = {}",
        coupon.drop
    );
    world.sql.query(&statement).await;
    world.open().await;
    let ahead = api_at(&world, &clocks, 7_200).await;
    let mine = ahead.me(coupon.id, "u-1").await;
    assert_eq!(
        (&mine["status"], &mine["drop_id"]),
        (&json!("issued"), &json!(coupon.drop)),
        "{mine}"
    );
}

#[tokio::test]
async fn apis_with_clocks_days_off_admit_to_the_drop_that_is_open_by_redis_time() {
    let world = World::new("clock-days").await;
    let clocks = Clocks::new().unwrap();
    let mut body = daily_body(5, 5);
    body["once_per"] = json!("drop");
    let maker = world.serve().await;
    let coupon = maker.create_coupon(&body).await;
    assert_eq!(maker.process.stop().await, 0);
    world.open().await;
    for days in [-2, -1, 1, 2, 7] {
        let api = api_at(&world, &clocks, days * 86_400).await;
        let claim = api.claim(coupon.id, &format!("u-{days}")).await;
        let drop = claim.promised().map(|(drop, _)| drop);
        assert_eq!(drop, Some(coupon.drop), "{days}: {claim:?}");
        assert_eq!(api.process.stop().await, 0);
    }
}

#[tokio::test]
async fn a_reconciler_whose_clock_is_years_ahead_deletes_no_recent_data() {
    let world = World::new("clock-retention").await;
    let clocks = Clocks::new().unwrap();
    world.open().await;
    let old = "INSERT INTO ops_actions (at, action, token, detail) VALUES";
    let statement = format!(
        "{old} (UTC_TIMESTAMP(3), 'young', 't', '{{}}'), (UTC_TIMESTAMP(3) - INTERVAL 3 YEAR, 'old', 't', '{{}}')"
    );
    world.sql.query(&statement).await;
    let runs = "SELECT COUNT(*) FROM reconcile_runs";
    let before = world.sql.number(runs).await;
    let clock = clocks.clock("once").unwrap();
    clock.set(3 * 366 * 86_400).unwrap();
    let env = clock.env();
    world
        .once_with(
            &[],
            &env.each_ref().map(|(name, value)| (*name, value.as_str())),
        )
        .await;
    let statement = "SELECT action FROM ops_actions WHERE action IN ('young', 'old')";
    assert_eq!(world.sql.query(statement).await, [["young"]]);
    assert_eq!(world.sql.number(runs).await, before + 1);
}
