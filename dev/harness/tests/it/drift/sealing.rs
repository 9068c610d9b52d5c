//! Ended drops are sealed once they are verified as exact. Only deep passes compare them then,
//! MySQL still answers for them, and nothing unseals them.

use firstcome_harness::PromisedAnswer;
use firstcome_stack::Clocks;

use crate::drift::support::{found_in, is_sealed, until_over};
use crate::prelude::*;

/// Creates a drop of 20 slots that are all given out, and that has just closed.
pub(crate) async fn closed(fixture: &Fixture, name: &str) -> (MadeCoupon, Vec<PromisedAnswer>) {
    let (coupon, answers) = fixture.held(name, 20, 20).await;
    let close = json!({"close_now": true});
    fixture.api.change(coupon.id, &close).await;
    (coupon, answers)
}

#[tokio::test]
async fn dead_letters_of_a_sealed_drop_become_rows_or_are_listed_and_unseal_nothing() {
    let fixture = Fixture::new("d-sealed").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (open, _) = closed(&fixture, "Letter").await;
    inject(world, &open, Drift::FailedUnrepairable, 1).await;
    let (coupon, answers) = closed(&fixture, "Over").await;
    // This reconciler's clock is two hours fast. By the right clock and the longest deadline,
    // claims may still be in flight, so the drop must not be sealed.
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("fast").unwrap();
    clock.shift_ms(7_200_000).unwrap();
    let [library, offset] = &clock.env();
    let env = [library, offset].map(|(name, value)| (*name, value.as_str()));
    let late = [env[0], env[1], ("PUBLISH_DEADLINE_MS", "60000")];
    let early = world.once_with(&[], &late).await;
    assert_eq!(early.code, 1, "{}", early.log);
    assert!(!is_sealed(world, &coupon).await, "too early");
    until_sealed(world, &coupon).await;
    assert!(!is_sealed(world, &open).await, "it has a dead letter");
    world.sql.query("DELETE FROM failed_claims").await;
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    let expires = async || world.redis.command::<i64>(&["TTL", &users]).await != -1;
    assert!(expires().await, "the keys of a sealed drop expire");
    // Simulates a reconciler that stopped before it set the expiry.
    let _: i64 = world.redis.command(&["PERSIST", &users]).await;
    // Three kinds of dead letters: the slot has no row, the user has a row, and further below, the
    // slot has the row of another user.
    inject(world, &coupon, Drift::FailedClaim, 1).await;
    inject(world, &coupon, Drift::FailedDuplicate, 1).await;
    pass_ends(world, &[], REPAIRED).await;
    assert!(expires().await, "a later job sees that they do");
    inject(world, &coupon, Drift::FailedSlotTaken, 1).await;
    pass_ends(world, &[], DRIFT).await;
    assert_kept(world, &coupon, &[]).await;
    assert!(is_sealed(world, &coupon).await, "nothing unseals a drop");
    for (user, answer) in &answers {
        let (drop, slot) = answer.promised().unwrap();
        let me = api.me(coupon.id, user).await;
        let is_issued = me["status"] == "issued" && me["slot"] == slot;
        assert!(is_issued, "{user}: {me}");
        let again = api.claim(coupon.id, user).await;
        assert_eq!(again, Answer::Already { drop, slot }, "{user}");
    }
    assert_eq!(api.me(coupon.id, "u-other").await["status"], "none");
    assert!(api.claim(coupon.id, "u-other").await.is("closed"));
    let MadeCoupon { id, drop, .. } = coupon;
    let owe = format!(
        "INSERT INTO broken_promises (drop_id, coupon_id, user_id, reason, run_id) VALUES ({drop}, {id}, 'u-other', 'slot_lost', 'by-hand')"
    );
    world.sql.query(&owe).await;
    pass_ends(world, &[], DRIFT).await;
    let alert = "SELECT name FROM told WHERE kind = 'broken_promise'";
    let of_drop = format!("broken_promise.{id}.{drop}");
    assert_eq!(world.sql.query(alert).await, [[of_drop]]);
}

/// Nothing unseals a drop, so the promise would be broken for good although slots are left.
#[tokio::test]
async fn a_paused_drop_that_owes_a_slot_is_sealed_once_the_user_has_it() {
    let fixture = Fixture::new("d-sealed-owed").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, _) = fixture.held("Owed", 20, 12).await;
    let MadeCoupon { id, drop, .. } = coupon;
    let owe = format!(
        "INSERT INTO broken_promises (drop_id, coupon_id, user_id, reason, run_id) VALUES ({drop}, {id}, 'u-owed', 'slot_lost', 'by-hand')"
    );
    world.sql.query(&owe).await;
    for close in [json!({"paused": true}), json!({"close_now": true})] {
        api.change(id, &close).await;
    }
    until_over(world, &coupon).await;
    let run = pass_ends(world, &[], DRIFT).await;
    assert!(!is_sealed(world, &coupon).await, "{run:#?}");
    let found = found_in(&run, &coupon);
    let mut details = found.iter().map(|finding| &finding.detail);
    let detail = "promised, and gets a slot once the coupon is resumed";
    assert!(details.any(|it| it == detail), "{run:#?}");
    api.change(id, &json!({"paused": false})).await;
    until_sealed(world, &coupon).await;
    assert_eq!(rows(world, drop).await.get(&13).unwrap(), "u-owed");
}

/// The messages of a sealed drop that has lost its rows are read again.
#[tokio::test]
async fn lost_rows_of_a_sealed_drop_come_back_from_the_topic() {
    let fixture = Fixture::new("d-sealed-rows").await;
    let world = &fixture.world;
    let (coupon, _) = closed(&fixture, "Rows").await;
    until_sealed(world, &coupon).await;
    for lost in ["issued_coupons", "topic_positions"] {
        world.sql.query(&format!("DELETE FROM {lost}")).await;
    }
    world.until_rows(&coupon, 20).await;
    assert_kept(world, &coupon, &[]).await;
    // Each late row is one more than the number recorded at sealing. OPERATIONS says how to
    // record the new number.
    let count = "(SELECT COUNT(*) FROM issued_coupons i WHERE i.drop_id = drops.id)";
    let record = format!("UPDATE drops SET sealed_rows = {count} WHERE sealed_at IS NOT NULL");
    world.sql.query(&record).await;
    pass_ends(world, &["--deep"], CLEAN).await;
}
