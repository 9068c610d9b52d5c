//! A promise is only made once a second store besides Redis has the claim, so two simultaneous
//! faults lose no promise.

use firstcome_reconciler::report::Kind;
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{
    Fixture, LIMIT, OldCopy, World, WorldStores, all_issued, assert_exact, eventually,
    eventually_some, holders, kinds, people, rows, rush, tally,
};

use super::waves::kafka_behind_proxy;

#[tokio::test]
async fn every_promise_becomes_a_row_after_kafka_is_down_and_redis_is_rolled_back() {
    let (kafka, _, _turn) = kafka_behind_proxy().await;
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_kafka(kafka);
    let world = World::on(stores.with_redis(&redis), "second-kafka").await;
    world.set("PUBLISH_DEADLINE_MS", "500");
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, mut answers) = fixture.held("Twenty", 20, 5).await;
    let before = OldCopy::of(&redis).unwrap();
    kafka.kill().await.unwrap();
    answers.extend(rush(&[api], coupon.id, &people(15)[5..], 10).await);
    assert_eq!(tally(&answers), [("accepted".into(), 15)].into());
    assert_eq!(rows(world, coupon.drop).await.len(), 15);
    redis.kill().await.unwrap();
    before.put_back(&redis).unwrap();
    redis.start_again().await.unwrap();
    assert_eq!(holders(world, &coupon).await, 5, "Redis has forgotten ten");
    kafka.start_again().await.unwrap();

    let run = eventually_some("a pass repairs the drop", LIMIT, async || {
        let once = world.once_with(&[], &[]).await;
        if once.code == 0 {
            Ok(once.run())
        } else {
            Err(once.log)
        }
    })
    .await;
    let forgotten = kinds(&run).get(&Kind::MissingAdmission).copied();
    assert_eq!(forgotten, Some(10), "{run:#?}");
    assert_eq!(holders(world, &coupon).await, 15);
    let letters = world.sql.query("SELECT * FROM failed_claims").await;
    assert!(letters.is_empty(), "{letters:?}");
    let more: Vec<String> = (1..=20).map(|n| format!("late-{n}")).collect();
    answers.extend(rush(&[api], coupon.id, &more, 20).await);
    all_issued(world, coupon.drop, 20).await;
    assert_exact(world, &coupon, 20, &answers).await;
    eventually("a pass finds nothing", LIMIT, async || {
        let once = world.once_with(&[], &[]).await;
        once.code == 0 && once.run().all_findings().count() == 0
    })
    .await;
}
