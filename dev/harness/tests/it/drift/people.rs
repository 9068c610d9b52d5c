//! Erasure of users: one user at an operator's request, and all users of old drops.

use firstcome_stack::mysql_connection;
use mysql_async::prelude::Queryable as _;

use crate::drift::sealing::closed;
use crate::drift::support::until_expired;
use crate::prelude::*;
use crate::schema::with_documented_rights;

/// Runs the script that erases a user, with the rights of operators.
async fn erase(world: &World, user: &str) {
    let script = include_str!("../../../../../deploy/erase-user.sql");
    let operator = with_documented_rights(world, "operator").await;
    let mut conn = mysql_connection(&operator).await.unwrap();
    let script = format!("SET @user = '{user}'; {script}");
    conn.query_drop(script).await.unwrap();
}

/// Returns the number of the user's rows in `issued_coupons`.
async fn named(world: &World, user: &str) -> i64 {
    let rows = format!("SELECT COUNT(*) FROM issued_coupons WHERE user_id = '{user}'");
    world.sql.number(&rows).await
}

/// Seals a drop, and waits until its keys have expired.
async fn until_over(world: &World, coupon: &MadeCoupon) {
    until_sealed(world, coupon).await;
    until_expired(world, &world.redis.of_coupon(coupon.id, "")).await;
}

#[tokio::test]
async fn a_user_is_erased_once_their_coupons_are_over_and_nothing_else_changes() {
    let fixture = Fixture::new("d-erase").await;
    let (api, world) = (&fixture.api, &fixture.world);
    world.set("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "1");
    let (coupon, _) = closed(&fixture, "Over").await;
    let MadeCoupon { id, drop, .. } = coupon;
    until_over(world, &coupon).await;
    erase(world, "u-3").await;
    assert_eq!(named(world, "u-3").await, 1, "sealed only now");
    let earlier = "UPDATE drops SET sealed_at = sealed_at - INTERVAL 3 HOUR";
    world.sql.query(earlier).await;
    let own_code = "SELECT code FROM issued_coupons WHERE user_id = 'u-3'";
    let shown = world.sql.query(own_code).await.concat().concat();
    let person = format!("{drop}, {id}, 'u-3', 'u-3'");
    for insert in [
        format!(
            "failed_claims (drop_id, coupon_id, user_id, payload, reason, error) VALUES ({person}, 'by hand', 'u-3')"
        ),
        format!(
            "broken_promises (drop_id, coupon_id, user_id, reason, run_id) VALUES ({person}, 'by-hand')"
        ),
    ] {
        world.sql.query(&format!("INSERT INTO {insert}")).await;
    }
    erase(world, "u-3").await;
    assert_eq!(named(world, "u-3").await, 1, "something is open");
    for end in [
        "failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand', resolution_detail = 'u-3'",
        "broken_promises SET mended_at = UTC_TIMESTAMP(3)",
    ] {
        world.sql.query(&format!("UPDATE {end}")).await;
    }
    for insert in [
        // This revocation has ended: the user claimed again afterwards.
        format!("revoked_coupons (drop_id, coupon_id, user_id, reason, id, revoked_by, may_claim_again, again_from, once_per) \
             SELECT {person}, 1, 'u-3', TRUE, '2026-01-01', once_per FROM coupons WHERE id = {id}"),
        format!("reconcile_findings (drop_id, coupon_id, user_id, detail, run_id, kind, action, result) VALUES ({person}, 'by-hand', 'unissued', '', 'planned')"),
        r#"ops_actions (token, action, detail) VALUES ('t', 'revoke', '{"user_id":"u-3","other":"u-37"}')"#.to_owned(),
    ] {
        world.sql.query(&format!("INSERT INTO {insert}")).await;
    }
    let used = "INSERT INTO coupon_uses (drop_id, slot, claimed_at, reference, used_by, used_at) \
                SELECT drop_id, slot, claimed_at, 'order-1', 'shop', UTC_TIMESTAMP(3) \
                FROM issued_coupons WHERE user_id = 'u-3'";
    world.sql.query(used).await;
    erase(world, "u-3").await;
    let pseudonym = "SELECT user_id FROM issued_coupons WHERE user_id LIKE 'erased-%'";
    let pseudonym = world.sql.query(pseudonym).await.concat().concat();
    let pseudonym = pseudonym.as_str();
    let rows = format!(
        "SELECT COUNT(*), SUM(user_id = 'u-3'), SUM(user_id = '{pseudonym}') FROM issued_coupons WHERE coupon_id = {id}"
    );
    assert_eq!(world.sql.query(&rows).await, [["20", "0", "1"]]);
    for (columns, table, left) in [
        (
            "user_id, COALESCE(payload, error, resolution_detail, 'gone')",
            "failed_claims",
            [pseudonym, "gone"],
        ),
        (
            "user_id, CONCAT(reason, ' by ', revoked_by)",
            "revoked_coupons",
            [pseudonym, "erased by erased"],
        ),
        ("user_id, reason", "broken_promises", [pseudonym, "erased"]),
        (
            "user_id, reference",
            "coupon_uses JOIN issued_coupons USING (drop_id, slot, claimed_at)",
            [pseudonym, "order-1"],
        ),
        (
            "user_id, detail",
            "reconcile_findings WHERE run_id = 'by-hand'",
            [pseudonym, "erased"],
        ),
        (
            "detail->>'$.user_id', detail->>'$.other'",
            "ops_actions WHERE action = 'revoke'",
            [pseudonym, "u-37"],
        ),
        (
            "token, detail->>'$.erased_as'",
            "ops_actions WHERE action = 'erase' ORDER BY id DESC LIMIT 1",
            ["by SQL", pseudonym],
        ),
    ] {
        let row = world
            .sql
            .query(&format!("SELECT {columns} FROM {table}"))
            .await;
        assert_eq!(row, [left], "{table}");
    }
    assert_eq!(api.me(id, "u-3").await["status"], "none");
    // The code is computed from the user ID, so it must also be erased.
    let code = format!("SELECT code FROM issued_coupons WHERE user_id = '{pseudonym}'");
    let code = world.sql.query(&code).await.concat().concat();
    let is_erased = code != shown && code.starts_with("erased-") && code != pseudonym;
    assert!(is_erased, "{code}");
    pass_ends(world, &["--deep"], CLEAN).await;
}

#[tokio::test]
async fn users_of_old_drops_are_erased_by_a_deep_pass_after_the_retention() {
    let fixture = Fixture::new("d-retain").await;
    let (api, world) = (&fixture.api, &fixture.world);
    world.set("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "1");
    let (over, _) = closed(&fixture, "Over").await;
    let reason = json!({"reason": "u-4 asked", "by": "Kim"});
    api.revoke(over.id, "u-4", &reason).await.unwrap();
    let (kept, _) = fixture.held("Goes on", 5, 5).await;
    until_over(world, &over).await;
    let left_of = async |coupon: &MadeCoupon| {
        let sql = format!(
            "SELECT (SELECT COUNT(*) FROM issued_coupons WHERE coupon_id = {0} AND user_id NOT LIKE 'erased-%') + \
             (SELECT COUNT(*) FROM issued_coupons WHERE coupon_id = {0} AND code NOT LIKE 'erased-%') + \
             (SELECT COUNT(*) FROM revoked_coupons WHERE coupon_id = {0} AND CONCAT(user_id, reason, revoked_by, code) LIKE '%u-4%')",
            coupon.id
        );
        world.sql.number(&sql).await
    };
    let valid = |until: &str| {
        let (set, id) = ("UPDATE coupons SET valid_until", over.id);
        format!("{set} = {until} WHERE id = {id}")
    };
    world
        .sql
        .query(&valid("UTC_TIMESTAMP(3) + INTERVAL 1 HOUR"))
        .await;
    world.set("RETENTION_DAYS", "1");
    world.set("FIRSTCOME_TEST_PEOPLE_KEPT_SECONDS", "1");
    pass_ends(world, &["--deep"], CLEAN).await;
    assert_eq!(left_of(&over).await, 39, "its codes can still be used");
    let earlier = async |times: &[&str]| {
        let earlier = times
            .iter()
            .map(|time| format!("{time} = {time} - INTERVAL 1 HOUR"));
        let set = earlier.collect::<Vec<_>>().join(", ");
        let drops = format!("UPDATE drops SET {set} WHERE coupon_id = {}", over.id);
        world.sql.query(&drops).await;
    };
    world.set("FIRSTCOME_TEST_PEOPLE_KEPT_SECONDS", "600");
    world.sql.query(&valid("NULL")).await;
    earlier(&["sealed_at"]).await;
    pass_ends(world, &["--deep"], CLEAN).await;
    assert_eq!(left_of(&over).await, 39, "it closed only now");
    world
        .sql
        .query(&valid("UTC_TIMESTAMP(3) - INTERVAL 1 SECOND"))
        .await;
    earlier(&["opens_at", "closes_at", "sealed_at"]).await;
    pass_ends(world, &["--deep"], CLEAN).await;
    assert_eq!(left_of(&over).await, 39, "a shop may still ask");
    for (flags, days, seconds, left) in [
        (&["--deep"][..], "", "1", 39),
        (&["--deep"], "1", "3600", 39),
        (&["--deep", "--dry-run"], "1", "1", 39),
        (&[], "1", "1", 39),
        (&["--deep"], "1", "1", 0),
    ] {
        world.set("RETENTION_DAYS", days);
        world.set("FIRSTCOME_TEST_PEOPLE_KEPT_SECONDS", seconds);
        pass_ends(world, flags, CLEAN).await;
        assert_eq!(left_of(&over).await, left, "{flags:?} {days} {seconds}");
    }
    assert_eq!(left_of(&kept).await, 10, "the coupon continues");
}
