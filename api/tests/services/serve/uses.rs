//! Shops use codes and undo these uses.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::sql_query;
use diesel_async::RunQueryDsl as _;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::codes::code_with_secret;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::world::{
    HttpAnswer, InProcessApi, OPS_TOKEN, REDEEM_TOKEN, ServeWorld, open, until, with,
};

impl InProcessApi {
    async fn shop(&self, method: Method, path: &str, body: &Value) -> HttpAnswer {
        let token = format!("Bearer {REDEEM_TOKEN}");
        let path = format!("/v1/codes/{path}");
        self.ask(
            method,
            &path,
            &[("authorization", &token)],
            body.to_string(),
        )
        .await
    }

    async fn use_code(&self, code: &str, reference: &str) -> HttpAnswer {
        let body = json!({"reference": reference});
        self.shop(Method::PUT, &format!("{code}/use"), &body).await
    }

    async fn undo(&self, code: &str, reference: &str) -> HttpAnswer {
        let path = format!("{code}/use?reference={reference}");
        self.shop(Method::DELETE, &path, &json!({})).await
    }

    async fn code(&self, code: &str) -> HttpAnswer {
        self.shop(Method::GET, code, &json!({})).await
    }
}

impl ServeWorld {
    /// Inserts a user's row with a random code in the form of real ones, and returns the code.
    async fn issue_code(&self, coupon: i64, drop: i64, slot: u32, user: &str) -> String {
        self.issue(coupon, DropId(drop), slot, user).await;
        let code = code_with_secret(DropId(drop), slot, rand::random());
        let set = format!(
            "UPDATE {{db}}.issued_coupons SET code = '{code}' WHERE drop_id = {drop} AND slot = {slot}"
        );
        self.sql(&set).await;
        code
    }
}

/// A coupon with one row, and its code.
struct UsableCode {
    world: ServeWorld,
    api: InProcessApi,
    coupon: i64,
    drop: i64,
    code: String,
}

async fn usable() -> UsableCode {
    let (world, api) = ServeWorld::with_api().await;
    let (coupon, drop) = api.make(open(200)).await;
    let code = world.issue_code(coupon, drop, 1, "u-1").await;
    UsableCode {
        world,
        api,
        coupon,
        drop,
        code,
    }
}

#[tokio::test]
async fn one_reference_uses_a_code_and_its_repetition_gets_the_same_answer() {
    let UsableCode { api, code, .. } = usable().await;
    let first = api.use_code(&code, "order-1").await;
    first.has_status(200);
    let again = api.use_code(&code.to_lowercase(), "order-1").await;
    assert_eq!(first.json, again.json);
    let other = api.use_code(&code, "order-2").await;
    other.is(409, "used");
    assert_eq!(other.json["used_at"], first.json["used_at"]);
    assert!(!other.json.to_string().contains("order-1"), "{other:?}");
    let read = api.code(&code).await;
    assert_eq!(read.json["used_at"], first.json["used_at"]);
    assert_eq!(read.json["uses"], Value::Null);
}

#[tokio::test]
async fn code_of_a_manual_row_is_used_and_wrong_codes_are_counted() {
    let UsableCode {
        world,
        api,
        coupon,
        drop,
        code,
    } = usable().await;
    let insert = format!(
        "INSERT INTO {{db}}.issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope) \
         SELECT {drop}, 2, {coupon}, 'u-2', 'consumer', slot_limit, person_scope FROM {{db}}.slot_limits WHERE drop_id = {drop}"
    );
    world.sql(&insert).await;
    let read =
        format!("SELECT code FROM {{db}}.issued_coupons WHERE drop_id = {drop} AND slot = 2");
    let manual = world.sql(&read).await[0][0].clone();
    api.use_code(&manual, "order-1").await.has_status(200);
    let wrong = |code: &str| {
        let (rest, last) = code.split_at(code.len() - 1);
        rest.to_owned() + if last == "Z" { "Y" } else { "Z" }
    };
    let before = api.metric("firstcome_wrong_codes_total").await;
    for other in [
        &*code_with_secret(DropId(drop), 1, rand::random()),
        &*code_with_secret(DropId(7), 1, rand::random()),
        &*wrong(&code),
        &*wrong(&manual),
        "nothing",
    ] {
        api.use_code(other, "order-2").await.is(404, "not_found");
        api.undo(other, "order-2").await.is(404, "not_found");
        api.code(other).await.is(404, "not_found");
    }
    let counted = api.metric("firstcome_wrong_codes_total").await - before;
    assert!(counted >= 15.0, "{counted}"); // other tests of this process may have more
    let uses = "SELECT COUNT(*) FROM {db}.coupon_uses";
    assert_eq!(world.sql(uses).await, [["1"]]);
}

#[tokio::test]
async fn only_the_redeem_token_uses_codes_and_only_operators_see_references() {
    let UsableCode { api, code, .. } = usable().await;
    let path = format!("/v1/codes/{code}/use");
    let body = json!({"reference": "order-1"});
    api.ask(Method::PUT, &path, &[], body.to_string())
        .await
        .is(401, "unauthorized");
    api.ops(Method::PUT, &path, &body)
        .await
        .is(401, "unauthorized");
    let token = format!("Bearer {REDEEM_TOKEN}");
    let issued = "/v1/coupons/1/issued";
    api.ask(Method::GET, issued, &[("authorization", &token)], "")
        .await
        .is(401, "unauthorized");
    for bad in ["", "with space", &"x".repeat(101), "é"] {
        api.use_code(&code, bad).await.is(400, "invalid");
    }
    let shop = [("authorization", &*token), ("x-operator", "shop-eu")];
    api.ask(Method::PUT, &path, &shop, body.to_string())
        .await
        .has_status(200);
    let seen = api
        .ops(Method::GET, &format!("/v1/codes/{code}"), &json!({}))
        .await;
    let first = &seen.json["uses"][0];
    assert_eq!(first["reference"], "order-1");
    assert_eq!(first["used_by"], "shop-eu");
}

#[tokio::test]
async fn undoing_a_use_needs_a_recorded_reason_from_operators_and_takes_none_from_shops() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    api.use_code(&code, "order-1").await.has_status(200);
    let path = format!("/v1/codes/{code}/use?reference=order-1");
    let refused = api.ops(Method::DELETE, &path, &json!({})).await;
    refused.is(400, "invalid");
    refused.says("reason");
    let reasoned = format!("{path}&reason=cancelled%20by%20phone");
    api.ops(Method::DELETE, &reasoned, &json!({}))
        .await
        .has_status(200);
    let acts = "SELECT detail->>'$.reference', detail->>'$.reason' FROM {db}.ops_actions WHERE action = 'undo_use'";
    let recorded = world.sql(acts).await;
    assert_eq!(recorded, [["order-1", "cancelled by phone"]]);
    let token = format!("Bearer {REDEEM_TOKEN}");
    let headers = [("authorization", &*token)];
    let by_shop = api.ask(Method::DELETE, &reasoned, &headers, "").await;
    by_shop.is(400, "invalid");
}

#[tokio::test]
async fn used_coupon_is_neither_returned_nor_revoked_until_its_use_is_undone() {
    let UsableCode {
        world,
        api,
        coupon,
        drop,
        code,
    } = usable().await;
    let mine = format!("/v1/coupons/{coupon}/claims/me");
    let give_back = async || {
        api.ask(Method::DELETE, &mine, &[("x-user-id", "u-1")], "")
            .await
    };
    let order = json!({"reason": "fraud", "by": "Kim"});
    let revoke = format!("/v1/coupons/{coupon}/people/u-1/revoke");
    api.use_code(&code, "order-1").await.has_status(200);
    give_back().await.is(409, "used");
    api.ops(Method::POST, &revoke, &order).await.is(409, "used");
    let stored = "SELECT (SELECT COUNT(*) FROM {db}.issued_coupons), (SELECT COUNT(*) FROM {db}.revoked_coupons)";
    assert_eq!(world.sql(stored).await, [["1", "0"]]);
    api.undo(&code, "order-1").await.has_status(200);
    give_back().await.has_status(200);
    api.use_code(&code, "order-2").await.is(409, "revoked");
    api.code(&code).await.is(409, "revoked");
    let second = world.issue_code(coupon, drop, 1, "u-2").await;
    api.use_code(&second, "order-2").await.has_status(200);
}

/// A use that waits for a row's lock sees that the row is gone. A read without a lock would not.
#[tokio::test]
async fn use_waits_for_the_lock_of_its_row() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    let db = world.db();
    let (locked, is_locked) = oneshot::channel();
    let (go, may_go) = oneshot::channel();
    let deleting = tokio::spawn(async move {
        db.transaction("delete rows", async move |conn| {
            sql_query("DELETE FROM issued_coupons")
                .execute(conn)
                .await?;
            locked.send(()).unwrap();
            may_go.await.unwrap();
            Ok(())
        })
        .await
    });
    is_locked.await.unwrap();
    let use_code = api.use_code(&code, "order-1");
    let waits = "SELECT COUNT(*) FROM performance_schema.data_lock_waits w JOIN performance_schema.data_locks l \
                 ON l.ENGINE_LOCK_ID = w.REQUESTING_ENGINE_LOCK_ID WHERE l.OBJECT_SCHEMA = '{db}'";
    let delete = async {
        until("the use waits", async || world.sql(waits).await != [["0"]]).await;
        go.send(()).unwrap();
    };
    let (answer, ()) = tokio::join!(use_code, delete);
    deleting.await.unwrap().unwrap();
    answer.is(404, "not_found");
    let uses = "SELECT COUNT(*) FROM {db}.coupon_uses";
    assert_eq!(world.sql(uses).await, [["0"]]);
}

/// The claim is then in Redis alone, and its use is found by the time of admission.
#[tokio::test]
async fn used_coupon_whose_row_was_deleted_is_not_returned() {
    let (world, api) = ServeWorld::with_api().await;
    let (coupon, drop) = api.make(open(2)).await;
    let claimed = api.claim(coupon, "u-1").await;
    claimed.has_status(202);
    let times = world.keys(coupon, DropId(drop)).times;
    let at: String = world.ask_redis(&["HGET", &times, "1"]).await;
    let code = world.issue_code(coupon, drop, 1, "u-1").await;
    let set = format!(
        "UPDATE {{db}}.issued_coupons SET claimed_at = FROM_UNIXTIME({at} / 1000) WHERE drop_id = {drop}"
    );
    world.sql(&format!("SET time_zone = '+00:00'; {set}")).await;
    api.use_code(&code, "order-1").await.has_status(200);
    world.sql("DELETE FROM {db}.issued_coupons").await;
    let mine = format!("/v1/coupons/{coupon}/claims/me");
    let give_back = api.ask(Method::DELETE, &mine, &[("x-user-id", "u-1")], "");
    give_back.await.is(409, "used");
}

#[tokio::test]
async fn rewritten_row_is_still_used_and_the_next_claim_of_its_slot_is_not() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    api.use_code(&code, "order-1").await.has_status(200);
    let columns = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope";
    for statement in [
        format!("CREATE TABLE {{db}}.kept AS SELECT {columns} FROM {{db}}.issued_coupons"),
        "DELETE FROM {db}.issued_coupons".to_owned(),
    ] {
        world.sql(&statement).await;
    }
    api.use_code(&code, "order-2").await.is(404, "not_found");
    let again =
        format!("INSERT INTO {{db}}.issued_coupons ({columns}) SELECT {columns} FROM {{db}}.kept");
    world.sql(&again).await;
    api.use_code(&code, "order-2").await.is(409, "used");
    api.use_code(&code, "order-1").await.has_status(200);
    let later = "UPDATE {db}.issued_coupons SET claimed_at = claimed_at + INTERVAL 1 SECOND";
    world.sql(later).await;
    api.use_code(&code, "order-2").await.has_status(200);
}

#[tokio::test]
async fn expired_code_cannot_be_used_but_an_earlier_use_can_be_repeated_and_undone() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    let used = api.use_code(&code, "order-1").await;
    assert_eq!(used.json["expires_at"], Value::Null);
    world
        .sql("UPDATE {db}.coupons SET valid_until = UTC_TIMESTAMP(3) - INTERVAL 1 SECOND")
        .await;
    let again = api.use_code(&code, "order-1").await;
    assert_eq!(again.json["used_at"], used.json["used_at"]);
    api.undo(&code, "order-1").await.has_status(200);
    api.use_code(&code, "order-2").await.is(410, "expired");
    for (age, status) in [(23, 200), (25, 410)] {
        let reference = format!("order-{age}");
        world
            .sql("UPDATE {db}.coupons SET valid_until = NULL, valid_days = 1")
            .await;
        let claimed = format!(
            "UPDATE {{db}}.issued_coupons SET claimed_at = UTC_TIMESTAMP(3) - INTERVAL {age} HOUR"
        );
        world.sql(&claimed).await;
        let answer = api.use_code(&code, &reference).await;
        answer.has_status(status);
        let read = api.code(&code).await.json;
        let end: DateTime<Utc> = read["expires_at"].as_str().unwrap().parse().unwrap();
        assert_eq!(end < Utc::now(), status == 410, "{read}");
    }
}

#[tokio::test]
async fn code_takes_a_hundred_references_that_used_it_and_more_that_were_undone_before() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    for order in 1..=5 {
        let early = format!("early-{order}");
        api.undo(&code, &early).await.has_status(200);
    }
    let used = "INSERT INTO {db}.coupon_uses (drop_id, slot, claimed_at, reference, used_by, used_at, undone_at) \
        WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 99) \
        SELECT drop_id, slot, claimed_at, CONCAT('order-', i), 'shop', claimed_at, claimed_at FROM n, {db}.issued_coupons";
    world.sql(used).await;
    api.use_code(&code, "order-100").await.has_status(200);
    api.undo(&code, "order-100").await.has_status(200);
    let more = "too_many_references";
    api.use_code(&code, "order-101").await.is(409, more);
    api.undo(&code, "order-101").await.is(409, more);
    api.undo(&code, "order-5").await.has_status(200);
    api.undo(&code, "early-5").await.has_status(200);
}

/// Returns the text as it stands in a path.
fn encoded(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    bytes.concat()
}

#[tokio::test]
async fn code_is_found_however_a_customer_pastes_it() {
    let UsableCode { api, code, .. } = usable().await;
    let wide = |letter: char| char::from_u32(u32::from(letter) + 0xfee0).unwrap();
    for pasted in [
        code.replace('-', ""),
        code.chars().map(wide).collect(),
        code.replace('-', "-\u{200b}"),
        format!("“{code}”."),
    ] {
        let path = encoded(&pasted);
        api.code(&path).await.has_status(200);
        api.use_code(&path, "order-1").await.has_status(200);
    }
    api.undo(&encoded(&format!("({code})")), "order-1")
        .await
        .has_status(200);
}

#[tokio::test]
async fn repetition_by_another_shop_is_counted() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    let before = api.metric("firstcome_uses_of_other_shops_total").await;
    api.use_code(&code, "1001").await.has_status(200);
    api.use_code(&code, "1001").await.has_status(200);
    world
        .sql("UPDATE {db}.coupon_uses SET used_by = 'shop-eu'")
        .await;
    api.use_code(&code, "1001").await.has_status(200);
    let after = api.metric("firstcome_uses_of_other_shops_total").await;
    assert!(after - before >= 1.0, "{before} {after}");
}

/// The answers of one code's requests, one after another.
#[derive(Default)]
struct CodeModel {
    user: Option<usize>,
    undone: BTreeSet<usize>,
}

impl CodeModel {
    fn use_code(&mut self, reference: usize) -> (u16, &'static str) {
        if self.undone.contains(&reference) {
            return (409, "undone");
        }
        if *self.user.get_or_insert(reference) == reference {
            (200, "")
        } else {
            (409, "used")
        }
    }

    fn undo(&mut self, reference: usize) -> (u16, &'static str) {
        let is_new = self.undone.insert(reference);
        self.user = self.user.filter(|user| *user != reference);
        if self.user.is_some() && is_new {
            (409, "used")
        } else {
            (200, "")
        }
    }
}

#[tokio::test]
async fn random_requests_get_the_answers_of_a_small_model() {
    let UsableCode {
        world,
        api,
        coupon,
        drop,
        ..
    } = usable().await;
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    for slot in 2..12 {
        let code = world
            .issue_code(coupon, drop, slot, &format!("u-{slot}"))
            .await;
        let mut model = CodeModel::default();
        for step in 0..20 {
            let order = rng.random_range(0..4);
            let reference = format!("order-{order}");
            let (answer, expected) = if rng.random_bool(0.6) {
                (api.use_code(&code, &reference).await, model.use_code(order))
            } else {
                (api.undo(&code, &reference).await, model.undo(order))
            };
            assert_eq!(
                answer.code(),
                expected,
                "seed {seed}, slot {slot}, step {step}"
            );
        }
    }
}

#[tokio::test]
async fn code_expiry_is_set_and_changed_users_see_it_and_operators_see_uses() {
    let (world, api) = ServeWorld::with_api().await;
    let refused = [
        with(open(5), "valid_until", "2020-01-01T00:00:00Z"),
        with(open(5), "valid_days", 0),
        with(
            with(open(5), "valid_days", 7),
            "valid_until",
            "2100-01-01T00:00:00Z",
        ),
    ];
    for body in refused {
        let answer = api.ops(Method::POST, "/v1/coupons", &body).await;
        answer.is(400, "invalid");
        answer.says("valid_");
    }
    let (coupon, drop) = api.make(with(open(5), "valid_days", 30)).await;
    let path = format!("/v1/coupons/{coupon}");
    assert_eq!(api.get(&path).await.json["valid_days"], 30);
    let code = world.issue_code(coupon, drop, 1, "u-1").await;
    let time = |json: &Value| -> DateTime<Utc> { json.as_str().unwrap().parse().unwrap() };
    let mine = api.mine(coupon, "u-1").await.json;
    let left = time(&mine["expires_at"]) - Utc::now();
    assert_eq!((left.num_days(), &mine["used_at"]), (29, &Value::Null));
    let change = json!({"valid_days": null, "valid_until": "2100-01-01T00:00:00Z"});
    api.patch(coupon, json!({"valid_until": "2100-01-01T00:00:00Z"}))
        .await
        .is(422, "not_possible");
    api.patch(coupon, change).await.has_status(200);
    let used = api.use_code(&code, "=order-1").await;
    assert_eq!(used.json["expires_at"], "2100-01-01T00:00:00Z");
    let mine = api.mine(coupon, "u-1").await.json;
    assert_eq!(mine["used_at"], used.json["used_at"]);
    assert_eq!(mine["expires_at"], "2100-01-01T00:00:00Z");
    world.issue_code(coupon, drop, 2, "u-2").await;
    let issued = api
        .ops(Method::GET, &format!("{path}/issued"), &json!({}))
        .await;
    let issued = &issued.json["issued"];
    assert_eq!(issued[0]["reference"], "=order-1");
    assert_eq!(issued[0]["used_at"], used.json["used_at"]);
    assert_eq!(issued[1]["used_at"], Value::Null);
    let token = format!("Bearer {OPS_TOKEN}");
    let headers = [("authorization", &*token), ("accept", "text/csv")];
    let csv = api
        .ask(Method::GET, &format!("{path}/issued"), &headers, "")
        .await;
    let csv = csv.json.as_str().unwrap().to_owned();
    assert!(csv.lines().nth(1).unwrap().contains(",'=order-1,"), "{csv}");
    api.patch(coupon, json!({"valid_until": "2020-01-01T00:00:00Z"}))
        .await
        .is(422, "not_possible");
}
