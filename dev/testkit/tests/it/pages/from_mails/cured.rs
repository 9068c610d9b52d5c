//! Problems that an operator fixes outside the product. Afterwards a pass that is started from the
//! mail's link finds nothing.

use firstcome_reconciler::report::Status;
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{Fixture, LIMIT, WorldStores, assert_kept, eventually, eventually_some};
use serde_json::json;

use super::label::{ALL_LIVE, THIS_PASS};
use super::phone::Phone;
use crate::drift::support::{assert_settled, assert_whole, mailed, mailed_within};

const THIS_DROP: &str = "This drop, in a browser";

#[tokio::test]
async fn a_wrong_setting_and_a_stopped_consumer_are_fixed_from_mails() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let f = Fixture::on(WorldStores::shared().await.with_redis(&redis), "mail-cured").await;
    let (coupon, answers) = f.held("Winter coupon", 20, 12).await;
    let (spring, _) = f.held("Spring coupon", 20, 3).await;
    // Messages on the topic count as overdue immediately.
    let env = [
        ("FIRSTCOME_TEST_CONSUMER_STALL_SECONDS", "1"),
        ("FIRSTCOME_TEST_RECONCILE_OVERDUE_MS", "1"),
        ("FIRSTCOME_TEST_JOBS_SECONDS", "1"),
    ];
    let daemon = f.world.daemon_with(&env).await;
    let phone = Phone::of_duty(&f.world).await;
    let in_redis = async |words: &[&str]| {
        drop(
            f.world
                .redis
                .command::<firstcome_shared::redis::Value>(words)
                .await,
        );
    };

    let passes_end = async |status: Status| {
        eventually(status.as_str(), LIMIT, async || {
            daemon.reconcile(&json!({})).await.status == status
        })
        .await;
    };

    in_redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    passes_end(Status::Drift).await;
    let mail = mailed(&f.world, &["action needed: Redis may evict admissions"]).await;
    phone.read("mail-unsafe-setting", &mail).await;
    in_redis(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    passes_end(Status::Clean).await;
    phone.tap(&mail, ALL_LIVE).await;
    phone.pass(&["nothing found"]).await;
    let mail = mailed(&f.world, &["resolved: Redis may evict admissions"]).await;
    phone.read("mail-resolved", &mail).await;
    phone.tap(&mail, THIS_PASS).await;
    phone.shows("Pass: nothing found").await;

    assert_eq!(f.consumer.process.stop().await, 0);
    for n in 0..3 {
        assert!(
            f.api
                .claim(coupon.id, &format!("u-waits-{n}"))
                .await
                .is_accepted()
        );
    }
    let stalled = eventually_some("the stalled consumer is mailed", LIMIT, async || {
        daemon.reconcile(&json!({})).await;
        let stalled = f
            .world
            .sql
            .query("SELECT summary FROM alerts WHERE kind = 'stalled' AND status = 'firing'")
            .await;
        stalled.into_iter().flatten().next().ok_or("not yet")
    });
    assert!(stalled.await.contains("has not moved"));
    let mail = mailed(&f.world, &["action needed", "has not moved"]).await;
    phone.read("mail-stalled", &mail).await;
    assert!(f.api.claim(coupon.id, "u-waits-3").await.is_accepted());
    phone.tap(&mail, ALL_LIVE).await;
    // The user has a row again. Only the stopped consumer remains as a problem.
    phone.pass(&["needs a person"]).await;
    assert_whole(&f.world, &coupon, 20, 16).await;

    // A coupon that is closed stays so until the consumer has read everything.
    in_redis(&["DEL", &f.world.redis.gate(spring.id)]).await;
    let closed = mailed_within(
        &f.world,
        &["action needed", "admission is closed"],
        2 * LIMIT,
    )
    .await;
    assert!(
        closed.text.contains("opens by itself once it is verified"),
        "{}",
        closed.text
    );
    assert!(!f.api.claim(spring.id, "u-late").await.is_accepted());

    let _consumer = f.world.consume().await;
    passes_end(Status::Clean).await;
    phone.tap_again("mail-stalled", &mail, ALL_LIVE).await;
    phone.pass(&["nothing found"]).await;
    mailed(&f.world, &["resolved", "has not moved"]).await;
    assert_settled(&f.world, &coupon, 20, 16, &answers).await;
    phone.read("mail-coupon-closed", &closed).await;
    phone.tap(&closed, ALL_LIVE).await;
    phone.pass(&["nothing found"]).await;
    assert!(f.api.claim(spring.id, "u-late").await.is_accepted());
    eventually("the late user's row exists", LIMIT, async || {
        let rows = format!(
            "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}",
            spring.drop
        );
        f.world.sql.number(&rows).await == 4
    })
    .await;
    assert_whole(&f.world, &spring, 20, 4).await;
}

#[tokio::test]
async fn deleted_rows_of_a_sealed_drop_are_restored_from_the_link_in_the_mail() {
    let f = Fixture::new("mail-sealed").await;
    f.world.set("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "1");
    let (coupon, answers) = f.held("Winter coupon", 20, 20).await;
    let daemon = f.world.daemon().await;
    let phone = Phone::of_duty(&f.world).await;
    f.api.change(coupon.id, &json!({"close_now": true})).await;
    let own = f.world.redis.own(&format!("{{{}}}:", coupon.id));
    eventually(
        "the drop is sealed, and Redis has forgotten it",
        LIMIT,
        async || {
            daemon.reconcile(&json!({})).await;
            let names = f.world.redis.names().await;
            let sealed = "SELECT COUNT(*) FROM drops WHERE sealed_at IS NOT NULL";
            f.world.sql.number(sealed).await == 1
                && !names.iter().any(|name| name.starts_with(&own))
        },
    )
    .await;
    for statement in [
        "CREATE TABLE backup AS SELECT drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope FROM issued_coupons",
        "DELETE FROM issued_coupons WHERE slot < 3",
    ] {
        f.world.sql.query(statement).await;
    }
    daemon.reconcile(&json!({"deep": true})).await;
    let mail = mailed(
        &f.world,
        &[
            "action needed: it was sealed with 20 rows, now there are 18",
            "Winter coupon",
        ],
    )
    .await;
    phone.read("mail-sealed", &mail).await;
    phone.tap(&mail, THIS_DROP).await;
    phone.pass(&["needs a person"]).await;
    f.world
        .sql
        .query("INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope) SELECT * FROM backup WHERE slot < 3")
        .await;
    phone.tap_again("mail-sealed", &mail, THIS_DROP).await;
    phone.pass(&["nothing found"]).await;
    mailed(&f.world, &["resolved", "Winter coupon"]).await;
    assert_kept(&f.world, &coupon, &answers, &[]).await;
}
