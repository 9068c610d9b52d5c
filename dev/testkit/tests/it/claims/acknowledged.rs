//! Linearizability of the answers: once one process has acknowledged a claim, every other process
//! confirms it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::drift::support::lose_rows;
use firstcome_testkit::{
    Answer, ApiClient, Fixture, MadeCoupon, all_issued, coupon_body, eventually,
};
use serde_json::{Value, json};

/// Returns the number of acknowledged claims to make. A release needs 100,000
/// (docs/RELIABILITY.md).
fn wanted() -> usize {
    std::env::var("ACKNOWLEDGED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000)
}

const AT_A_TIME: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn every_process_confirms_acknowledged_claims_during_changes_and_repairs() {
    let fixture = Fixture::new("acknowledged").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let daemon = world
        .daemon_with(&[("RECONCILE_CRON", "* * * * * *")])
        .await;
    let coupon = api
        .create_coupon(&coupon_body("Acknowledged", 100, 0))
        .await;
    let done = AtomicBool::new(false);
    let operators = async {
        let mut changes = 0;
        while !done.load(Ordering::Relaxed) {
            changes += operate(api, &coupon).await;
        }
        changes
    };
    let passes = async || {
        world
            .sql
            .number("SELECT COUNT(*) FROM reconcile_runs")
            .await
    };
    let deleting = async {
        while !done.load(Ordering::Relaxed) {
            let some = format!(
                "DELETE FROM issued_coupons WHERE drop_id = {} ORDER BY RAND() LIMIT 2",
                coupon.drop
            );
            world.sql.query(&some).await;
            let before = passes().await;
            eventually("another pass", Duration::from_secs(30), async || {
                done.load(Ordering::Relaxed) || passes().await > before
            })
            .await;
        }
        lose_rows(world, &coupon, "< 4").await;
    };
    let (wanted, changes, ()) =
        tokio::join!(everybody(&fixture, &coupon, &done), operators, deleting);
    all_issued(world, coupon.drop, wanted).await;
    assert!(changes > 3, "{changes} changes");
    let applied = "SELECT COALESCE(SUM(applied), 0) FROM reconcile_runs";
    eventually("a pass is recorded", Duration::from_secs(30), async || {
        world.sql.number(applied).await > 0
    })
    .await;
    let statement = "SELECT COUNT(*) FROM broken_promises";
    assert_eq!(world.sql.number(statement).await, 0);
    assert_eq!(daemon.process.stop().await, 0);
    println!(
        "{wanted} acknowledged, {changes} changes of operators, {} repairs",
        world.sql.number(applied).await
    );
}

/// Lets each user claim at one API and immediately afterwards at the other. Returns the number of
/// users.
async fn everybody(fixture: &Fixture, coupon: &MadeCoupon, done: &AtomicBool) -> usize {
    let wanted = wanted();
    let next = AtomicUsize::new(0);
    let other = fixture.world.serve().await;
    let apis: [&ApiClient; 2] = [&fixture.api, &other];
    let asking = (0..AT_A_TIME).map(async |_| {
        let mut slots = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= wanted {
                return slots;
            }
            let first = apis[number % 2];
            let second = apis[(number + 1) % 2];
            slots.push(acknowledged(first, second, coupon, &format!("u-{number}")).await);
        }
    });
    let slots: Vec<u32> = futures_util::future::join_all(asking)
        .await
        .into_iter()
        .flatten()
        .collect();
    done.store(true, Ordering::Relaxed);
    let distinct: BTreeSet<u32> = slots.iter().copied().collect();
    assert_eq!(
        (slots.len(), distinct.len()),
        (wanted, wanted),
        "all slots are distinct"
    );
    assert_eq!(
        distinct.last(),
        Some(&u32::try_from(wanted).unwrap()),
        "no slot is skipped"
    );
    wanted
}

/// Claims at one process until the claim is accepted, then immediately at the other. Returns the
/// slot.
async fn acknowledged(
    first: &ApiClient,
    second: &ApiClient,
    coupon: &MadeCoupon,
    user: &str,
) -> u32 {
    loop {
        match first.claim(coupon.id, user).await {
            Answer::Accepted { drop, slot, .. } => {
                assert_eq!(
                    second.claim(coupon.id, user).await,
                    Answer::Already { drop, slot },
                    "{user}"
                );
                let mine = second.me(coupon.id, user).await;
                assert!(
                    matches!(mine["status"].as_str(), Some("accepted" | "issued")),
                    "{user}: {mine}"
                );
                assert_eq!(mine["slot"], Value::from(slot), "{user}");
                return slot;
            }
            // The claim is refused because an operator changes the coupon, or because the row was
            // deleted while it was read.
            Answer::Problem(409 | 503, _) => tokio::task::yield_now().await,
            other => panic!("{user}: {other:?}"),
        }
    }
}

/// Raises the quantity, pauses, resumes and lowers the quantity once. Returns the number of changes
/// that took effect. The next claim must see each of them.
async fn operate(api: &ApiClient, coupon: &MadeCoupon) -> usize {
    let mut changes = 0;
    let mut change = async |body: Value| {
        let status = api.patch(coupon.id, &body).await.status;
        // The change is refused if more slots were given out meanwhile, or if another process is
        // changing the coupon.
        assert!(matches!(status, 200 | 409 | 503), "{body}: {status}");
        changes += usize::from(status == 200);
        status == 200
    };
    let quantity = |view: &Value| view["current_drop"]["quantity"].as_u64().unwrap();
    let now = quantity(&api.coupon(coupon.id).await);
    change(json!({"quantity": now + 150})).await;
    if change(json!({"paused": true})).await {
        let paused = api.claim(coupon.id, "u-paused").await;
        assert!(paused.is("paused"), "{paused:?}");
    }
    while !change(json!({"paused": false})).await {}
    change(json!({"quantity": now + 50})).await;
    changes
}
