//! The crowd against a small server that implements the contract.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use firstcome_load::answer::AnswerKind;
use firstcome_load::client::Target;
use firstcome_load::crowd::Crowd;
use firstcome_load::generator::{CrowdPlan, run};
use firstcome_load::tally::{CrowdProgress, Tally};

use super::{listen, system};

async fn crowd_at(url: String, people: u32) -> Tally {
    let crowd = Crowd::gather(people, "p-", 3, 1).unwrap();
    let patience = Duration::from_secs(30);
    let plan = CrowdPlan {
        patience,
        ..CrowdPlan::new(vec![url.parse().unwrap()], 7, crowd, 32)
    };
    run(plan, Arc::new(CrowdProgress::default())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_every_request_and_records_every_promise() {
    let tally = crowd_at(system(100, 0).await, 1_000).await;
    assert_eq!(
        (tally.people, tally.requests, tally.admitted),
        (1_000, 3_000, 100)
    );
    assert_eq!(tally.count(AnswerKind::Accepted), 100);
    assert_eq!(
        tally.count(AnswerKind::AlreadyClaimed) + tally.count(AnswerKind::SoldOut),
        2_900
    );
    assert_eq!(tally.contradictions, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_retry_while_the_system_is_unavailable() {
    let tally = crowd_at(system(10, 50).await, 20).await;
    assert_eq!(tally.count(AnswerKind::Unavailable), 50);
    assert_eq!(
        (tally.requests, tally.admitted, tally.gave_up),
        (110, 10, 0)
    );
}

#[tokio::test]
async fn fails_immediately_if_the_server_is_unreachable() {
    let crowd = Crowd::gather(1, "p-", 1, 1).unwrap();
    let plan = CrowdPlan::new(vec!["http://127.0.0.1:1".parse().unwrap()], 7, crowd, 1);
    let error = run(plan, Arc::new(CrowdProgress::default()))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not answer"), "{error}");
}

/// Starts a server that answers immediately, except for one stall.
async fn stalling(pause: Duration) -> Target {
    let asked = Arc::new(tokio::sync::Mutex::new(0_u32));
    let answer = async move |State(asked): State<Arc<tokio::sync::Mutex<u32>>>| {
        let mut asked = asked.lock().await;
        *asked += 1;
        if *asked == 20 {
            tokio::time::sleep(pause).await;
        }
        (StatusCode::CONFLICT, r#"{"status":409,"code":"sold_out"}"#)
    };
    listen(
        Router::new()
            .route("/v1/coupons/7/claims", post(answer))
            .with_state(asked),
    )
    .await
    .parse()
    .unwrap()
}

async fn asked_at(rate: Option<f64>) -> Tally {
    let target = stalling(Duration::from_millis(500)).await;
    let crowd = Crowd::gather(1_000, "p-", 1, 1).unwrap();
    run(
        CrowdPlan {
            rate,
            ..CrowdPlan::new(vec![target], 7, crowd, 1)
        },
        Arc::new(CrowdProgress::default()),
    )
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn stall_is_visible_in_an_open_loop_and_hidden_in_a_closed_one() {
    let closed = asked_at(None).await;
    let open = asked_at(Some(1_000.0)).await;
    assert!(
        closed.others.p90_ms < 250.0,
        "only one of a thousand waited: {:?}",
        closed.others
    );
    assert!(
        open.others.p90_ms > 250.0,
        "every user who arrived during the stall waited: {:?}",
        open.others
    );
    assert_eq!((closed.late, open.requests), (0, 1_000));
    assert!(open.late > 100, "{}", open.late);
}
