//! The reconciler's clock steps by two hours, forwards and back: its schedules go on. (Clocks of
//! the others: `single`.)

use firstcome_testkit::{Clocks, WorldStores, eventually};

use super::waves::{HEALED, Waves, impatient};

/// Seconds that the clock is off by, first and last; an hour the other way in between.
const BEHIND: i64 = -3_600;

#[tokio::test]
async fn clock_steps_of_a_reconciler_break_no_promise_and_stop_no_schedule() {
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("daemon").unwrap();
    clock.set(BEHIND).unwrap();
    let mut waves = Waves::begin(impatient(WorldStores::shared().await, "clock-daemon").await).await;
    assert_eq!(waves.daemon.process.stop().await, 0);
    let env = clock.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    waves.daemon = waves.world.daemon_with(&env).await;
    waves
        .survives(async |waves| {
            // Runs that ended, noted with this clock off by so many seconds.
            waves.wave().await;
            let passes = async |offset: i64| {
                let noted = format!("ABS(TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), started_at) - ({offset})) < 600");
                let ended = "SELECT COUNT(*) FROM reconcile_runs WHERE triggered_by = 'cron' AND status <> 'running'";
                waves.world.sql.number(&format!("{ended} AND {noted}")).await
            };
            eventually("it goes by this clock", HEALED, async || passes(BEHIND).await > 0).await;
            for offset in [-BEHIND, BEHIND] {
                clock.set(offset).unwrap();
                let before = passes(offset).await;
                eventually(&format!("passes go on at {offset} s"), HEALED, async || passes(offset).await > before + 1)
                    .await;
            }
        })
        .await;
}
