//! A promise is only made once a second store besides Redis has the claim, so two simultaneous
//! faults lose no promise.

use firstcome_reconciler::report::{Kind, Run};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{
    ApiClient, Fixture, LIMIT, MadeCoupon, OldCopy, PromisedAnswer, World, WorldStores, all_issued,
    assert_clean, assert_exact, eventually_some, holders, kinds, people, rows, rush, tally,
};

use super::waves::kafka_behind_proxy;

/// Kills Redis and restarts it from this copy.
async fn back_to(copy: OldCopy, redis: &RedisServer) {
    redis.kill().await.unwrap();
    copy.put_back(redis).unwrap();
    redis.start_again().await.unwrap();
}

/// Creates a drop of twenty slots. The first five users have their rows.
async fn five_of_twenty(world: World) -> (Fixture, MadeCoupon, Vec<PromisedAnswer>) {
    let fixture = Fixture::of(world).await;
    let (coupon, answers) = fixture.held("Twenty", 20, 5).await;
    (fixture, coupon, answers)
}

/// Runs passes until one succeeds, and returns its run.
async fn mended(world: &World) -> Run {
    eventually_some("a pass repairs the drop", LIMIT, async || {
        let once = world.once_with(&[], &[]).await;
        if once.code == 0 {
            Ok(once.run())
        } else {
            Err(once.log)
        }
    })
    .await
}

/// Lets newcomers take all remaining slots. The drop must be exact, and every promise must be kept.
async fn filled_up(
    world: &World,
    api: &ApiClient,
    coupon: &MadeCoupon,
    mut answers: Vec<PromisedAnswer>,
) {
    let more: Vec<String> = (1..=20).map(|n| format!("late-{n}")).collect();
    answers.extend(rush(&[api], coupon.id, &more, 20).await);
    all_issued(world, coupon.drop, 20).await;
    assert_exact(world, coupon, 20, &answers).await;
    mended(world).await;
    assert_clean(&world.pass().await, coupon);
}

#[tokio::test]
async fn every_promise_becomes_a_row_after_kafka_is_down_and_redis_is_rolled_back() {
    let (kafka, _, _turn) = kafka_behind_proxy().await;
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(
        WorldStores::shared()
            .await
            .with_kafka(kafka)
            .with_redis(&redis),
        "second-kafka",
    )
    .await;
    world.set("PUBLISH_DEADLINE_MS", "500");
    let (
        Fixture {
            world,
            api,
            consumer: _consumer,
        },
        coupon,
        mut answers,
    ) = five_of_twenty(world).await;
    let users = people(15);
    let before = OldCopy::of(&redis).unwrap();

    kafka.kill().await.unwrap();
    answers.extend(rush(&[&api], coupon.id, &users[5..], 10).await);
    assert_eq!(tally(&answers), [("accepted".into(), 15)].into());
    assert_eq!(rows(&world, coupon.drop).await.len(), 15);
    back_to(before, &redis).await;
    assert_eq!(holders(&world, &coupon).await, 5, "Redis has forgotten ten");
    kafka.start_again().await.unwrap();

    let run = mended(&world).await;
    let forgotten = kinds(&run).get(&Kind::MissingAdmission).copied();
    assert_eq!(forgotten, Some(10), "{run:#?}");
    assert_eq!(holders(&world, &coupon).await, 15);
    let letters = world.sql.query("SELECT * FROM failed_claims").await;
    assert!(letters.is_empty(), "{letters:?}");
    let args = [
        "explain",
        "--coupon",
        &coupon.id.to_string(),
        "--user",
        "u-9",
    ];
    let story = world.start("firstcome-reconciler", &args, &[]);
    assert_eq!(story.ended(LIMIT).await, 0, "{}", story.log());
    let story = story.all_stdout().await;
    assert!(story.contains("by the api"), "{story}");
    filled_up(&world, &api, &coupon, answers).await;
}
