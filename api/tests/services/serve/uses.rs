//! Shops use codes and undo these uses.

use std::collections::BTreeSet;
use std::fmt::Display;

use chrono::{DateTime, Utc};
use diesel::sql_query;
use diesel_async::RunQueryDsl as _;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::codes::code_with_secret;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::oneshot;

use super::world::{InProcessApi, ServeWorld, open, until, with};

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
    let first = api
        .play(&[("$code", &code)], "shop uses $code order-1 => 200")
        .await;
    let words: [(&str, &dyn Display); 3] = [
        ("$code", &code),
        ("$lower", &code.to_lowercase()),
        ("$at", &first.json["used_at"].as_str().unwrap()),
    ];
    let table = "
        shop uses $lower order-1 => 200 used_at=$at
        shop uses $code order-2 => 409 used used_at=$at | !order-1
        shop reads $code => 200 used_at=$at uses=null";
    api.play(&words, table).await;
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
    let used = "shop uses $code order-1 => 200";
    api.play(&[("$code", &manual)], used).await;
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
        let table = "
            shop uses $code order-2 => 404 not_found
            shop undoes $code order-2 => 404 not_found
            shop reads $code => 404 not_found";
        api.play(&[("$code", &other)], table).await;
    }
    let counted = api.metric("firstcome_wrong_codes_total").await - before;
    assert!(counted >= 15.0, "{counted}"); // other tests of this process may have more
    let uses = "SELECT COUNT(*) FROM {db}.coupon_uses";
    assert_eq!(world.sql(uses).await, [["1"]]);
}

#[tokio::test]
async fn only_the_redeem_token_uses_codes_and_only_operators_see_references() {
    let UsableCode { api, code, .. } = usable().await;
    let table = "
        - uses $code order-1 => 401 unauthorized
        ops uses $code order-1 => 401 unauthorized
        shop GET /v1/coupons/1/issued => 401 unauthorized
        shop uses $code => 400 invalid
        shop uses $code with space => 400 invalid
        shop uses $code $long => 400 invalid
        shop uses $code é => 400 invalid
        shop uses $code order-1 ; x-operator: shop-eu => 200
        ops reads $code => 200 uses.0.reference=order-1 uses.0.used_by=shop-eu";
    let long = "x".repeat(101);
    api.play(&[("$code", &code), ("$long", &long)], table).await;
}

#[tokio::test]
async fn undoing_a_use_needs_a_recorded_reason_from_operators_and_takes_none_from_shops() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    let table = "
        shop uses $code order-1 => 200
        ops undoes $code order-1 => 400 invalid | reason
        ops undoes $code order-1&reason=cancelled%20by%20phone => 200
        shop undoes $code order-1&reason=cancelled%20by%20phone => 400 invalid";
    api.play(&[("$code", &code)], table).await;
    let acts = "SELECT detail->>'$.reference', detail->>'$.reason' FROM {db}.ops_actions WHERE action = 'undo_use'";
    let recorded = world.sql(acts).await;
    assert_eq!(recorded, [["order-1", "cancelled by phone"]]);
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
    let words: [(&str, &dyn Display); 2] = [("$id", &coupon), ("$code", &code)];
    let table = r#"
        shop uses $code order-1 => 200
        u-1 returns $id => 409 used
        ops POST $id/people/u-1/revoke {"reason": "fraud", "by": "Kim"} => 409 used"#;
    api.play(&words, table).await;
    let stored = "SELECT (SELECT COUNT(*) FROM {db}.issued_coupons), (SELECT COUNT(*) FROM {db}.revoked_coupons)";
    assert_eq!(world.sql(stored).await, [["1", "0"]]);
    let table = "
        shop undoes $code order-1 => 200
        u-1 returns $id => 200 revoked
        shop uses $code order-2 => 409 revoked
        shop reads $code => 409 revoked";
    api.play(&words, table).await;
    let second = world.issue_code(coupon, drop, 1, "u-2").await;
    let table = "shop uses $code order-2 => 200";
    api.play(&[("$code", &second)], table).await;
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
    let table = "shop uses $code order-1 => 404 not_found";
    let words: [(&str, &dyn Display); 1] = [("$code", &code)];
    let use_code = api.play(&words, table);
    let waits = "SELECT COUNT(*) FROM performance_schema.data_lock_waits w JOIN performance_schema.data_locks l \
                 ON l.ENGINE_LOCK_ID = w.REQUESTING_ENGINE_LOCK_ID WHERE l.OBJECT_SCHEMA = '{db}'";
    let delete = async {
        until("the use waits", async || world.sql(waits).await != [["0"]]).await;
        go.send(()).unwrap();
    };
    tokio::join!(use_code, delete);
    deleting.await.unwrap().unwrap();
    let uses = "SELECT COUNT(*) FROM {db}.coupon_uses";
    assert_eq!(world.sql(uses).await, [["0"]]);
}

/// The claim is then in Redis alone, and its use is found by the time of admission.
#[tokio::test]
async fn used_coupon_whose_row_was_deleted_is_not_returned() {
    let (world, api) = ServeWorld::with_api().await;
    let (coupon, drop) = api.make(open(2)).await;
    api.claim(coupon, "u-1").await.has_status(202);
    let times = world.keys(coupon, DropId(drop)).times;
    let at: String = world.ask_redis(&["HGET", &times, "1"]).await;
    let code = world.issue_code(coupon, drop, 1, "u-1").await;
    let set = format!(
        "UPDATE {{db}}.issued_coupons SET claimed_at = FROM_UNIXTIME({at} / 1000) WHERE drop_id = {drop}"
    );
    world.sql(&format!("SET time_zone = '+00:00'; {set}")).await;
    let used = "shop uses $code order-1 => 200";
    api.play(&[("$code", &code)], used).await;
    world.sql("DELETE FROM {db}.issued_coupons").await;
    let returned = "u-1 returns $id => 409 used";
    api.play(&[("$id", &coupon)], returned).await;
}

#[tokio::test]
async fn rewritten_row_is_still_used_and_the_next_claim_of_its_slot_is_not() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    let columns = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope";
    let keep = format!("CREATE TABLE {{db}}.kept AS SELECT {columns} FROM {{db}}.issued_coupons");
    let again =
        format!("INSERT INTO {{db}}.issued_coupons ({columns}) SELECT {columns} FROM {{db}}.kept");
    let later = "UPDATE {db}.issued_coupons SET claimed_at = claimed_at + INTERVAL 1 SECOND";
    for (change, table) in [
        (&*keep, "shop uses $code order-1 => 200"),
        (
            "DELETE FROM {db}.issued_coupons",
            "shop uses $code order-2 => 404 not_found",
        ),
        (
            &again,
            "shop uses $code order-2 => 409 used
            shop uses $code order-1 => 200",
        ),
        (later, "shop uses $code order-2 => 200"),
    ] {
        world.sql(change).await;
        api.play(&[("$code", &code)], table).await;
    }
}

#[tokio::test]
async fn expired_code_cannot_be_used_but_an_earlier_use_can_be_repeated_and_undone() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    let used = "shop uses $code order-1 => 200 expires_at=null";
    let used = api.play(&[("$code", &code)], used).await;
    let coupons = async |set: &str| world.sql(&format!("UPDATE {{db}}.coupons SET {set}")).await;
    coupons("valid_until = UTC_TIMESTAMP(3) - INTERVAL 1 SECOND").await;
    let table = "
        shop uses $code order-1 => 200 used_at=$at
        shop undoes $code order-1 => 200
        shop uses $code order-2 => 410 expired";
    let at = used.json["used_at"].as_str().unwrap();
    api.play(&[("$code", &code), ("$at", &at)], table).await;
    coupons("valid_until = NULL, valid_days = 1").await;
    for (age, status) in [(23, 200), (25, 410)] {
        let claimed = format!(
            "UPDATE {{db}}.issued_coupons SET claimed_at = UTC_TIMESTAMP(3) - INTERVAL {age} HOUR"
        );
        world.sql(&claimed).await;
        let table = "
            shop uses $code order-$age => $status
            shop reads $code => 200";
        let words: [(&str, &dyn Display); 3] =
            [("$code", &code), ("$age", &age), ("$status", &status)];
        let read = api.play(&words, table).await.json;
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
        let table = "shop undoes $code early-$order => 200";
        api.play(&[("$code", &code), ("$order", &order)], table)
            .await;
    }
    let used = "INSERT INTO {db}.coupon_uses (drop_id, slot, claimed_at, reference, used_by, used_at, undone_at) \
        WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 99) \
        SELECT drop_id, slot, claimed_at, CONCAT('order-', i), 'shop', claimed_at, claimed_at FROM n, {db}.issued_coupons";
    world.sql(used).await;
    let table = "
        shop uses $code order-100 => 200
        shop undoes $code order-100 => 200
        shop uses $code order-101 => 409 too_many_references
        shop undoes $code order-101 => 409 too_many_references
        shop undoes $code order-5 => 200
        shop undoes $code early-5 => 200";
    api.play(&[("$code", &code)], table).await;
}

#[tokio::test]
async fn repetition_by_another_shop_is_counted() {
    let UsableCode {
        world, api, code, ..
    } = usable().await;
    let before = api.metric("firstcome_uses_of_other_shops_total").await;
    let used = "shop uses $code 1001 => 200";
    api.play(&[("$code", &code)], used).await;
    let by_other = "UPDATE {db}.coupon_uses SET used_by = 'shop-eu'";
    world.sql(by_other).await;
    api.play(&[("$code", &code)], used).await;
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
            let (verb, (status, word)) = if rng.random_bool(0.6) {
                ("uses", model.use_code(order))
            } else {
                ("undoes", model.undo(order))
            };
            let answer = api.send(&format!("shop {verb} {code} order-{order}")).await;
            let place = format!("seed {seed}, slot {slot}, step {step}");
            assert_eq!(answer.code(), (status, word), "{place}");
        }
    }
}

#[tokio::test]
async fn code_expiry_is_set_and_changed_users_see_it_and_operators_see_uses() {
    const LATE: &str = "2100-01-01T00:00:00Z";
    let (world, api) = ServeWorld::with_api().await;
    for body in [
        with(open(5), "valid_until", "2020-01-01T00:00:00Z"),
        with(open(5), "valid_days", 0),
        with(with(open(5), "valid_days", 7), "valid_until", LATE),
    ] {
        let refused = "ops POST /v1/coupons $body => 400 invalid | valid_";
        api.play(&[("$body", &body)], refused).await;
    }
    let (coupon, drop) = api.make(with(open(5), "valid_days", 30)).await;
    api.claim(coupon, "u-1").await.is(202, "accepted");
    let code = world.issue_code(coupon, drop, 1, "u-1").await;
    world.issue_code(coupon, drop, 2, "u-2").await;
    let words: [(&str, &dyn Display); 3] = [("$id", &coupon), ("$code", &code), ("$late", &LATE)];
    let table = "
        - GET $id => 200 valid_days=30
        u-1 looks $id => 200 status=issued used_at=null";
    let mine = api.play(&words, table).await.json;
    let end: DateTime<Utc> = mine["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!((end - Utc::now()).num_days(), 29);
    let table = r#"
        ops PATCH $id {"valid_until": "$late"} => 422 not_possible
        ops PATCH $id {"valid_days": null, "valid_until": "$late"} => 200
        shop uses $code =order-1 => 200 expires_at=$late"#;
    let used = api.play(&words, table).await;
    let table = r#"
        u-1 looks $id => 200 status=issued used_at=$at expires_at=$late
        ops GET $id/issued => 200 issued.0.reference==order-1 issued.0.used_at=$at issued.1.used_at=null
        ops GET $id/issued ; accept: text/csv => 200 | ,'=order-1,
        ops PATCH $id {"valid_until": "2020-01-01T00:00:00Z"} => 422 not_possible"#;
    let at = used.json["used_at"].as_str().unwrap();
    api.play(&words, &table.replace("$at", at)).await;
}
