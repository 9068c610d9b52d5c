//! A night on duty, read from mails alone: each store and the mail server away, alone and in pairs,
//! a plan that waits for a confirmation, a broken promise, a consumer that comes and goes, a rolling
//! update. Two daemons mail each problem once, and its end once. Takes about ten minutes.

use std::time::Duration;

use firstcome_harness::drift::Drift;
use firstcome_harness::{Fixture, World, WorldStores, eventually};
use firstcome_stack::{
    FaultProxy, KafkaOptions, KafkaServer, ProxyFault, RedisOptions, RedisServer, Stack,
};

use crate::drift::support::{inject, subjects};

const WITHIN: Duration = Duration::from_secs(180);

/// Waits until the subjects since the last scene are these, in any order, and until nothing else
/// comes.
async fn told(world: &World, scene: &str, expected: &[&str]) {
    let fits = |found: &[String]| {
        let mut left: Vec<&String> = found.iter().collect();
        for words in expected {
            let parts: Vec<&str> = words.split('&').map(str::trim).collect();
            let at = left
                .iter()
                .position(|it| parts.iter().all(|part| it.contains(part)));
            let Some(at) = at else {
                return false;
            };
            left.swap_remove(at);
        }
        left.is_empty()
    };
    let seen = std::cell::RefCell::new(Vec::new());
    let come = tokio::time::timeout(WITHIN, async {
        loop {
            *seen.borrow_mut() = subjects(world);
            if fits(&seen.borrow()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let has_come = come.await.is_ok();
    let seen = seen.into_inner();
    assert!(has_come, "{scene}: {seen:#?} instead of {expected:#?}");
    eprintln!("{scene}: {seen:#?}");
}

/// Nothing more may come: an hour of silence would prove more than these 20 s.
async fn is_silent(world: &World, scene: &str) {
    world.mail.clear();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(subjects(world), [""; 0], "{scene}");
}

async fn away(world: &World, scene: &str, proxies: &[&FaultProxy], begins: &[&str], ends: &[&str]) {
    for proxy in proxies {
        proxy.set(ProxyFault::Cut).await.unwrap();
    }
    told(world, scene, begins).await;
    world.mail.clear();
    for proxy in proxies {
        proxy.set(ProxyFault::Pass).await.unwrap();
    }
    told(world, scene, ends).await;
    is_silent(world, scene).await;
}

#[tokio::test]
#[ignore = "takes ten minutes"]
async fn night_on_duty_is_told_truly_once_and_ended_once() {
    let stack = Stack::shared().await.unwrap();
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let (kafka, to_kafka) = KafkaServer::start_behind_proxy(KafkaOptions::default())
        .await
        .unwrap();
    let stores = WorldStores::shared()
        .await
        .with_redis(&redis)
        .with_kafka(&kafka);
    let world = World::on(stores, "night").await;
    let to_redis = redis.proxy().await.unwrap();
    let to_mysql = stack.mysql.proxy().await.unwrap();
    let to_mail = FaultProxy::start(world.mail.port()).await.unwrap();
    world.set("REDIS_URL", &redis.url_via(&to_redis));
    world.set(
        "DATABASE_URL",
        &stack.mysql.database_url_via(&to_mysql, world.database()),
    );
    world.set("SMTP_URL", &format!("smtp://127.0.0.1:{}", to_mail.port()));
    world.set("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "5");
    world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "5");
    world.set("RECONCILE_CRON", "*/5 * * * * *");
    world.set("STORE_TIMEOUT_MS", "1000");
    let f = Fixture::of(world).await;
    let world = &f.world;
    let (coupon, _) = f.held("Night", 25, 15).await;
    let mut daemons = vec![world.daemon().await, world.daemon().await];

    // Single outages.
    let redis_away = &["action needed & Redis"][..];
    away(
        world,
        "redis",
        &[&to_redis],
        redis_away,
        &["resolved & Redis"],
    )
    .await;
    away(
        world,
        "kafka",
        &[&to_kafka],
        &["action needed & Kafka"],
        &["resolved & Kafka"],
    )
    .await;
    // Each daemon mails directly.
    let both = &["action needed & MySQL", "action needed & MySQL"][..];
    away(world, "mysql", &[&to_mysql], both, &["resolved & MySQL"]).await;

    // In pairs: one mail, or one each.
    for (scene, pair) in [("redis and kafka", [&to_redis, &to_kafka])] {
        for proxy in pair {
            proxy.set(ProxyFault::Cut).await.unwrap();
        }
        eventually(scene, WITHIN, async || {
            let all = subjects(world).join(" ");
            all.contains("Redis") && (all.contains("Kafka") || all.contains("1 more"))
        })
        .await;
        world.mail.clear();
        for proxy in pair {
            proxy.set(ProxyFault::Pass).await.unwrap();
        }
        eventually("both are over", WITHIN, async || {
            let all = subjects(world);
            let ended = all.iter().filter(|it| it.contains("resolved"));
            let both = all.iter().any(|it| it.contains("2 problems"));
            both || ended.count() == 2
        })
        .await;
        eprintln!("{scene}: {:#?}", subjects(world));
        is_silent(world, scene).await;
    }

    // The mail server is away, too: the mails come later, in order.
    to_mail.set(ProxyFault::Cut).await.unwrap();
    to_kafka.set(ProxyFault::Cut).await.unwrap();
    let open = "SELECT COUNT(*) FROM told WHERE name = 'kafka' AND ended_at IS NULL AND told_at IS NOT NULL";
    eventually("it is told", WITHIN, async || {
        world.sql.number(open).await == 1
    })
    .await;
    to_kafka.set(ProxyFault::Pass).await.unwrap();
    eventually("it is over", WITHIN, async || {
        world.sql.number(open).await == 0
    })
    .await;
    assert_eq!(subjects(world), [""; 0]);
    to_mail.set(ProxyFault::Pass).await.unwrap();
    let retry = "UPDATE outbox SET next_attempt_at = UTC_TIMESTAMP(3)";
    world.sql.query(retry).await;
    told(
        world,
        "mail server",
        &["action needed & Kafka", "resolved & Kafka"],
    )
    .await;
    is_silent(world, "mail server").await;

    // A rolling update during an outage tells nothing twice.
    to_redis.set(ProxyFault::Cut).await.unwrap();
    told(world, "update", redis_away).await;
    world.mail.clear();
    for daemon in daemons.drain(..) {
        assert_eq!(daemon.process.stop().await, 0);
    }
    to_redis.set(ProxyFault::Pass).await.unwrap();
    daemons.extend([world.daemon().await, world.daemon().await]);
    told(world, "update", &["resolved & Redis"]).await;
    is_silent(world, "update").await;

    // A plan that waits.
    inject(world, &coupon, Drift::SlotConflict, 6).await;
    told(
        world,
        "plan",
        &["action needed & 6 users would lose their slot"],
    )
    .await;
    world.mail.clear();
    let id = coupon.id.to_string();
    let shown = world
        .once_with(&["--dry-run", "--coupon", &id], &[])
        .await
        .run();
    let held_back = shown.drops[0].held_back.unwrap();
    let fingerprint = held_back.fingerprint.to_string();
    world
        .once_with(&["--confirm", &fingerprint, "--coupon", &id], &[])
        .await;
    eventually("the plan is over", WITHIN, async || {
        subjects(world).iter().any(|it| it.contains("resolved"))
    })
    .await;
    eprintln!("plan: {:#?}", subjects(world));
    world.mail.clear();

    // A consumer that comes and goes.
    let mut consumer = f.consumer;
    for _ in 0..4 {
        consumer.process.kill().await;
        consumer = world.consume().await;
    }
    is_silent(world, "consumer").await;
}
