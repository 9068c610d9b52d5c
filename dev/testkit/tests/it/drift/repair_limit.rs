//! The repair limit: if more users than this would lose the slot that Redis shows, nothing moves
//! until an operator confirms the plan. Rows are never limited.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Answer, Fixture, LIMIT, MadeCoupon, eventually_some, rows};
use serde_json::{Value, json};

use crate::drift::support::{
    BRAKED, REPAIRED, assert_settled, clean_pass, everything, found_in, inject, injector, mailed,
    pass_ends,
};

/// Holds back repairs from the sixth user on.
const LOW: [(&str, &str); 2] = [
    ("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "5"),
    ("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "5"),
];

async fn beyond_the_limit(name: &str) -> Fixture {
    let fixture = Fixture::new(name).await;
    for (setting, value) in LOW {
        fixture.world.set(setting, value);
    }
    fixture
}

/// Puts strangers on held slots of this drop. They would lose them.
async fn conflicts(fixture: &Fixture, coupon: &MadeCoupon, n: u32) {
    inject(&fixture.world, coupon, Drift::SlotConflict, n).await;
}

async fn confirm(fixture: &Fixture, coupon: &MadeCoupon, ends: (i32, &str)) -> Value {
    let args = ["--confirm", "--coupon", &coupon.id.to_string()];
    pass_ends(&fixture.world, &args, ends).await
}

#[tokio::test]
async fn too_many_repairs_wait_for_a_confirmation_and_rows_are_written() {
    let fixture = beyond_the_limit("d-limit").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Suspicious", 100, 90).await;
    let mut damage = injector(world, &coupon).await;
    damage.make(Drift::SlotConflict, 6).await.unwrap();
    let before = everything(world).await;
    let run = pass_ends(world, &[], BRAKED).await;
    let found = found_in(&run, &coupon);
    assert!(
        !found.is_empty() && found.iter().all(|finding| finding.result == "planned"),
        "{found:#?}"
    );
    assert_eq!(before, everything(world).await, "nothing moves");
    let mail = mailed(world, &["action needed", "Suspicious"]).await;
    assert!(mail.text.contains("--confirm"), "{}", mail.text);
    // Rows are not limited.
    damage.make(Drift::Unissued, 20).await.unwrap();
    pass_ends(world, &[], BRAKED).await;
    assert_eq!(rows(world, coupon.drop).await.len(), 90);

    let daemon = world.daemon().await;
    let body = json!({"confirm": true, "coupon_id": coupon.id});
    // The daemon's first pass may be running.
    let reply = eventually_some("no other pass runs", LIMIT, async || {
        let reply = daemon.ask(&body).await;
        if reply.status == 409 {
            Err("another pass runs")
        } else {
            Ok(reply)
        }
    })
    .await;
    assert_eq!(
        (reply.status, &reply.body["status"]),
        (200, &json!("repaired")),
        "{reply:?}"
    );
    let confirmed = "SELECT COUNT(*) FROM reconcile_runs WHERE confirmed AND status = 'repaired'";
    assert_eq!(world.sql.number(confirmed).await, 1);
    // The strangers got free slots.
    assert_settled(world, &coupon, 100, 96, &answers).await;
    clean_pass(world, &coupon).await;
    let shown = "SELECT COUNT(*) FROM held_back";
    assert_eq!(world.sql.number(shown).await, 0, "the plan is applied");
    mailed(world, &["repaired", "Suspicious", "96 of 100 issued"]).await;
}

#[tokio::test]
async fn a_confirmation_covers_only_the_plan_that_was_shown() {
    let fixture = beyond_the_limit("d-limit-grown").await;
    let (coupon, answers) = fixture.held("Grows", 200, 100).await;
    // The limit is ten users.
    conflicts(&fixture, &coupon, 11).await;
    // This plan has not been shown to anybody yet.
    confirm(&fixture, &coupon, BRAKED).await;
    conflicts(&fixture, &coupon, 11).await;
    // The plan is another one than the one that was shown.
    confirm(&fixture, &coupon, BRAKED).await;
    confirm(&fixture, &coupon, REPAIRED).await;
    clean_pass(&fixture.world, &coupon).await;
    // The confirmation has ended, and this plan was never shown.
    conflicts(&fixture, &coupon, 12).await;
    confirm(&fixture, &coupon, BRAKED).await;
    confirm(&fixture, &coupon, REPAIRED).await;
    assert_settled(&fixture.world, &coupon, 200, 134, &answers).await;
}

#[tokio::test]
async fn a_closed_coupon_beyond_the_limit_stays_closed_and_closes_no_other() {
    let fixture = beyond_the_limit("d-limit-closed").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, answers) = fixture.held("Closed", 100, 90).await;
    let (other, _) = fixture.held("Open", 10, 2).await;
    let redis = &world.redis;
    conflicts(&fixture, &coupon, 10).await;
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    let shown = async || {
        let words = ["ZRANGE", &users, "0", "-1", "WITHSCORES"];
        redis.command::<Vec<(String, u32)>>(&words).await
    };
    let before = shown().await;
    let gate = redis.gate(coupon.id);
    redis.command::<()>(&["DEL", &gate]).await;
    pass_ends(world, &[], BRAKED).await;
    assert_eq!(shown().await, before, "nobody is moved");
    let answer = api.claim(coupon.id, "stranger").await;
    assert!(matches!(answer, Answer::Problem(503, _)), "{answer:?}");
    let answer = api.claim(other.id, "stranger").await;
    assert!(
        answer.is_accepted(),
        "only that coupon is closed: {answer:?}"
    );
    confirm(&fixture, &coupon, REPAIRED).await;
    assert_settled(world, &coupon, 100, 100, &answers).await;
    assert!(api.claim(coupon.id, "stranger").await.is("sold_out"));
}

/// Users who are missing in Redis lose nothing that it shows.
#[tokio::test]
async fn lost_keys_are_restored_whatever_the_limit() {
    let fixture = beyond_the_limit("d-limit-keys").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Deleted", 200, 200).await;
    for key in ["users", "count", "free"] {
        let key = world.redis.of_drop(coupon.id, coupon.drop, key);
        world.redis.command::<()>(&["DEL", &key]).await;
    }
    let claimants = world.redis.claimants(coupon.id);
    world.redis.command::<()>(&["DEL", &claimants]).await;
    pass_ends(world, &[], REPAIRED).await;
    assert_settled(world, &coupon, 200, 200, &answers).await;
}
