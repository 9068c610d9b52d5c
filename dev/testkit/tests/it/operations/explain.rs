//! The full history of one user, at the endpoint and on the command line.

use chrono::{DateTime, Utc};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, Http, MadeCoupon, ReconcilerClient, Running};
use reqwest::Method;
use serde_json::{Value, json};

use crate::drift::support::{explained, inject};

/// Returns the user's history from the endpoint. Fails unless the command line shows the same.
async fn story(
    fixture: &Fixture,
    daemon: &Running<ReconcilerClient>,
    coupon: &MadeCoupon,
    user: &str,
) -> Value {
    let reply = at_the_endpoint(daemon, coupon, user).await;
    let told = explained(&fixture.world, coupon, user).await;
    assert_eq!(
        told, reply,
        "the command line and the endpoint tell the same story"
    );
    told
}

async fn at_the_endpoint(
    daemon: &Running<ReconcilerClient>,
    coupon: &MadeCoupon,
    user: &str,
) -> Value {
    let path = format!("/v1/coupons/{}/people/{user}", coupon.id);
    let reply = Http::send(daemon.http().ops(Method::GET, &path)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body
}

/// Returns the events in order, as `source: what`.
fn lines(story: &Value) -> Vec<String> {
    let happenings = story["happenings"].as_array().unwrap();
    // Compared as times, not as text: a whole second has no fraction in the text, and "Z" sorts
    // after ".".
    let times: Vec<DateTime<Utc>> = happenings
        .iter()
        .filter_map(|h| h["at"].as_str())
        .map(|at| at.parse().unwrap())
        .collect();
    assert!(times.is_sorted(), "not in chronological order: {story:#}");
    happenings
        .iter()
        .map(|h| {
            format!(
                "{}: {}",
                h["source"].as_str().unwrap(),
                h["what"].as_str().unwrap()
            )
        })
        .collect()
}

/// Fails unless some line contains all of these words.
fn assert_told(story: &Value, words: &[&str]) {
    let lines = lines(story);
    assert!(
        lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word))),
        "no line has {words:?}: {story:#}"
    );
}

#[tokio::test]
async fn explain_covers_an_issued_a_reissued_and_an_unknown_user() {
    let fixture = Fixture::new("d-story").await;
    let world = &fixture.world;
    let daemon = world.daemon().await;
    let (coupon, answers) = fixture.held("Told", 20, 12).await;
    let (user, answer) = &answers[0];
    let (drop, slot) = answer.promised().unwrap();
    let told = story(&fixture, &daemon, &coupon, user).await;
    assert_eq!(
        (&told["holds"], &told["slot"], &told["drop_id"]),
        (&json!("issued"), &json!(slot), &json!(drop))
    );
    let at = format!("slot {slot}");
    assert_told(&told, &["redis:", "admitted", &at]);
    assert_told(&told, &["mysql:", "row", &at, "written by the consumer"]);
    assert_eq!(told["no_longer_known"], json!([]), "{told:#}");

    let done = inject(world, &coupon, Drift::FailedClaim, 1).await;
    let user = &done.people[0].user;
    let told = story(&fixture, &daemon, &coupon, user).await;
    assert!(
        ["accepted", "failed"].contains(&told["holds"].as_str().unwrap()),
        "{told:#}"
    );
    let run = world.pass().await;
    let told = story(&fixture, &daemon, &coupon, user).await;
    assert_eq!(told["holds"], "issued");
    assert_told(&told, &["backup:", "failed claim", "firstcome-drift"]);
    assert_told(&told, &["backup:", "dealt with: issued"]);
    assert_told(
        &told,
        &["reconciler:", "failed_claim", "issue applied", &run.run_id],
    );
    assert_told(&told, &["mysql:", "written by the reconciler"]);

    let told = story(&fixture, &daemon, &coupon, "u-nobody").await;
    assert_eq!(
        (&told["holds"], &told["happenings"]),
        (&json!("none"), &json!([])),
        "{told:#}"
    );
    assert!(
        told["conclusion"].as_str().unwrap().contains("no claim"),
        "{told:#}"
    );

    let path = |coupon, user| format!("/v1/coupons/{coupon}/people/{user}");
    for (path, status) in [(path(424_242, "u-1"), 404), (path(coupon.id, "u%201"), 400)] {
        let reply = Http::send(daemon.http().ops(Method::GET, &path)).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    let without_token = daemon.http().get(&path(coupon.id, "u-1")).await;
    assert_eq!(without_token.status, 401);
}
