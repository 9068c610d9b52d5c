//! Offsets are moved, and the topic changes: consumers begin to read at the positions in MySQL, so
//! no promise is lost.

use firstcome_reconciler::report::{Kind, Run, Status};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{
    Fixture, HeldTransaction, MadeCoupon, PromisedAnswer, TABLE_LOCK_WAITS, World, WorldStores,
    all_issued, assert_exact, assert_nothing_found, eventually, holders, people, rush,
};

use crate::faults::waves::HEALED;

/// Users who are admitted while no consumer runs.
const UNREAD: std::ops::Range<usize> = 10..30;

/// Creates a fixture with a Redis that the test may empty.
async fn fixture(name: &str) -> (RedisServer, Fixture) {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&redis);
    let fixture = Fixture::on(stores, name).await;
    (redis, fixture)
}

/// Creates a coupon with ten rows, stops the consumer, and admits 20 more users.
async fn with_unread(fixture: &Fixture) -> (MadeCoupon, Vec<PromisedAnswer>) {
    let (coupon, mut answers) = fixture.held("Positions", 40, UNREAD.start).await;
    fixture.consumer.process.stop().await;
    let more = &people(UNREAD.end)[UNREAD];
    answers.extend(rush(&[&fixture.api], coupon.id, more, 20).await);
    assert!(answers.iter().all(|(_, answer)| answer.is_accepted()));
    (coupon, answers)
}

/// Runs a pass that may have findings.
pub(crate) async fn any_pass(world: &World) -> Run {
    world.once_with(&[], &[]).await.run()
}

/// Returns the findings about the topic.
fn read_again(run: &Run) -> Vec<&str> {
    let of_topic = run.findings.iter().filter(|it| it.kind == Kind::Stalled);
    of_topic.map(|it| it.detail.as_str()).collect()
}

/// Empties Redis, lets other users take the remaining slots, and fails if a promise is lost.
/// Returns the pass that ran after the consumer.
async fn survives_a_loss_of_redis(
    fixture: &Fixture,
    coupon: &MadeCoupon,
    mut answers: Vec<PromisedAnswer>,
) -> Run {
    let world = &fixture.world;
    world.redis.command::<()>(&["FLUSHALL"]).await;
    // The coupon opens once its messages are rows.
    let _consumer = world.consume().await;
    all_issued(world, coupon.drop, UNREAD.end).await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    assert_eq!(
        holders(world, coupon).await,
        i64::try_from(UNREAD.end).unwrap()
    );
    let others: Vec<String> = (0..30).map(|n| format!("other-{n}")).collect();
    let later = rush(&[&fixture.api], coupon.id, &others, 10).await;
    let accepted = later.iter().filter(|(_, answer)| answer.is_accepted());
    assert_eq!(accepted.count(), 40 - UNREAD.end);
    answers.extend(later);
    all_issued(world, coupon.drop, 40).await;
    assert_exact(world, coupon, 40, &answers).await;
    let found = any_pass(world).await;
    assert_nothing_found(&world.pass().await);
    found
}

#[tokio::test]
async fn offsets_moved_in_kafka_break_no_promise_if_redis_is_lost() {
    let (_redis, fixture) = fixture("pos-moved").await;
    let (coupon, answers) = with_unread(&fixture).await;
    for moved in [|low, _| low, |_, end| end + 1_000, |_, end| end] {
        fixture.world.topic.commit_from(moved).await;
        let run = fixture.world.pass().await;
        assert_eq!(run.drops[0].before.in_flight, 20, "{run:#?}");
        assert!(read_again(&run).is_empty(), "{run:#?}");
    }
    survives_a_loss_of_redis(&fixture, &coupon, answers).await;
}

#[tokio::test]
async fn consumer_that_stops_with_an_unwritten_batch_leaves_its_messages_unread() {
    let (_redis, fixture) = fixture("pos-stopped").await;
    let world = &fixture.world;
    let (coupon, mut answers) = fixture.held("Stopped", 40, UNREAD.end - 1).await;
    let position = "SELECT SUM(next_offset) FROM topic_positions";
    let before = world.sql.number(position).await;
    let mut lock = HeldTransaction::begin(&world.sql).await;
    lock.run("LOCK TABLES issued_coupons READ").await;
    let last = people(UNREAD.end).pop().unwrap();
    let answer = fixture.api.claim(coupon.id, &last).await;
    answers.push((last, answer));
    eventually("the batch waits", HEALED, async || {
        world.sql.number(TABLE_LOCK_WAITS).await > 0
    })
    .await;
    fixture.consumer.process.stop().await;
    lock.run("UNLOCK TABLES").await;
    assert_eq!(world.sql.number(position).await, before);
    let found = survives_a_loss_of_redis(&fixture, &coupon, answers).await;
    assert!(read_again(&found).is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_position_moved_ahead_in_mysql_breaks_no_promise() {
    let (_redis, fixture) = fixture("pos-ahead").await;
    let world = &fixture.world;
    let (coupon, answers) = with_unread(&fixture).await;
    for moved in [1, 1_000] {
        world
            .sql
            .query(&format!(
                "UPDATE topic_positions SET next_offset = next_offset + {moved} WHERE next_offset > 0"
            ))
            .await;
        any_pass(world).await;
    }
    world.redis.command::<()>(&["FLUSHALL"]).await;
    let _consumer = world.consume().await;
    all_issued(world, coupon.drop, UNREAD.end).await;
    eventually("admission opens", HEALED, async || {
        any_pass(world).await;
        holders(world, &coupon).await == i64::try_from(UNREAD.end).unwrap()
    })
    .await;
    assert_exact(world, &coupon, 30, &answers).await;
}

#[tokio::test]
async fn a_position_moved_ahead_of_a_running_consumer_is_corrected() {
    let (_redis, fixture) = fixture("pos-running").await;
    let world = &fixture.world;
    let (coupon, mut answers) = fixture.held("Positions", 20, 10).await;
    let moved = "UPDATE topic_positions SET next_offset = next_offset + 1000";
    world.sql.query(moved).await;
    let wrong = "SELECT COUNT(*) FROM topic_positions WHERE next_offset >= 1000";
    eventually("the consumer corrects the positions", HEALED, async || {
        world.sql.number(wrong).await == 0
    })
    .await;
    let more = &people(20)[10..];
    answers.extend(rush(&[&fixture.api], coupon.id, more, 10).await);
    all_issued(world, coupon.drop, 20).await;
    assert_nothing_found(&world.pass().await);
    assert_exact(world, &coupon, 20, &answers).await;
}

#[tokio::test]
async fn topic_recreated_with_fewer_messages_under_a_running_consumer_is_read_again() {
    let (_redis, fixture) = fixture("pos-under").await;
    let world = &fixture.world;
    let (coupon, mut answers) = fixture.held("Under", 20, 4).await;
    // One message each.
    for user in &people(12)[4..] {
        answers.push((user.clone(), fixture.api.claim(coupon.id, user).await));
    }
    all_issued(world, coupon.drop, 12).await;
    fixture.api.process.stop().await;
    world.topic.delete().await;
    world.migrate().await;
    let api = world.serve().await;
    answers.extend(rush(&[&api], coupon.id, &people(14)[12..], 2).await);
    all_issued(world, coupon.drop, 14).await;
    let highest = "SELECT MAX(next_offset) FROM topic_positions";
    eventually("the consumer has begun again", HEALED, async || {
        world.sql.number(highest).await <= 2
    })
    .await;
    assert_nothing_found(&world.pass().await);
    answers.extend(rush(&[&api], coupon.id, &people(20)[14..], 6).await);
    all_issued(world, coupon.drop, 20).await;
    assert_exact(world, &coupon, 20, &answers).await;
}
