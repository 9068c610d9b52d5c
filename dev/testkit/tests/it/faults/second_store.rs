//! A promise is only made once a second store besides Redis has the claim, so two simultaneous
//! faults lose no promise.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use firstcome_reconciler::report::{Kind, Run};
use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    ApiClient, Fixture, LIMIT, MadeCoupon, OldCopy, PromisedAnswer, World, WorldStores, all_issued,
    assert_clean, assert_exact, coupon_body, eventually, eventually_some, holders, kinds, people,
    rows, rush, tally,
};
use serde_json::json;

use super::waves::{kafka_behind_proxies, kafka_behind_proxy};

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

#[tokio::test]
async fn a_claim_in_flight_keeps_its_slot_although_its_user_was_deleted() {
    deleted_on_the_way(&["u-6"]).await;
}

/// The counter must not change because the other user is restored.
#[tokio::test]
async fn a_claim_in_flight_keeps_its_slot_although_another_user_was_restored() {
    deleted_on_the_way(&["u-1", "u-6"]).await;
}

/// Deletes users from Redis manually while the claim of one of them is only in the API's memory.
async fn deleted_on_the_way(people: &[&str]) {
    let (kafka, [_, way], _turn) = kafka_behind_proxies().await;
    let world = World::on(
        WorldStores::shared().await.with_kafka(kafka),
        "second-deleted",
    )
    .await;
    let fixture = Fixture::of(world).await;
    let world = &fixture.world;
    let api = &fixture.api;
    let mut body = coupon_body("Twenty", 20, 0);
    // Otherwise the coupon's claimants would also contain the user.
    body["once_per"] = json!("drop");
    let (coupon, mut answers) = fixture.held_of(&body, 5).await;
    let slow = world
        .serve_with(&[("KAFKA_BROKERS", &format!("127.0.0.1:{}", way.port()))])
        .await;
    assert_eq!(
        slow.me(coupon.id, "u-6").await["status"],
        "none",
        "the API knows the coupon"
    );
    way.set(ProxyFault::BlackHole).await.unwrap();

    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    let passed = async {
        let is_there = async || {
            world
                .redis
                .command::<Option<f64>>(&["ZSCORE", &users, "u-6"])
                .await
                .is_some()
        };
        eventually("the user is admitted", LIMIT, is_there).await;
        for person in people {
            assert_eq!(
                world.redis.command::<i64>(&["ZREM", &users, person]).await,
                1
            );
        }
        let is_over = AtomicBool::new(false);
        let pass = async {
            let once = world.once_with(&[], &[]).await;
            is_over.store(true, Relaxed);
            once
        };
        // u-7 claims throughout the pass, also while it waits for the claim in flight.
        let claims = async {
            loop {
                let answer = api.claim(coupon.id, "u-7").await;
                if answer.promised().is_some() || is_over.load(Relaxed) {
                    return answer;
                }
            }
        };
        tokio::join!(pass, claims)
    };
    let (answer, (once, next)) = tokio::join!(slow.claim(coupon.id, "u-6"), passed);
    // If the pass closes the coupon first, the claim is not of this era any more: no promise.
    let kept = answer.promised();
    assert!(
        kept.is_none_or(|kept| kept == (coupon.drop, 6)),
        "{answer:?}"
    );
    assert_eq!(once.code, 0, "{}", once.log);
    if kept.is_some() {
        answers.push(("u-6".into(), answer));
    }
    if let Some((_, slot)) = next.promised() {
        assert!(kept.is_none() || slot != 6, "{}", once.log);
        answers.push(("u-7".into(), next));
    }
    mended(world).await;
    filled_up(world, api, &coupon, answers).await;
}
