//! MySQL goes back in time through manual changes, and Redis restores the lost data.
//! `faults::mysql_failover` covers a replica that takes over.

use firstcome_reconciler::report::Kind;
use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    Fixture, MadeCoupon, World, WorldStores, all_issued, assert_exact, assert_nothing_found,
    coupon_body, eventually, kinds, people, rush,
};
use serde_json::json;

use crate::faults::waves::HEALED;

/// Deletes these coupons from MySQL, which will then reuse their IDs.
pub(crate) async fn mysql_loses(world: &World, coupons: &[&MadeCoupon]) {
    for MadeCoupon { id, drop, .. } in coupons {
        for sql in [
            format!("DELETE FROM issued_coupons WHERE drop_id = {drop}"),
            format!("DELETE FROM coupon_allow_list WHERE coupon_id = {id}"),
            format!("DELETE FROM drops WHERE id = {drop}"),
            format!("DELETE FROM coupons WHERE id = {id}"),
        ] {
            world.sql.query(&sql).await;
        }
    }
    for table in ["coupons", "drops"] {
        let statement = format!("ALTER TABLE {table} AUTO_INCREMENT = 1");
        world.sql.query(&statement).await;
    }
}

/// Checks that a coupon has no claims.
async fn assert_unused(fixture: &Fixture, coupon: &MadeCoupon) {
    let world = &fixture.world;
    let claims = rush(&[&*fixture.api], coupon.id, &people(5), 5).await;
    all_issued(world, coupon.drop, 5).await;
    assert_exact(world, coupon, 5, &claims).await;
}

async fn in_doubt(world: &World) -> Vec<Vec<String>> {
    world
        .sql
        .query("SELECT value FROM reconciler_state WHERE name = 'lost_coupons'")
        .await
}

#[tokio::test]
async fn a_mysql_that_lost_a_raised_quantity_and_a_coupon_breaks_no_promise() {
    let fixture = Fixture::new("gone-back").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, mut answers) = fixture.held("Raised", 10, 10).await;
    api.change(coupon.id, &json!({"quantity": 20})).await;
    answers.extend(rush(&[&**api], coupon.id, &people(20)[10..], 10).await);
    all_issued(world, coupon.drop, 20).await;
    // The next ID is far above the others, as after a restore.
    let statement = "ALTER TABLE coupons AUTO_INCREMENT = 1000000";
    world.sql.query(statement).await;
    let (lost, _) = fixture.held("Lost", 10, 5).await;
    assert_eq!(lost.id, 1_000_000);
    for sql in [
        format!(
            "DELETE FROM issued_coupons WHERE drop_id = {} AND slot > 10",
            coupon.drop
        ),
        format!("UPDATE drops SET quantity = 10 WHERE id = {}", coupon.drop),
        format!(
            "UPDATE coupons SET quantity = 10, revision = 1 WHERE id = {}",
            coupon.id
        ),
    ] {
        world.sql.query(&sql).await;
    }
    mysql_loses(world, &[&lost]).await;
    let once = world.once_with(&[], &[]).await;
    // Ten rows are restored, and the lost coupon.
    assert_eq!(
        kinds(&once.run()),
        [(Kind::CountMismatch, 1), (Kind::Unissued, 10 + 1)].into(),
        "{}",
        once.log
    );
    assert_eq!(in_doubt(world).await, [[format!("{0}-{0}", lost.id)]]);
    assert_exact(world, &coupon, 20, &answers).await;
    let other = api.open_coupon(5).await;
    assert!(other.id > lost.id && other.drop > lost.drop, "{other:?}");
    assert_unused(&fixture, &other).await;
    // An operator who does not want the coupon back deletes it from Redis.
    for key in world
        .redis
        .names()
        .await
        .iter()
        .filter(|key| key.contains(&format!("{{{}}}", lost.id)))
    {
        world.redis.command::<i64>(&["DEL", key]).await;
    }
    assert_nothing_found(&world.pass().await);
    assert!(in_doubt(world).await.is_empty());
}

#[tokio::test]
async fn concurrent_apis_never_reuse_coupon_ids_that_mysql_lost() {
    let fixture = Fixture::new("gone-back-two").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let second = world.serve().await;
    let mut body = coupon_body("Listed", 10, 0);
    body["allow"] = json!("list");
    let listed = api.create_coupon(&body).await;
    let closed = api.open_coupon(3).await;
    api.change(closed.id, &json!({"close_now": true})).await;
    mysql_loses(world, &[&listed, &closed]).await;
    let others = futures_util::future::join_all((0..8).map(async |n| {
        let api = if n % 2 == 0 { &**api } else { &*second };
        api.open_coupon(5).await
    }))
    .await;
    for other in &others {
        assert!(
            other.id > closed.id && other.drop > closed.drop,
            "{other:?}"
        );
    }
    // Unlike the lost coupons, the new one is open and has no allow list.
    assert_unused(&fixture, &others[0]).await;
    let once = world.once_with(&[], &[]).await;
    let lost: Vec<_> = once
        .run()
        .all_findings()
        .map(|f| (f.kind, f.coupon_id.map(|c| c.0), f.needs_person))
        .collect();
    assert_eq!(
        lost,
        [listed, closed].map(|c| (Kind::Unissued, Some(c.id), true)),
        "{}",
        once.log
    );
}

#[tokio::test]
async fn no_new_coupon_reuses_an_id_that_mysql_lost_while_redis_is_down() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let proxy = redis.proxy().await.unwrap();
    let stores = WorldStores::shared()
        .await
        .with_redis_at(&redis.url_via(&proxy));
    let world = World::on(stores, "gone-back-away").await;
    // A request gives up after a few queries without an answer.
    world.set("STORE_TIMEOUT_MS", "500");
    let fixture = Fixture::of(world).await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (lost, _) = fixture.held("Lost", 10, 5).await;
    mysql_loses(world, &[&lost]).await;
    let mut made = Vec::new();
    for fault in [ProxyFault::Cut, ProxyFault::BlackHole] {
        proxy.set(fault).await.unwrap();
        let other = api.create_coupon(&coupon_body("Meanwhile", 5, 0)).await;
        assert!(other.id > lost.id && other.drop > lost.drop, "{other:?}");
        proxy.set(ProxyFault::Pass).await.unwrap();
        made.push(other);
    }
    eventually(
        "a pass reports the lost coupon, and opens the others",
        HEALED,
        async || {
            let once = world.once_with(&[], &[]).await;
            once.code == 1
                && once
                    .run()
                    .all_findings()
                    .any(|found| found.coupon_id.is_some_and(|c| c.0 == lost.id))
        },
    )
    .await;
    assert_eq!(in_doubt(world).await, [[format!("{0}-{0}", lost.id)]]);
    for other in &made {
        assert_unused(&fixture, other).await;
    }
}

/// Redis applies the revocation with a user's highest revision number.
#[tokio::test]
async fn a_user_revoked_after_mysql_lost_their_last_revocation_is_refused() {
    let fixture = Fixture::new("gone-back-revoked").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, held) = fixture.held("Revoked", 10, 5).await;
    let user = &held[0].0;
    api.give_back(coupon.id, &held[1].0).await.unwrap();
    let again = json!({"reason": "by mistake", "by": "Kim", "may_claim_again": true});
    api.revoke(coupon.id, user, &again).await.unwrap();
    assert!(api.claim(coupon.id, user).await.is_accepted());
    all_issued(world, coupon.drop, 4).await;
    world.sql.query("DELETE FROM revoked_coupons").await;
    let statement = "ALTER TABLE revoked_coupons AUTO_INCREMENT = 1";
    world.sql.query(statement).await;
    api.revoke(coupon.id, user, &json!({"reason": "fraud", "by": "Kim"}))
        .await
        .unwrap();
    assert!(api.claim(coupon.id, user).await.is("revoked"));
    api.give_back(coupon.id, &held[2].0).await.unwrap();
    assert!(api.claim(coupon.id, &held[2].0).await.is("revoked"));
}
