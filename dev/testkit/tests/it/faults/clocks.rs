//! If the reconciler's clock steps by two hours in either direction, its schedules continue. An API
//! whose clock is ahead expires nothing early. (`single` changes clocks during a rush.)

use firstcome_testkit::{ApiClient, Clocks, Running, World, WorldStores, daily_body, eventually};
use serde_json::json;

use super::waves::{HEALED, Waves, impatient};

/// Clock offset in seconds at the start and at the end. In between, the clock is an hour ahead.
const BEHIND: i64 = -3_600;

#[tokio::test]
#[ignore = "release"]
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
#[ignore = "release"]
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
