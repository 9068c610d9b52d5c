//! The full history of one user, at the endpoint and on the command line.

use chrono::{DateTime, Utc};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, Http};
use reqwest::Method;
use serde_json::{Value, json};

use crate::drift::support::{explained, inject};

/// Fails unless the events are in order, and each of these has a line with all its words.
fn assert_told(story: &Value, events: &[&[&str]]) {
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let happenings = story["happenings"].as_array().unwrap();
    let times = happenings.iter().map(|event| text(event, "at"));
    // Compared as times, not as text: a whole second has no fraction in the text.
    let times: Vec<DateTime<Utc>> = times.filter_map(|at| at.parse().ok()).collect();
    assert!(times.is_sorted(), "not in chronological order: {story:#}");
    for words in events {
        let told = happenings.iter().any(|event| {
            let line = format!("{}: {}", text(event, "source"), text(event, "what"));
            words.iter().all(|word| line.contains(word))
        });
        assert!(told, "no line has {words:?}: {story:#}");
    }
}

#[tokio::test]
async fn explain_covers_an_issued_a_reissued_and_an_unknown_user() {
    let fixture = Fixture::new("d-story").await;
    let world = &fixture.world;
    let daemon = world.daemon().await;
    let (coupon, answers) = fixture.held("Told", 20, 12).await;
    let read = async |path: &str| Http::send(daemon.http().ops(Method::GET, path)).await;
    let path = |coupon: i64, user: &str| format!("/v1/coupons/{coupon}/people/{user}");
    let story = async |user: &str| {
        let reply = read(&path(coupon.id, user)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(explained(world, &coupon, user).await, reply.body);
        reply.body
    };
    let (user, answer) = &answers[0];
    let (drop, slot) = answer.promised().unwrap();
    let told = story(user).await;
    let found = (&told["holds"], &told["slot"], &told["drop_id"]);
    assert_eq!(found, (&json!("issued"), &json!(slot), &json!(drop)));
    let at = format!("slot {slot}");
    let row = ["mysql:", "row", &at, "written by the consumer"];
    assert_told(&told, &[&["redis:", "admitted", &at], &row]);
    assert_eq!(told["no_longer_known"], json!([]), "{told:#}");

    let done = inject(world, &coupon, Drift::FailedClaim, 1).await;
    let user = &done.people[0].user;
    let holds = story(user).await["holds"].clone();
    assert!(holds == "accepted" || holds == "failed", "{holds}");
    let run = world.pass().await;
    let told = story(user).await;
    assert_eq!(told["holds"], "issued");
    let events: [&[&str]; 4] = [
        &["backup:", "failed claim", "firstcome-drift"],
        &["backup:", "dealt with: issued"],
        &["reconciler:", "failed_claim", "issue applied", &run.run_id],
        &["mysql:", "written by the reconciler"],
    ];
    assert_told(&told, &events);

    let told = story("u-nobody").await;
    assert_eq!(
        (&told["holds"], &told["happenings"]),
        (&json!("none"), &json!([]))
    );
    for (path, status) in [(path(424_242, "u-1"), 404), (path(coupon.id, "u%201"), 400)] {
        assert_eq!(read(&path).await.status, status, "{path}");
    }
    let stranger = daemon.http().get(&path(coupon.id, "u-1")).await.status;
    assert_eq!(stranger, 401, "without a token");
}
