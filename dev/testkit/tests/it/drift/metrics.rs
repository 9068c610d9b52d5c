//! Metrics of passes, findings, repairs, remaining drift, and mails.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, eventually};
use serde_json::json;

use crate::drift::support::{injector, mailed};

#[tokio::test]
async fn passes_findings_repairs_drift_and_mails_are_counted() {
    let fixture = Fixture::new("d-metrics").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Counted", 20, 20).await;
    let daemon = world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let get = async |name: &str, labels: &[&str]| daemon.http().metric(name, labels).await;
    let own = format!("drop=\"{}\"", coupon.drop);
    assert_eq!(
        get("firstcome_drift", &[&own]).await,
        None,
        "nothing is left"
    );

    let mut injector = injector(world, &coupon).await;
    injector.make(Drift::Unissued, 3).await.unwrap();
    injector.make(Drift::FailedUnrepairable, 2).await.unwrap();
    daemon.reconcile(&json!({})).await;
    let applied = ["kind=\"unissued\"", "result=\"applied\""];
    assert_eq!(
        get("firstcome_findings_total", &["kind=\"unissued\""]).await,
        Some(3.0)
    );
    assert_eq!(get("firstcome_repairs_total", &applied).await, Some(3.0));
    assert_eq!(
        get(
            "firstcome_repairs_total",
            &["kind=\"failed_claim\"", "result=\"skipped\""]
        )
        .await,
        Some(2.0)
    );
    assert_eq!(
        get(
            "firstcome_passes_total",
            &["trigger=\"endpoint\"", "status=\"drift\""]
        )
        .await,
        Some(1.0)
    );
    assert_eq!(
        get("firstcome_drift", &[&own]).await,
        Some(2.0),
        "the remaining drift"
    );
    for stage in ["look", "execute"] {
        let seconds = get(
            "firstcome_pass_stage_seconds_sum",
            &[&format!("stage=\"{stage}\"")],
        )
        .await;
        assert!(
            seconds.is_some_and(|seconds| seconds > 0.0),
            "{stage}: {seconds:?}"
        );
    }
    mailed(world, &["action needed", "Counted"]).await;
    eventually("the mail is counted", LIMIT, async || {
        get("firstcome_mails_total", &["result=\"sent\""]).await >= Some(1.0)
    })
    .await;

    world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3) WHERE resolved_at IS NULL")
        .await;
    daemon.reconcile(&json!({})).await;
    assert_eq!(
        get("firstcome_drift", &[&own]).await,
        None,
        "its series has ended"
    );
    eventually(
        "the age of the last success is visible outside the daemon",
        LIMIT,
        async || {
            fixture
                .api
                .http()
                .metric("reconciler_last_success_age_seconds", &[])
                .await
                .is_some_and(|age| age < 60.0)
        },
    )
    .await;
}
