//! User identity, and the state of users' claims.

use std::fmt::Display;

use chrono::Utc;
use firstcome_shared::domain::DropId;
use serde_json::json;

use super::world::{ServeWorld, bearer, open, with};

#[tokio::test]
async fn status_shows_accepted_waiting_issued_and_broken_claims() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(with(open(1), "waiting_list", 5)).await;
    let words: [(&str, &dyn Display); 2] = [("$id", &id), ("$drop", &drop)];
    let table = "
        u-1 looks $id => 200 none drop_id=null slot=null code=null position=null expires_at=null used_at=null
        u-1 claims $id => 202 accepted
        u-2 claims $id => 202 waiting
        u-3 claims $id => 202 waiting
        u-3 looks $id => 200 waiting drop_id=$drop slot=null code=null position=2
        4711 looks 4711 => 404 not_found | there is no coupon 4711
        - GET 04711 => 404 not_found | there is no coupon
        - looks $id => 401 unauthorized
        u-1 looks $id => 200 accepted drop_id=$drop slot=1 code=null position=null expires_at=null used_at=null";
    let mine = api.play(&words, table).await;
    // Caches cannot tell users apart by the gateway's header.
    assert_eq!(mine.headers["cache-control"], "no-store");
    world.issue(id, DropId(drop), 1, "u-1").await;
    world.sql(&format!("INSERT INTO {{db}}.broken_promises (drop_id, user_id, coupon_id, slot, reason, run_id) VALUES ({drop}, 'u-9', {id}, 7, 'test', 'run')")).await;
    let table = "
        u-1 looks $id => 200 status=issued drop_id=$drop slot=1 code=CODE-1 position=null
        u-9 looks $id => 200 broken";
    api.play(&words, table).await;
    let mend = "UPDATE {db}.broken_promises SET mended_at = UTC_TIMESTAMP(3)";
    world.sql(mend).await;
    api.play(&words, "u-9 looks $id => 200 none").await;
}

#[tokio::test]
async fn coupon_ids_are_accepted_in_one_form_and_user_ids_percent_encoded() {
    let world = ServeWorld::new().await;
    let api = world.with("coupon-page", "on").api().await;
    let (id, _) = api.make(open(2)).await;
    let digits = id.to_string();
    let coded: Vec<String> = digits.bytes().map(|it| format!("%{it:02X}")).collect();
    for other in [
        coded.concat(),
        format!("0{id}"),
        format!("+{id}"),
        format!("{id}%20"),
    ] {
        // The user id of the last path equals the coupon's, and must not be read as that.
        let table = r#"
            - GET $other => 404 not_found
            u:1 claims $other => 404 not_found
            u:1 looks $other => 404 not_found
            - GET /c/$other => 404
            - GET /c/$other/state => 404
            ops POST $other/people/$id/revoke {"reason": "x", "by": "y"} => 404"#;
        api.play(&[("$other", &other), ("$id", &id)], table).await;
    }
    let long = format!("{}/{}", "x".repeat(100), "y".repeat(27));
    let table = r#"
        u:1 claims $id => 202 accepted
        ops POST $id/people/u%3A1/revoke {"reason": "x", "by": "y"} => 200 revoked
        $long claims $id => 202 accepted
        ops POST $id/people/$coded/revoke {"reason": "x", "by": "y"} => 200 revoked"#;
    let coded = long.replace('/', "%2F");
    let words: [(&str, &dyn Display); 3] = [("$id", &id), ("$long", &long), ("$coded", &coded)];
    api.play(&words, table).await;
}

/// A row of a revoked user may exist until a pass moves it, for example one that was written by
/// hand, or that a restored MySQL got again. It is not shown while Redis has no slot. A slot may be
/// held until the API has told Redis: then a claim is `already_claimed`, which must not follow
/// `revoked`.
#[tokio::test]
async fn open_revocation_is_shown_although_a_row_exists_but_not_while_redis_shows_a_slot() {
    let world = ServeWorld::new().await;
    let api = world.api().await;
    let (id, drop) = api.make(open(5)).await;
    api.claim(id, "u-2").await.is(202, "accepted");
    world.issue(id, DropId(drop), 3, "u-1").await;
    api.mine(id, "u-1").await.is(503, "unavailable");
    let revoke = "INSERT INTO {db}.revoked_coupons (id, coupon_id, drop_id, user_id, reason, revoked_by, once_per)";
    let revoke = format!(
        "{revoke} SELECT n, c.id, {drop}, CONCAT('u-', n), 'fraud', 'Ann', once_per \
         FROM {{db}}.coupons c, (SELECT 1 AS n UNION SELECT 2) u WHERE c.id = {id}"
    );
    world.sql(&revoke).await;
    let table = "
        u-1 looks $id => 200 revoked
        u-2 looks $id => 503 unavailable
        u-2 claims $id => 200 already_claimed
        u-2 returns $id => 200 revoked
        u-2 looks $id => 200 revoked
        u-2 claims $id => 409 revoked";
    api.play(&[("$id", &id)], table).await;
    let end = "UPDATE {db}.revoked_coupons SET again_from = '2020-01-01'";
    world.sql(end).await;
    api.mine(id, "u-1").await.is(503, "unavailable");
}

#[tokio::test]
async fn user_is_the_subject_of_the_token_and_not_the_header() {
    let world = ServeWorld::new().await;
    let api = world.with_tokens().api().await;
    let (id, drop) = api.make(open(5)).await;
    let before = world.dump().await;
    let token = |user, more| bearer(user, &more);
    let expired = token("u-1", json!({"exp": Utc::now().timestamp() - 3_600}));
    let [good, other, unfit] = ["u-1", "u-2", "u 1"].map(|user| token(user, json!({})));
    let words: [(&str, &dyn Display); 5] = [
        ("$id", &id),
        ("$expired", &expired),
        ("$good", &good),
        ("$other", &other),
        ("$unfit", &unfit),
    ];
    // Of two tokens, a proxy may have checked the other one.
    let table = "
        u-1 claims $id => 401 unauthorized
        - claims $id ; authorization: $expired => 401 unauthorized
        - claims $id ; authorization: $unfit => 400 bad_user_id
        - claims $id ; authorization: $good ; authorization: $good => 400 invalid
        - claims $id ; authorization: $good ; authorization: $other => 400 invalid
        - claims $id ; authorization: $good ; authorization: nonsense => 400 invalid";
    api.play(&words, table).await;
    assert_eq!(world.dump().await, before);
    let table = "u-2 claims $id ; authorization: $good => 202 accepted";
    api.play(&words, table).await;
    let users = &world.keys(id, DropId(drop)).users;
    let score: Option<u32> = world.ask_redis(&["ZSCORE", users, "u-1"]).await;
    assert_eq!(score, Some(1));
}
