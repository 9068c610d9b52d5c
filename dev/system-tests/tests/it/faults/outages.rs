//! One store away: what people are told meanwhile, and that everything is there afterwards.

use std::time::Duration;

use firstcome_reconciler::report::{Kind, Status};
use firstcome_stack::{KafkaOptions, KafkaServer, MysqlOptions, MysqlServer, RedisOptions, RedisServer};
use firstcome_testkit::{
    Answer, Http, LIMIT, Session, Stores, World, assert_exact, eventually, people, rows, rush, tally,
};

use crate::claims::many::all_issued;
use crate::drift::repairs::{assert_clean, kinds};

#[tokio::test]
async fn with_mysql_down_claims_are_accepted_and_become_rows_when_it_is_back() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_mysql(&mysql), "mysql-down").await;
    let api = world.serve().await;
    world.open().await;
    let consumer = world.consume().await;
    let coupon = api.open_coupon(30).await;
    let users = people(30);
    let mut answers = rush(&[&api], coupon.id, &users[..10], 10).await;
    all_issued(&world, coupon.drop, 10).await;

    mysql.kill().await.unwrap();
    answers.extend(rush(&[&api], coupon.id, &users[10..], 20).await);
    assert_eq!(tally(&answers), [("accepted".into(), 30)].into());
    // The consumer has met the outage: it holds a batch it can't write.
    eventually("the consumer tries", LIMIT, async || consumer.process.log().to_lowercase().contains("mysql")).await;
    let ready = api.http().get("/readyz").await;
    assert!([200, 503].contains(&ready.status), "{ready:?}");
    assert!(consumer.process.status().is_none() && api.process.status().is_none());

    mysql.start_again().await.unwrap();
    all_issued(&world, coupon.drop, 30).await;
    assert_exact(&world, &coupon, 30, &answers).await;
    assert!(world.sql.query("SELECT * FROM failed_claims").await.is_empty(), "an outage is not a failed claim");
    assert_eq!(world.sql.number("SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'consumer'").await, 30);
    assert_clean(&world.pass().await, &coupon);
}

#[tokio::test]
async fn with_kafka_down_claims_are_kept_in_the_backup_table_and_the_reconciler_issues_them() {
    let kafka = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_kafka(&kafka), "kafka-down").await;
    world.set("PUBLISH_DEADLINE_MS", "500");
    let api = world.serve().await;
    world.open().await;
    let consumer = world.consume().await;
    let coupon = api.open_coupon(20).await;
    let users = people(25);
    let mut answers = rush(&[&api], coupon.id, &users[..5], 5).await;
    all_issued(&world, coupon.drop, 5).await;

    kafka.kill().await.unwrap();
    answers.extend(rush(&[&api], coupon.id, &users[5..], 20).await);
    assert_eq!(tally(&answers), [("accepted".into(), 20), ("sold_out".into(), 5)].into());
    let unqueued =
        answers.iter().filter(|(_, answer)| matches!(answer, Answer::Accepted { queued: false, .. })).count();
    assert_eq!(unqueued, 15);
    let kept = "SELECT COUNT(*) FROM failed_claims WHERE reason = 'unpublished' AND resolved_at IS NULL";
    assert_eq!(world.sql.number(kept).await, 15);
    assert_eq!(rows(&world, coupon.drop).await.len(), 5);

    kafka.start_again().await.unwrap();
    // A pass may have to wait for the broker to answer.
    let mut run = None;
    eventually("a pass issues them", LIMIT, async || {
        let once = world.once_with(&[], &[]).await;
        let done = once.code == 0;
        run = done.then(|| once.run());
        done && rows(&world, coupon.drop).await.len() == 20
    })
    .await;
    let run = run.unwrap();
    assert_eq!((run.status, kinds(&run).get(&Kind::FailedClaim)), (Status::Repaired, Some(&15)), "{run:#?}");
    assert_exact(&world, &coupon, 20, &answers).await;
    assert_clean(&world.pass().await, &coupon);
    assert!(consumer.process.status().is_none(), "the consumer outlived it");
}

#[tokio::test]
async fn with_redis_down_admission_is_closed_and_says_when_to_try_again() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_redis(&redis), "redis-down").await;
    world.set("REDIS_TIMEOUT_MS", "500");
    let api = world.serve().await;
    let daemon = world.daemon().await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(10).await;
    eventually("the daemon has opened admission", LIMIT, async || {
        api.claim(coupon.id, "u-1").await.promised().is_some()
    })
    .await;
    all_issued(&world, coupon.drop, 1).await;

    redis.kill().await.unwrap();
    let reply = Http::send(api.claim_request(coupon.id, "u-2")).await;
    assert_eq!((reply.status, reply.body["code"].as_str()), (503, Some("unavailable")), "{reply:?}");
    assert!(reply.retry_after().is_some_and(|seconds| seconds >= 1));
    assert_eq!(api.http().get("/healthz").await.status, 200);
    assert_eq!(api.http().get("/readyz").await.status, 503);

    redis.start_again().await.unwrap();
    // Nobody starts a pass by hand: the daemon sees the closed gate, verifies, and opens again.
    let start = std::time::Instant::now();
    eventually("admission is open again", LIMIT, async || api.claim(coupon.id, "u-2").await.promised().is_some()).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(api.claim(coupon.id, "u-1").await, Answer::Already { drop: coupon.drop, slot: 1 });
    all_issued(&world, coupon.drop, 2).await;
    assert!(daemon.process.status().is_none());
    assert_clean(&world.pass().await, &coupon);
}

#[tokio::test]
async fn a_mysql_that_stands_still_delays_rows_and_fails_no_claim() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_mysql(&mysql), "mysql-frozen").await;
    world.set("DATABASE_TIMEOUT_MS", "500");
    let api = world.serve().await;
    world.open().await;
    let consumer = world.consume().await;
    let coupon = api.open_coupon(30).await;
    let users = people(30);
    let mut answers = rush(&[&api], coupon.id, &users[..10], 10).await;
    all_issued(&world, coupon.drop, 10).await;

    mysql.freeze().await.unwrap();
    answers.extend(rush(&[&api], coupon.id, &users[10..], 20).await);
    assert_eq!(tally(&answers), [("accepted".into(), 30)].into());
    // The consumer has given a batch up, whose transaction may still go through when MySQL goes on.
    eventually("the consumer tries", LIMIT, async || consumer.process.log().contains("did not answer")).await;
    mysql.thaw().await.unwrap();
    all_issued(&world, coupon.drop, 30).await;
    assert_exact(&world, &coupon, 30, &answers).await;
    assert!(world.sql.query("SELECT * FROM failed_claims").await.is_empty());
}

#[tokio::test]
async fn a_kafka_that_stands_still_and_delivers_late_gives_nobody_a_second_row() {
    let kafka = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_kafka(&kafka), "kafka-frozen").await;
    world.set("PUBLISH_DEADLINE_MS", "500");
    let api = world.serve().await;
    world.open().await;
    let consumer = world.consume().await;
    let coupon = api.open_coupon(10).await;
    let users = people(10);
    let mut answers = rush(&[&api], coupon.id, &users[..5], 5).await;
    all_issued(&world, coupon.drop, 5).await;

    // Requests wait in the broker's sockets: it may take them after everybody has given them up.
    kafka.freeze().await.unwrap();
    answers.extend(rush(&[&api], coupon.id, &users[5..], 5).await);
    let unqueued =
        answers.iter().filter(|(_, answer)| matches!(answer, Answer::Accepted { queued: false, .. })).count();
    assert_eq!((tally(&answers).get("accepted"), unqueued), (Some(&10), 5), "{answers:?}");
    kafka.thaw().await.unwrap();

    eventually("passes and the consumer between them issue all", LIMIT, async || {
        world.once_with(&[], &[]).await.code == 0 && rows(&world, coupon.drop).await.len() == 10
    })
    .await;
    all_issued(&world, coupon.drop, 10).await;
    assert_exact(&world, &coupon, 10, &answers).await;
    let kept = "SELECT reason, COUNT(*), COUNT(resolved_at) FROM failed_claims GROUP BY reason";
    assert_eq!(world.sql.query(kept).await, [["unpublished", "5", "5"]], "a late message is no failed claim");
    assert_clean(&world.pass().await, &coupon);
    assert!(consumer.process.status().is_none());
}

#[tokio::test]
async fn a_redis_that_answers_too_late_may_have_admitted_and_a_retry_says_so() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_redis(&redis), "redis-frozen").await;
    world.set("REDIS_TIMEOUT_MS", "300");
    let api = world.serve().await;
    world.open().await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(10).await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());

    redis.freeze().await.unwrap();
    let late = Http::send(api.claim_request(coupon.id, "u-2")).await;
    assert_eq!((late.status, late.body["code"].as_str()), (503, Some("unavailable")), "{late:?}");
    assert!(late.retry_after().is_some());
    redis.thaw().await.unwrap();
    let holders = async || crate::claims::many::holders(&world, &coupon).await;
    eventually("the script that was given up has run", LIMIT, async || holders().await == 2).await;
    assert_eq!(api.claim(coupon.id, "u-2").await, Answer::Already { drop: coupon.drop, slot: 2 });
    // It was published before it was promised: no pass is needed.
    all_issued(&world, coupon.drop, 2).await;
    assert_exact(&world, &coupon, 2, &[("u-2".into(), Answer::Already { drop: coupon.drop, slot: 2 })]).await;
}

#[tokio::test]
async fn a_mysql_that_is_read_only_or_locked_delays_rows_and_fails_no_claim() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_mysql(&mysql), "mysql-refuses").await;
    let api = world.serve().await;
    world.open().await;
    let consumer = world.consume().await;
    let coupon = api.open_coupon(30).await;
    let users = people(30);
    let retries = async || consumer.process.log().matches("could not be written").count();

    mysql.query("SET GLOBAL super_read_only = ON").await.unwrap();
    let mut answers = rush(&[&api], coupon.id, &users[..15], 15).await;
    eventually("the consumer meets a MySQL that is read-only", LIMIT, async || retries().await == 1).await;
    mysql.query("SET GLOBAL super_read_only = OFF").await.unwrap();
    mysql.query("SET GLOBAL read_only = OFF").await.unwrap();
    all_issued(&world, coupon.drop, 15).await;

    let mut holding = Session::begin(&world.sql).await;
    holding.run(&format!("SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE", coupon.drop)).await;
    answers.extend(rush(&[&api], coupon.id, &users[15..], 15).await);
    // Longer than the consumer waits for a lock.
    eventually("the consumer meets a lock", LIMIT, async || retries().await == 2).await;
    holding.commit().await;
    all_issued(&world, coupon.drop, 30).await;

    assert_eq!(tally(&answers), [("accepted".into(), 30)].into());
    assert_exact(&world, &coupon, 30, &answers).await;
    assert!(world.sql.query("SELECT * FROM failed_claims").await.is_empty());
}

#[tokio::test]
async fn a_redis_without_memory_admits_nobody_and_changes_nothing() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_redis(&redis), "redis-full").await;
    let api = world.serve().await;
    world.open().await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(10).await;
    let mut answers = rush(&[&api], coupon.id, &people(5), 5).await;
    let before = world.redis.dump().await;
    world.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for user in ["u-6", "u-7"] {
        let reply = Http::send(api.claim_request(coupon.id, user)).await;
        assert_eq!((reply.status, reply.body["code"].as_str()), (503, Some("unavailable")), "{reply:?}");
    }
    let again = api.claim(coupon.id, "u-1").await;
    assert!(matches!(again, Answer::Already { .. } | Answer::Problem(503, _)), "{again:?}");
    assert_eq!(world.redis.dump().await, before);
    world.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    answers.extend(rush(&[&api], coupon.id, &people(12)[5..], 7).await);
    assert_eq!(tally(&answers), [("accepted".into(), 10), ("sold_out".into(), 2)].into());
    all_issued(&world, coupon.drop, 10).await;
    assert_exact(&world, &coupon, 10, &answers).await;
}
