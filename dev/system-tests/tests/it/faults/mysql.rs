//! MySQL refuses a batch that it would take at another moment. (Read-only, lock waits and standing still: `outages`.)

use firstcome_testkit::{LIMIT, Session, Stores, assert_exact, eventually, people, rush};

use super::scene::{HEALED, Scene, impatient};
use crate::consumer::messages::WAITS;

/// Rows that make a transaction heavier than a batch: MySQL ends the lighter of two that wait for each other.
const BALLAST: &str = "INSERT INTO ballast WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
     SELECT i FROM n";

#[tokio::test]
async fn a_batch_that_mysql_ends_as_a_deadlock_breaks_no_promise() {
    let world = impatient(Stores::shared().await, "deadlock").await;
    // Longer than it takes to come to the deadlock on a busy machine.
    world.set("DATABASE_TIMEOUT_MS", "20000");
    let scene = Scene::begin(world).await;
    scene
        .survives(async |scene| {
            assert_eq!(scene.daemon.process.stop().await, 0);
            // One batch with claims of two drops: thirty, which is as many as it takes.
            assert_eq!(scene.consumer.process.stop().await, 0);
            let other = scene.api.open_coupon(10).await;
            assert_eq!(scene.wave().await, [("accepted".into(), 20)].into());
            let answers = rush(&[&scene.api], other.id, &people(10), 10).await;

            scene.world.sql.query("CREATE TABLE ballast (id INT PRIMARY KEY)").await;
            let mut session = Session::begin(&scene.world.sql).await;
            session.run(BALLAST).await;
            let lock = async |session: &mut Session, drop: i64| {
                session.run(&format!("SELECT drop_id FROM slot_limits WHERE drop_id = {drop} FOR UPDATE")).await;
            };
            lock(&mut session, other.drop).await;
            let one_batch = [("CONSUME_BATCH_MAX", "30"), ("CONSUME_BATCH_WAIT_MS", "1000")];
            scene.consumer = scene.world.consume_with(&one_batch).await;
            eventually("the batch waits for the second drop", LIMIT, async || scene.world.sql.number(WAITS).await > 0)
                .await;
            lock(&mut session, scene.coupon.drop).await;
            scene.consumer_says("Deadlock").await;
            session.commit().await;

            eventually("the batch is written", HEALED, async || {
                scene.world.sql.number("SELECT COUNT(*) FROM issued_coupons").await == 50
            })
            .await;
            assert_exact(&scene.world, &other, 10, &answers).await;
            scene.daemon = scene.world.daemon().await;
        })
        .await;
}
