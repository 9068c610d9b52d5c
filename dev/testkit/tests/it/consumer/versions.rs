//! APIs write the newest message version that all readers support.

use firstcome_testkit::{
    LIMIT, MadeCoupon, World, all_issued, assert_kept, eventually, open_world, people, rush,
};

/// Announces a reconciler of an earlier release that ran within the last day and may return.
pub(crate) async fn announce_old_reader(world: &World) {
    let process = "INSERT INTO processes (id, role, owner, topic, consumer_group, publish_deadline_ms, \
                   fallback_deadline_ms, seen_at) \
                   VALUES ('old', 'daemon', 'host:1', '', '', 0, 0, UTC_TIMESTAMP(3) - INTERVAL 23 HOUR)";
    world.sql.query(process).await;
}

async fn messages(world: &World) -> i64 {
    world.topic.offsets().await.iter().map(|(_, end)| end).sum()
}

#[tokio::test]
async fn claims_share_messages_only_if_every_reader_supports_it() {
    let (world, api) = open_world("versions").await;
    let coupon: MadeCoupon = api.open_coupon(20_000).await;
    let mut answers = Vec::new();
    let mut crowd = 0;
    // Counts the messages for the concurrent claims of 64 users.
    let mut rushed = async || {
        let before = messages(&world).await;
        crowd += 64;
        answers.extend(rush(&[&api], coupon.id, &people(crowd)[crowd - 64..], 64).await);
        (messages(&world).await - before, answers.len())
    };
    assert_eq!(
        rushed().await.0,
        64,
        "no consumer has announced its versions"
    );
    let consumer = world.consume().await;
    eventually("claims share messages", LIMIT, async || {
        rushed().await.0 < 64
    })
    .await;

    announce_old_reader(&world).await;
    eventually("each claim has its own message", LIMIT, async || {
        rushed().await.0 == 64
    })
    .await;
    world
        .sql
        .query("DELETE FROM processes WHERE id = 'old'")
        .await;
    eventually("claims share messages again", LIMIT, async || {
        rushed().await.0 < 64
    })
    .await;

    let issued = rushed().await.1;
    all_issued(&world, coupon.drop, issued).await;
    assert_kept(&world, &coupon, &answers, &[]).await;
    assert_eq!(consumer.process.stop().await, 0);
}
