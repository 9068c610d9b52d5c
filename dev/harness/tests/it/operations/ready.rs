//! The readiness check before a drop opens.

use chrono::{TimeDelta, Utc};

use crate::prelude::*;

/// Returns the parts that are not ready.
fn faults(answer: &Value) -> Vec<&str> {
    let checks = answer["checks"].as_array().unwrap();
    let faults = checks.iter().filter(|check| check["ready"] == false);
    faults
        .map(|check| check["part"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_coupon_is_ready_before_it_opens_unless_a_part_fails() {
    let fixture = Fixture::new("o-ready").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let mut body = coupon_body("Soon", 20, 0);
    body["schedule"]["opens_at"] = json!(Utc::now() + TimeDelta::minutes(20));
    body["allow"] = json!("list");
    let made = api.http().ops(Method::POST, "/v1/coupons").json(&body);
    let id = Http::send(made).await.body["id"].as_i64().unwrap();
    world.set("FIRSTCOME_TEST_JOBS_SECONDS", "1");
    let daemon = world.daemon().await;
    let reported = async || {
        let run = daemon.ask(&json!({})).await.body;
        let findings = run["findings"].as_array().cloned().unwrap_or_default();
        let mut found = findings.iter().filter(|it| it["kind"] == "not_ready");
        found.next().map(|it| it["detail"].to_string())
    };
    eventually("the opening is reported", LIMIT, async || {
        let detail = reported().await;
        detail.is_some_and(|detail| detail.contains("allow_list: nobody is on it"))
    })
    .await;
    let path = format!("/v1/coupons/{id}/ready");
    let ready = async || daemon.get(&path).await.body;
    eventually("only the list is missing", LIMIT, async || {
        faults(&ready().await) == ["allow_list"]
    })
    .await;
    api.try_list(id, &["u-1".to_owned()], true).await.unwrap();
    eventually("it is ready", LIMIT, async || {
        ready().await["ready"] == true
    })
    .await;
    eventually("it is reported no more", LIMIT, async || {
        reported().await.is_none()
    })
    .await;
    assert_eq!(fixture.consumer.process.stop().await, 0);
    // It counts as running for a minute.
    let later = "UPDATE processes SET seen_at = seen_at - INTERVAL 1 MINUTE WHERE role = 'consume'";
    world.sql.query(later).await;
    eventually("consumers are missed", LIMIT, async || {
        faults(&ready().await).contains(&"consumers")
    })
    .await;
    let unknown = daemon.get("/v1/coupons/1/ready").await;
    assert_eq!(unknown.status, 404);
}
