//! From the topic to rows: each message once, whatever is in it.

use std::time::Duration;

use firstcome_testkit::{LIMIT, LOCK_WAITS, Session, all_issued, assert_exact, eventually, open_world, people, rush};

#[tokio::test]
async fn poison_messages_are_kept_once_and_what_follows_them_is_issued() {
    let (world, api) = open_world("poison-msg").await;
    let coupon = api.open_coupon(10).await;
    let (key, id, drop) = (coupon.id.to_string(), coupon.id, coupon.drop);
    let consumer = world.consume().await;
    let mut answers = rush(&[&api], id, &people(2), 1).await;
    all_issued(&world, drop, 2).await;

    let message = |version: i64, drop: i64, slot: i64, user: &str| {
        format!(
            r#"{{"v":{version},"coupon_id":{id},"drop_id":{drop},"slot":{slot},"user_id":"{user}","claimed_at":"2026-12-01T06:00:00.123Z"}}"#
        )
    };
    let poison: [(&str, String); 9] = [
        ("undecodable", String::new()),
        ("undecodable", "not json".into()),
        ("undecodable", r#"{"v":1}"#.into()),
        ("wrong_version", message(2, drop, 3, "x-1")),
        ("unknown_drop", message(1, 424_242, 3, "x-2")),
        ("slot_out_of_range", message(1, drop, 0, "x-3")),
        ("slot_out_of_range", message(1, drop, 11, "x-4")),
        ("slot_taken", message(1, drop, 1, "x-5")),
        ("already_has_one", message(1, drop, 9, "u-1")),
    ];
    for (_, payload) in &poison {
        world.topic.produce(None, &key, payload.as_bytes()).await;
    }
    world.topic.produce_tombstone(&key).await;
    world.topic.produce(None, &key, &[0xff, 0xfe, 0x00]).await;
    world.topic.produce(None, &key, message(1, drop, 1, "u-1").as_bytes()).await; // the same claim again is fine
    answers.extend(rush(&[&api], id, &["u-3".into()], 1).await);
    all_issued(&world, drop, 3).await;
    assert_exact(&world, &coupon, 3, &answers).await;

    let kept = "SELECT reason FROM failed_claims ORDER BY source_offset";
    let mut expected: Vec<&str> = poison.iter().map(|(reason, _)| *reason).collect();
    expected.extend(["undecodable", "undecodable"]);
    assert_eq!(world.sql.query(kept).await.concat(), expected);
    let whose = "SELECT coupon_id, drop_id, slot, user_id FROM failed_claims WHERE reason = 'slot_taken'";
    assert_eq!(world.sql.query(whose).await, [[key.as_str(), &drop.to_string(), "1", "x-5"]]);
    let bytes = "SELECT COUNT(*) FROM failed_claims WHERE payload = 0xfffe00 AND error IS NOT NULL AND source_offset IS NOT NULL";
    assert_eq!(world.sql.number(bytes).await, 1, "the message is kept as it was");

    // Read a second time, as after a crash: still once each.
    assert_eq!(consumer.process.stop().await, 0);
    world.topic.forget_commits().await;
    let _again = world.consume().await;
    eventually("all was read again", LIMIT, async || world.topic.lag().await == 0).await;
    assert_eq!(world.sql.query(kept).await.concat(), expected);
    assert_exact(&world, &coupon, 3, &answers).await;
}

#[tokio::test]
async fn a_batch_with_one_bad_message_issues_all_the_others() {
    let (world, api) = open_world("one-bad").await;
    let coupon = api.open_coupon(300).await;
    // No consumer yet: all of it comes in one batch, or few.
    let mut answers = rush(&[&api], coupon.id, &people(150), 50).await;
    world.topic.produce(None, &coupon.id.to_string(), b"bad").await;
    answers.extend(rush(&[&api], coupon.id, &people(300)[150..], 50).await);
    let _consumer = world.consume().await;
    all_issued(&world, coupon.drop, 300).await;
    assert_exact(&world, &coupon, 300, &answers).await;
    assert_eq!(world.sql.number("SELECT COUNT(*) FROM failed_claims").await, 1);
}

#[tokio::test]
async fn a_topic_read_again_from_the_beginning_changes_no_row() {
    let (world, api) = open_world("reread").await;
    world.set("CONSUME_SESSION_TIMEOUT_MS", "2000");
    let coupon = api.open_coupon(100).await;
    let consumer = world.consume().await;
    let answers = rush(&[&api], coupon.id, &people(100), 100).await;
    all_issued(&world, coupon.drop, 100).await;
    let all = "SELECT * FROM issued_coupons ORDER BY slot";
    let before = world.sql.query(all).await;
    consumer.process.kill().await;
    world.topic.forget_commits().await;
    let _next = world.consume().await;
    eventually("all was read again", LIMIT, async || world.topic.lag().await == 0).await;
    assert_eq!(world.sql.query(all).await, before);
    assert_exact(&world, &coupon, 100, &answers).await;
    assert!(world.sql.query("SELECT * FROM failed_claims").await.is_empty());
}

#[tokio::test]
async fn a_frozen_consumer_s_work_is_taken_over_and_its_late_writes_do_no_harm() {
    let (world, api) = open_world("frozen").await;
    world.set("CONSUME_SESSION_TIMEOUT_MS", "2000");
    let coupon = api.open_coupon(200).await;
    let mut answers = rush(&[&api], coupon.id, &people(100), 100).await;
    // It stands still in the middle of a transaction: MySQL has done what it asked and waits for
    // more, with rows locked.
    let mut holding = Session::begin(&world.sql).await;
    holding.run(&format!("SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE", coupon.drop)).await;
    let frozen = world.consume().await;
    eventually("its batch waits for the lock", LIMIT, async || world.sql.number(LOCK_WAITS).await > 0).await;
    frozen.process.freeze();
    holding.commit().await;

    answers.extend(rush(&[&api], coupon.id, &people(200)[100..], 100).await);
    let at = std::time::Instant::now();
    let _other = world.consume().await;
    all_issued(&world, coupon.drop, 200).await;
    assert!(at.elapsed() < Duration::from_secs(25), "{:?}", at.elapsed());
    frozen.process.thaw();
    assert_exact(&world, &coupon, 200, &answers).await;
    assert!(world.sql.query("SELECT * FROM failed_claims").await.is_empty());
    assert_eq!(frozen.process.stop().await, 0);
    assert_exact(&world, &coupon, 200, &answers).await;
}
