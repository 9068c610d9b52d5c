//! The screens in the pictures of docs/OPERATIONS.md: a running drop, the pass that repaired it,
//! one user's story, and dead letters.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Browser, Fixture, Look, OPS_TOKEN};
use serde_json::json;

use super::support::{assert_open_to_all, log_in, until, until_text, until_there};
use crate::drift::support::injector;

#[tokio::test]
async fn a_running_drop_its_pass_a_story_and_dead_letters_are_accessible() {
    let f = Fixture::new("page-scenes").await;
    let (coupon, _) = f.held("Winter coupon", 500, 320).await;
    let daemon = f.world.daemon().await;
    daemon.reconcile(&json!({})).await;
    // Spreads the claims over forty seconds, with most of them at the start.
    let instants = format!(
        "UPDATE issued_coupons SET claimed_at = UTC_TIMESTAMP(3) - INTERVAL 100000000 - FLOOR(40000000 * POW(slot / 320, 3)) \
         MICROSECOND, issued_at = claimed_at + INTERVAL 150000 + (slot % 9) * 120000 MICROSECOND WHERE drop_id = {}",
        coupon.drop
    );
    f.world.sql.query(&instants).await;
    // Their codes no longer match their instants.
    f.world
        .sql
        .query("UPDATE code_key SET since = UTC_TIMESTAMP(3)")
        .await;
    let browser = Browser::open(Look {
        width: 1240,
        height: 920,
        ..Look::default()
    })
    .await;
    let base = daemon.http().base();
    browser.visit(base).await;
    log_in(&browser, "Kim", OPS_TOKEN).await;
    until_there(&browser, ".who").await;
    let look = async |name: &str, place: &str, shown: &str| {
        browser.visit(place).await;
        until(
            &browser,
            &format!("document.body.innerText.includes({shown:?})"),
        )
        .await;
        assert_open_to_all(&browser, name).await;
    };
    let drop = format!("{base}/coupons/{}/drops/{}", coupon.id, coupon.drop);
    look(
        "scene-drop",
        &drop,
        "Admissions that had their row within a second",
    )
    .await;

    let mut drift = injector(&f.world, &coupon).await;
    let unissued = drift.make(Drift::Unissued, 3).await.unwrap();
    drift.make(Drift::MissingAdmission, 2).await.unwrap();
    drift.make(Drift::FailedUnrepairable, 2).await.unwrap();
    let run = daemon.reconcile(&json!({})).await.run_id;
    look("scene-pass", &format!("{base}/runs/{run}"), "issued late").await;

    browser.visit(&format!("{base}/people")).await;
    until_there(&browser, "#person").await;
    let id = coupon.id;
    let person = &unissued.people[0].user;
    browser
        .run(&format!(
            "coupon.value = '{id}'; person.value = '{person}'; person.form.requestSubmit()"
        ))
        .await;
    until_text(&browser, "What happened, oldest first").await;
    assert_open_to_all(&browser, "scene-person").await;

    let letters: Vec<String> = (0..14)
        .map(|n| {
            let (reason, error) = [
                ("undecodable", "EOF while parsing a string"),
                ("unknown_drop", "no such drop"),
            ][usize::from(n % 3 == 1)];
            format!(
                "({id}, {}, {n}, 'customer-{n:04}', '{reason}', '{error}')",
                coupon.drop + 40
            )
        })
        .collect();
    let columns = "(coupon_id, drop_id, slot, user_id, reason, error)";
    f.world
        .sql
        .query(&format!(
            "INSERT INTO failed_claims {columns} VALUES {}",
            letters.join(",")
        ))
        .await;
    look(
        "scene-dead-letters",
        &format!("{base}/dead-letters?reason=undecodable"),
        "Discard all that match",
    )
    .await;
}
