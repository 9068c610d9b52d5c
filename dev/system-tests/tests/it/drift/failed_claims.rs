//! Manually inserted dead letters: reissued and resolved by the next pass, or left and named in a
//! mail.

use std::time::Duration;

use firstcome_reconciler::report::{Outcome, Status};
use firstcome_testkit::{
    Answer, MadeCoupon, World, assert_clean, assert_exact, given_out, open_world,
};
use serde_json::json;

use crate::drift::support::{ReadMail, read};

#[tokio::test]
async fn manually_inserted_failed_claims_are_reissued_by_the_endpoint() {
    let (world, api) = open_world("by-hand-http").await;
    let daemon = world.daemon().await;
    let (coupon, answers) = given_out(&world, &api).await;
    back_up_by_hand(&world, &coupon, &[3, 5]).await;
    let dry = daemon
        .reconcile(&json!({"dry_run": true, "coupon_id": coupon.id}))
        .await;
    assert!(
        dry.dry_run && dry.all_findings().all(|f| f.result == Outcome::Planned),
        "{dry:#?}"
    );
    assert_eq!(
        world
            .sql
            .number("SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL")
            .await,
        2
    );
    let run = daemon.reconcile(&json!({"coupon_id": coupon.id})).await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    assert_exact(&world, &coupon, 20, &answers).await;
    resolved(&world, 2).await;
    assert_clean(&daemon.reconcile(&json!({})).await, &coupon);
}

/// As an operator would do it: deletes the rows, and inserts the users' claims into the dead-letter
/// table with five columns.
async fn back_up_by_hand(world: &World, coupon: &MadeCoupon, slots: &[u32]) {
    for slot in slots {
        let backup = "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) \
                      SELECT coupon_id, drop_id, slot, user_id, 'by hand' FROM issued_coupons";
        world
            .sql
            .query(&format!(
                "{backup} WHERE drop_id = {} AND slot = {slot}",
                coupon.drop
            ))
            .await;
        world
            .sql
            .query(&format!(
                "DELETE FROM issued_coupons WHERE drop_id = {} AND slot = {slot}",
                coupon.drop
            ))
            .await;
    }
}

/// Checks that this many dead letters are resolved, with the pass and the resolution.
async fn resolved(world: &World, number: usize) {
    let rows = world
        .sql
        .query(
            "SELECT resolution, resolved_by_run FROM failed_claims WHERE resolved_at IS NOT NULL",
        )
        .await;
    assert_eq!(rows.len(), number, "{rows:?}");
    assert!(
        rows.iter()
            .flatten()
            .all(|field| field != "NULL" && !field.is_empty()),
        "{rows:?}"
    );
}

#[tokio::test]
async fn a_failed_claim_of_a_user_unknown_to_redis_is_issued_in_its_slot() {
    let (world, api) = open_world("unseen").await;
    let coupon = api.open_coupon(5).await;
    let by_hand = format!(
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) VALUES ({}, {}, 1, 'by-phone', 'by hand')",
        coupon.id, coupon.drop
    );
    world.sql.query(&by_hand).await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    resolved(&world, 1).await;
    assert_eq!(
        api.claim(coupon.id, "by-phone").await,
        Answer::Already {
            drop: coupon.drop,
            slot: 1
        }
    );
    assert_eq!(
        api.claim(coupon.id, "u-2").await.promised(),
        Some((coupon.drop, 2))
    );
}

#[tokio::test]
async fn a_failed_claim_that_cannot_be_reissued_is_named_masked_in_the_mail() {
    let (world, api) = open_world("left").await;
    let (coupon, answers) = given_out(&world, &api).await;
    let by_hand = format!(
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) VALUES \
         ({0}, {1}, 7, 'unlucky-person-77', 'by hand'), ({0}, 424242, 1, 'lost-person-99', 'by hand')",
        coupon.id, coupon.drop
    );
    world.sql.query(&by_hand).await;
    let daemon = world.daemon().await;
    let run = daemon.reconcile(&json!({})).await;
    assert_eq!(run.status, Status::Drift, "{run:#?}");
    let left = "SELECT user_id FROM failed_claims WHERE resolved_at IS NULL ORDER BY id";
    assert_eq!(
        world.sql.query(left).await,
        [["unlucky-person-77"], ["lost-person-99"]]
    );
    assert_exact(&world, &coupon, 20, &answers).await;

    let whole = |mail: &firstcome_stack::Mail| {
        let ReadMail {
            subject,
            text,
            html,
        } = read(mail);
        subject + &text + &html
    };
    let mail = world
        .mail
        .wait_for(
            |mail| whole(mail).contains("u•••77"),
            Duration::from_secs(20),
        )
        .await
        .unwrap();
    let text = whole(&mail);
    assert!(text.contains("l•••99"), "{text}");
    assert!(
        !text.contains("unlucky-person-77") && !text.contains("lost-person-99"),
        "masked: {text}"
    );
    assert_eq!(mail.to, ["duty@example.com"]);

    let once = world.once_with(&[], &[]).await;
    assert_eq!(once.code, 1, "drift left: {}", once.log);
}
