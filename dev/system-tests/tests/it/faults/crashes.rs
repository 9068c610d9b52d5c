//! A server killed in the middle of a rush and started again on its data, with nobody at hand: only the processes that run
//! anyway. Everybody who got no yes asks again, and the drop is exact.

use std::time::Duration;

use firstcome_stack::{KafkaOptions, KafkaServer, MysqlOptions, MysqlServer, RedisOptions, RedisServer};
use firstcome_testkit::{Answer, Promise, Stores, World, assert_exact, eventually, people, rush};

use crate::claims::many::{all_issued, holders};

/// Until everything runs again, on a busy machine.
const HEALED: Duration = Duration::from_secs(60);
const QUANTITY: u32 = 1_000;

/// A rush during which `crash` kills a server and starts it again.
async fn exact_after(world: &World, crash: impl AsyncFnOnce()) {
    world.set("RECONCILE_CRON", "* * * * * *");
    world.set("REDIS_TIMEOUT_MS", "1000");
    let api = world.serve().await;
    world.open().await;
    let (_consumers, _daemon) = ([world.consume().await, world.consume().await], world.daemon().await);
    let coupon = api.open_coupon(QUANTITY).await;
    let users = people(QUANTITY as usize + 200);
    let claims = tokio::spawn(rush(&[&api], coupon.id, &users, 50));
    eventually("the rush is on", HEALED, async || holders(world, &coupon).await > 100).await;
    crash().await;
    let mut answers: Vec<Promise> = claims.await.unwrap();

    // Whoever holds a yes goes home; the others ask until nobody is turned away for want of a server.
    eventually("everybody has an answer", HEALED, async || {
        let yes = |user: &String| answers.iter().any(|(u, answer)| u == user && answer.promised().is_some());
        let asking: Vec<String> = users.iter().filter(|user| !yes(user)).cloned().collect();
        let again = rush(&[&api], coupon.id, &asking, 50).await;
        let turned_away =
            again.iter().filter(|(_, answer)| matches!(answer, Answer::Problem(503, _) | Answer::Unknown(_)));
        let none = turned_away.count() == 0;
        answers.extend(again);
        none
    })
    .await;
    assert_eq!(holders(world, &coupon).await, i64::from(QUANTITY));
    all_issued(world, coupon.drop, QUANTITY as usize).await;
    assert_exact(world, &coupon, QUANTITY, &answers).await;
    assert!(world.sql.query("SELECT * FROM failed_claims WHERE resolved_at IS NULL").await.is_empty());
    assert!(world.sql.query("SELECT * FROM broken_promises").await.is_empty());
    eventually("a pass finds nothing", HEALED, async || world.pass().await.all_findings().count() == 0).await;
}

#[tokio::test]
async fn a_redis_killed_in_mid_rush_loses_no_promise() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_redis(&redis), "redis-crash").await;
    exact_after(&world, async || {
        redis.kill().await.unwrap();
        redis.start_again().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_mysql_killed_in_mid_rush_loses_no_promise() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_mysql(&mysql), "mysql-crash").await;
    exact_after(&world, async || {
        mysql.kill().await.unwrap();
        mysql.start_again().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_kafka_killed_in_mid_rush_loses_no_promise() {
    let kafka = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_kafka(&kafka), "kafka-crash").await;
    exact_after(&world, async || {
        kafka.kill().await.unwrap();
        kafka.start_again().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_api_frozen_in_mid_claim_goes_on_later_without_harm() {
    let kafka = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_kafka(&kafka), "api-frozen").await;
    world.set("PUBLISH_DEADLINE_MS", "1000");
    let api = world.serve().await;
    world.open().await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(5).await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
    all_issued(&world, coupon.drop, 1).await;

    kafka.freeze().await.unwrap();
    let claim = tokio::spawn({
        let (api, id) = ((*api).clone(), coupon.id);
        async move { api.claim(id, "u-2").await }
    });
    eventually("they are admitted", HEALED, async || holders(&world, &coupon).await == 2).await;
    api.process.freeze();
    kafka.thaw().await.unwrap();
    // Its message is on its way, or not; a pass that is old enough to tell issues the row where it is not.
    eventually("they have their row", HEALED, async || {
        world.once_with(&[], &[]).await.code == 0 && firstcome_testkit::rows(&world, coupon.drop).await.len() == 2
    })
    .await;
    api.process.thaw();
    let answer = claim.await.unwrap();
    assert_eq!(answer.promised(), Some((coupon.drop, 2)), "{answer:?}");
    all_issued(&world, coupon.drop, 2).await;
    assert_exact(&world, &coupon, 2, &[("u-2".into(), answer)]).await;
    // Whether it hears of Kafka's acknowledgement or of its own deadline first, nobody knows. If the latter, it rightly put
    // the claim by, and a pass finds that its row is there.
    eventually("nothing is left to do", HEALED, async || {
        world.once_with(&[], &[]).await.code == 0
            && world.sql.query("SELECT * FROM failed_claims WHERE resolved_at IS NULL").await.is_empty()
    })
    .await;
    assert!(world.sql.query("SELECT * FROM failed_claims WHERE resolution <> 'duplicate'").await.is_empty());
}
