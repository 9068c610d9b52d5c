//! User identity, and the state of users' claims.

use firstcome_shared::domain::DropId;
use reqwest::Method;
use serde_json::json;

use super::world::{ServeWorld, bearer, open, with};

#[tokio::test]
async fn status_shows_accepted_waiting_issued_and_broken_claims() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(with(open(1), "waiting_list", 5)).await;
    let state = |status: &str, drop: Option<i64>, slot: Option<u32>, code: Option<&str>| {
        json!({
            "status": status, "drop_id": drop, "slot": slot, "code": code, "position": null,
            "expires_at": null, "used_at": null
        })
    };
    let nothing = state("none", None, None, None);
    assert_eq!(api.mine(id, "u-1").await.json, nothing);
    for user in ["u-1", "u-2", "u-3"] {
        api.claim(id, user).await.has_status(202);
    }
    let accepted = state("accepted", Some(drop), Some(1), None);
    let mine = api.mine(id, "u-1").await;
    // Caches cannot tell users apart by the gateway's header.
    assert_eq!(mine.headers["cache-control"], "no-store");
    assert_eq!(mine.json, accepted);
    let mut waiting = state("waiting", Some(drop), None, None);
    waiting["position"] = json!(2);
    assert_eq!(api.mine(id, "u-3").await.json, waiting);

    world.issue(id, DropId(drop), 1, "u-1").await;
    let issued = state("issued", Some(drop), Some(1), Some("CODE-1"));
    assert_eq!(api.mine(id, "u-1").await.json, issued);

    world.sql(&format!("INSERT INTO {{db}}.broken_promises (drop_id, user_id, coupon_id, slot, reason, run_id) VALUES ({drop}, 'u-9', {id}, 7, 'test', 'run')")).await;
    assert_eq!(api.mine(id, "u-9").await.json["status"], "broken");
    world
        .sql("UPDATE {db}.broken_promises SET mended_at = UTC_TIMESTAMP(3)")
        .await;
    assert_eq!(api.mine(id, "u-9").await.json, nothing);

    let missing = api.mine(4_711, "u-1").await;
    assert_eq!(
        (missing.code(), &missing.json["detail"]),
        ((404, "not_found"), &json!("there is no coupon 4711"))
    );
    assert_eq!(
        api.get("/v1/coupons/04711").await.json["detail"],
        "there is no coupon \"04711\""
    );
    api.get(&format!("/v1/coupons/{id}/claims/me"))
        .await
        .is(401, "unauthorized");
}

#[tokio::test]
async fn coupon_ids_are_accepted_in_one_form_and_user_ids_percent_encoded() {
    let api = ServeWorld::new()
        .await
        .with("coupon-page", "on")
        .api()
        .await;
    let (id, _) = api.make(open(1)).await;
    let coded = id
        .to_string()
        .bytes()
        .map(|digit| format!("%{digit:02X}"))
        .collect::<Vec<_>>()
        .concat();
    for other in [
        coded,
        format!("0{id}"),
        format!("+{id}"),
        format!("{id}%20"),
    ] {
        for (method, rest) in [
            (Method::GET, ""),
            (Method::POST, "/claims"),
            (Method::GET, "/claims/me"),
        ] {
            let path = format!("/v1/coupons/{other}{rest}");
            let answer = api.ask(method, &path, &[("x-user-id", "u:1")], "").await;
            assert_eq!(answer.code(), (404, "not_found"), "{path}");
        }
        for path in [format!("/c/{other}"), format!("/c/{other}/state")] {
            assert_eq!(api.get(&path).await.status, 404, "{path}");
        }
        // The user id in the path equals the coupon's ID and must not be read as a coupon ID.
        let path = format!("/v1/coupons/{other}/people/{id}/revoke");
        assert_eq!(
            api.ops(Method::POST, &path, &json!({"reason": "x", "by": "y"}))
                .await
                .status,
            404,
            "{path}"
        );
    }
    let (id, _) = api.make(open(2)).await;
    let long = format!("{}/{}", "x".repeat(100), "y".repeat(27));
    for (user, encoded) in [("u:1", "u%3A1"), (&long, &long.replace('/', "%2F"))] {
        api.claim(id, user).await.has_status(202);
        let path = format!("/v1/coupons/{id}/people/{encoded}/revoke");
        let revoked = api
            .ops(Method::POST, &path, &json!({"reason": "x", "by": "y"}))
            .await;
        assert_eq!(revoked.code(), (200, "revoked"), "{revoked:?}");
    }
}

/// A row of a revoked user may exist until a pass moves it, for example one that was written by
/// hand.
#[tokio::test]
async fn user_with_an_open_revocation_is_revoked_although_a_row_exists() {
    let world = ServeWorld::new().await;
    let api = world.api().await;
    let (id, drop) = api.make(open(5)).await;
    world.issue(id, DropId(drop), 1, "u-1").await;
    let status = async || api.mine(id, "u-1").await.json["status"].clone();
    assert_eq!(status().await, "issued");
    let revoke = "INSERT INTO {db}.revoked_coupons (id, coupon_id, drop_id, user_id, reason, revoked_by, once_per)";
    let revoke = format!(
        "{revoke} SELECT 1, id, {drop}, 'u-1', 'fraud', 'Ann', once_per FROM {{db}}.coupons WHERE id = {id}"
    );
    world.sql(&revoke).await;
    assert_eq!(status().await, "revoked");
    let end = "UPDATE {db}.revoked_coupons SET again_from = '2020-01-01'";
    world.sql(end).await;
    assert_eq!(status().await, "issued", "of a later claim");
}

#[tokio::test]
async fn user_is_the_subject_of_the_token_and_not_the_header() {
    let world = ServeWorld::new().await;
    let api = world.with_tokens().api().await;
    let (id, drop) = api.make(open(5)).await;
    let path = format!("/v1/coupons/{id}/claims");
    let before = world.dump().await;
    let ask = async |headers: &[(&str, &str)]| api.ask(Method::POST, &path, headers, "").await;

    ask(&[("x-user-id", "u-1")]).await.is(401, "unauthorized");
    let expired = bearer(
        "u-1",
        &json!({"exp": chrono::Utc::now().timestamp() - 3_600}),
    );
    ask(&[("authorization", &expired)])
        .await
        .is(401, "unauthorized");
    let unfit = bearer("u 1", &json!({}));
    ask(&[("authorization", &unfit)])
        .await
        .is(400, "bad_user_id");
    let good = bearer("u-1", &json!({}));
    for second in [
        good.clone(),
        bearer("u-2", &json!({})),
        "nonsense".to_owned(),
    ] {
        let both = [("authorization", &*good), ("authorization", &*second)];
        ask(&both).await.is(400, "invalid"); // a proxy may have checked the other token
    }
    assert_eq!(world.dump().await, before);

    let claimed = ask(&[("authorization", &good), ("x-user-id", "u-2")]).await;
    claimed.is(202, "accepted");
    let score: Option<u32> = world
        .ask_redis(&["ZSCORE", &world.keys(id, DropId(drop)).users, "u-1"])
        .await;
    assert_eq!(score, Some(1));
}
