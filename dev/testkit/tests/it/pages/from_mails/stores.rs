//! Stores that are down: Redis, which closes admission, and MySQL, which has the outbox of mails.

use std::time::Duration;

use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{Fixture, LIMIT, WorldStores, eventually, shared};
use serde_json::json;

use super::super::support::until_title;
use super::label::{ALL_LIVE, OPEN_PROBLEMS};
use super::phone::Phone;
use crate::drift::support::{assert_settled, mailed, mailed_within};

/// Longer than the half minute after which a mail reports closed admission.
const HALF_A_MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn following_the_mails_restores_redis_and_mysql() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let f = Fixture::on(
        WorldStores::shared().await.with_redis(&redis),
        "mail-stores",
    )
    .await;
    let (coupon, answers) = f.held("Winter coupon", 20, 12).await;
    let proxy = shared().await.mysql.proxy().await.unwrap();
    let via = shared()
        .await
        .mysql
        .database_url_via(&proxy, f.world.database());
    let daemon = f
        .world
        .daemon_with(&[("DATABASE_URL", &via), ("STORE_TIMEOUT_MS", "1000")])
        .await;
    daemon.reconcile(&json!({})).await;

    redis.kill().await.unwrap();
    assert_eq!(
        daemon.ask(&json!({})).await.status,
        200,
        "a failed pass is recorded"
    );
    let closed = mailed_within(&f.world, &["action needed: Redis "], HALF_A_MINUTE).await;
    // The phone is opened late, because all tests share two browsers.
    let phone = Phone::of_duty(&f.world).await;
    phone.read("mail-admission-closed", &closed).await;
    phone
        .tap(
            &closed,
            "Closed coupons and unavailable stores, in a browser",
        )
        .await;
    phone.shows("Bring Redis back.").await;
    redis.start_again().await.unwrap();
    let is_open = async || f.api.claim(coupon.id, "u-late").await.promised().is_some();
    eventually("admission is open again", LIMIT, is_open).await;
    phone
        .tap_again("mail-admission-closed", &closed, ALL_LIVE)
        .await;
    phone.pass(&["repaired", "nothing found"]).await;
    let open = mailed(&f.world, &["resolved: "]).await;
    phone.read("mail-admission-open", &open).await;
    // The pass or the watch is first to see that it is over.
    if open.text.contains(OPEN_PROBLEMS) {
        phone.tap(&open, OPEN_PROBLEMS).await;
    } else {
        let alerts = format!("{}/alerts", daemon.http().base());
        phone.browser.visit(&alerts).await;
    }
    phone.shows("No alert is open.").await;
    phone
        .tap_again(
            "mail-admission-closed",
            &closed,
            "Closed coupons and unavailable stores, in a browser",
        )
        .await;
    until_title(&phone.browser, "Everything is as promised").await;

    proxy.set(ProxyFault::Cut).await.unwrap();
    daemon.ask(&json!({})).await;
    let gone = mailed_within(&f.world, &["action needed: MySQL "], HALF_A_MINUTE).await;
    phone.read("mail-mysql-gone", &gone).await;
    phone
        .tap(&gone, "Closed coupons and unavailable stores, in a browser")
        .await;
    phone.shows("MySQL does not answer: rows come late").await;
    proxy.set(ProxyFault::Pass).await.unwrap();
    until_title(&phone.browser, "Everything is as promised").await;
    daemon.reconcile(&json!({})).await;
    let back = mailed(&f.world, &["resolved: outage of MySQL"]).await;
    phone.read("mail-mysql-back", &back).await;
    phone.tap(&back, OPEN_PROBLEMS).await;
    phone.shows("No alert is open.").await;
    assert_settled(&f.world, &coupon, 20, 13, &answers).await;
}
