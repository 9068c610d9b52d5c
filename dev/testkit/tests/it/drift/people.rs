//! Erasure of users: one user at an operator's request, and all users of old drops.

use firstcome_testkit::{Answer, Fixture, Http, LIMIT, MadeCoupon, coupon_body, eventually};
use reqwest::Method;
use serde_json::json;

use crate::drift::sealing::{closed, until_sealed};
use crate::drift::support::{CLEAN, pass_ends, until_expired};

/// Enables the removal of user IDs from the rows of drops that were sealed long ago.
const RETENTION: (&str, &str) = ("RETENTION_DAYS", "1");

#[tokio::test]
async fn a_user_is_erased_once_their_coupons_are_over_and_nothing_else_changes() {
    let fixture = Fixture::new("d-erase").await;
    let api = &fixture.api;
    let world = &fixture.world;
    world.set("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "1");
    // No pass of the daemon runs beside the test but the first one.
    let daemon = world
        .daemon_with(&[("RECONCILE_CRON", "0 0 0 1 1 *")])
        .await;
    eventually("its first pass has ended", LIMIT, async || {
        daemon.process.log().contains("pass ended")
    })
    .await;
    let erase = async |user: &str| {
        let path = format!("/v1/people/{user}/erase");
        let request = daemon.http().ops(Method::POST, &path);
        let reply = Http::send(request.header("X-Operator", "Kim")).await;
        (reply.status, reply.body.to_string(), reply.body)
    };
    let (coupon, _) = closed(&fixture, "Over").await;
    let (status, log, _) = erase("u-3").await;
    assert!(
        status == 409 && log.contains(&format!("coupon {} is not over", coupon.id)),
        "{status} {log}"
    );
    until_sealed(&fixture, &coupon).await;
    let shown = world
        .sql
        .query("SELECT code FROM issued_coupons WHERE user_id = 'u-3'")
        .await
        .remove(0)
        .remove(0);
    let own = world.redis.own(&format!("{{{}}}:", coupon.id));
    until_expired(world, &own).await;
    let letter = |resolved: &str| {
        format!(
            "INSERT INTO failed_claims (coupon_id, user_id, payload, reason, error, resolved_at) \
             VALUES ({}, 'u-3', 'u-3', 'by hand', 'u-3', {resolved})",
            coupon.id
        )
    };
    world.sql.query(&letter("NULL")).await;
    let of_person = format!("{}, {}, 'u-3', 'u-3'", coupon.drop, coupon.id);
    let promise =
        "INSERT INTO broken_promises (drop_id, coupon_id, user_id, reason, run_id) VALUES";
    let statement = format!("{promise} ({of_person}, 'by-hand')");
    world.sql.query(&statement).await;
    let (status, log, _) = erase("u-3").await;
    assert!(
        status == 409 && log.contains("2 dead letters or broken promises"),
        "{status} {log}"
    );
    let resolve = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand', resolution_detail = 'u-3'";
    world.sql.query(resolve).await;
    let statement = "UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3)";
    world.sql.query(statement).await;
    // This revocation has ended: the user claimed again afterwards.
    let revocation = "INSERT INTO revoked_coupons \
                      (id, drop_id, coupon_id, user_id, reason, revoked_by, may_claim_again, again_from) VALUES";
    let statement = format!("{revocation} (1, {of_person}, 'u-3', TRUE, '2026-01-01')");
    world.sql.query(&statement).await;
    let finding = "INSERT INTO reconcile_findings (drop_id, coupon_id, user_id, detail, run_id, kind, action, result) VALUES";
    let statement = format!("{finding} ({of_person}, 'by-hand', 'unissued', '', 'planned')");
    world.sql.query(&statement).await;
    // No table names users on the waiting list.
    let line = api.create_coupon(&coupon_body("Line", 1, 5)).await;
    assert!(api.claim(line.id, "u-99").await.is_accepted());
    assert!(matches!(
        api.claim(line.id, "u-98").await,
        Answer::Waiting { .. }
    ));
    let (status, log, _) = erase("u-98").await;
    assert!(
        status == 409 && log.contains(&format!("wait in coupon {}", line.id)),
        "{status} {log}"
    );
    let act = r#"INSERT INTO ops_actions (token, action, detail) VALUES ('t', 'revoke', '{"user_id":"u-3","other":"u-37"}')"#;
    world.sql.query(act).await;

    let (status, printed, body) = erase("u-3").await;
    assert_eq!(status, 200, "{printed}");
    let pseudonym = body["pseudonym"].as_str().unwrap();
    assert!(
        pseudonym.starts_with("erased-") && pseudonym.len() == 27,
        "{printed}"
    );
    let rows = format!(
        "SELECT COUNT(*), SUM(user_id = 'u-3'), SUM(user_id = '{pseudonym}') FROM issued_coupons WHERE coupon_id = {}",
        coupon.id
    );
    assert_eq!(world.sql.query(&rows).await, [["20", "0", "1"]]);
    for (table, texts, left) in [
        (
            "failed_claims",
            "COALESCE(payload, error, resolution_detail, 'gone')",
            "gone",
        ),
        (
            "revoked_coupons",
            "CONCAT(reason, ' by ', revoked_by)",
            "erased by erased",
        ),
        ("broken_promises", "reason", "erased"),
        (
            "reconcile_findings WHERE run_id = 'by-hand'",
            "detail",
            "erased",
        ),
    ] {
        let row = world
            .sql
            .query(&format!("SELECT user_id, {texts} FROM {table}"))
            .await;
        assert_eq!(row, [[pseudonym, left]], "{table}");
    }
    let acts =
        "SELECT detail->>'$.user_id', detail->>'$.other' FROM ops_actions WHERE action = 'revoke'";
    assert_eq!(world.sql.query(acts).await, [[pseudonym, "u-37"]]);
    let recorded =
        "SELECT operator, detail->>'$.erased_as' FROM ops_actions WHERE action = 'erase'";
    assert_eq!(world.sql.query(recorded).await, [["Kim", pseudonym]]);
    assert_eq!(api.me(coupon.id, "u-3").await["status"], "none");
    // The code is computed from the user ID, so it must also be erased.
    let code = format!("SELECT code FROM issued_coupons WHERE user_id = '{pseudonym}'");
    let code = world.sql.query(&code).await.remove(0).remove(0);
    assert!(
        code != shown && code.starts_with("erased-") && code != pseudonym,
        "{code}"
    );
    pass_ends(world, &["--deep"], CLEAN).await;
}

#[tokio::test]
async fn users_of_old_drops_are_erased() {
    let fixture = Fixture::new("d-retain").await;
    let (api, world) = (&fixture.api, &fixture.world);
    world.set("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "1");
    let (over, answers) = closed(&fixture, "Over").await;
    let reason = json!({"reason": "u-4 asked", "by": "Kim"});
    api.revoke(over.id, "u-4", &reason).await.unwrap();
    let (kept, _) = fixture.held("Goes on", 5, 5).await;
    until_sealed(&fixture, &over).await;
    let own = world.redis.own(&format!("{{{}}}:", over.id));
    until_expired(world, &own).await;
    let named = async |coupon: &MadeCoupon| {
        let sql = format!(
            "SELECT (SELECT COUNT(*) FROM issued_coupons WHERE coupon_id = {0} AND user_id NOT LIKE 'erased-%') + \
             (SELECT COUNT(*) FROM issued_coupons WHERE coupon_id = {0} AND code NOT LIKE 'erased-%') + \
             (SELECT COUNT(*) FROM revoked_coupons WHERE coupon_id = {0} AND CONCAT(user_id, reason, revoked_by, code) LIKE '%u-4%')",
            coupon.id
        );
        world.sql.number(&sql).await
    };
    let young = [RETENTION, ("FIRSTCOME_TEST_PEOPLE_KEPT_SECONDS", "3600")];
    let old = [RETENTION, ("FIRSTCOME_TEST_PEOPLE_KEPT_SECONDS", "1")];
    for (flags, settings, left) in [
        (&["--deep"][..], &[][..], 39),
        (&["--deep"], &young[..], 39),
        (&["--deep", "--dry-run"], &old[..], 39),
        (&[], &old[..], 39),
        (&["--deep"], &old[..], 0),
    ] {
        let once = world.once_with(flags, settings).await;
        assert_eq!(once.json()["status"], "clean", "{}", once.log);
        assert_eq!(named(&over).await, left, "{flags:?} {settings:?}");
    }
    assert_eq!(named(&kept).await, 10, "the coupon continues");
    assert_eq!(api.me(over.id, &answers[0].0).await["status"], "none");
}
