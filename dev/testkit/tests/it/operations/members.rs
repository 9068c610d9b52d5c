//! Costs of an allow list of a million user IDs: to upload it, to restore it in Redis, and to clear
//! it.

use std::time::Instant;

use firstcome_reconciler::report::Status;
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::scale::measured_each;
use firstcome_testkit::{World, WorldStores, coupon_body};
use reqwest::Method;
use serde_json::json;

use super::scale::{most_memory, pass, seconds};

/// User IDs per request.
const AT_ONCE: u32 = 10_000;

/// Returns the API's peak memory in MB, the duration in seconds of the pass that restores the list,
/// the memory of that pass in MB beyond an empty pass, and the time in seconds to clear the list.
async fn measure(people: u32) -> [f64; 4] {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(WorldStores::shared().await.with_redis(&server), "members").await;
    world.open().await;
    let (_, least) = pass(&world, &[]).await;
    let api = world.serve().await;
    let mut body = coupon_body("Members", 10, 0);
    body["allow"] = json!("list");
    let coupon = api.create_coupon(&body).await;
    for from in (0..people).step_by(AT_ONCE as usize) {
        let ids: Vec<String> = (from..from + AT_ONCE)
            .map(|n| format!("member-{n}@example.com"))
            .collect();
        assert_eq!(
            api.try_list(coupon.id, &ids, true).await.unwrap().status,
            200
        );
    }
    let memory = most_memory(&api.process).unwrap();
    let last = format!("member-{}@example.com", people - 1);
    world.redis.command::<()>(&["FLUSHALL"]).await;
    let (run, peak) = pass(&world, &[]).await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    assert!(api.claim(coupon.id, &last).await.promised().is_some());
    let begun = Instant::now();
    let path = format!("/v1/coupons/{}/allow-list", coupon.id);
    let emptied = api.http().ops(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(emptied.status(), 200);
    let emptying = begun.elapsed().as_secs_f64();
    assert!(
        api.claim(coupon.id, "member-1@example.com")
            .await
            .is("not_allowed")
    );
    [memory, seconds(&run), peak - least, emptying]
}

#[tokio::test]
async fn an_allow_list_of_a_million_users_takes_seconds_and_constant_memory() {
    let what = |part: &str| format!("allow list of 1,000,000 ids: {part}");
    let figures = [
        (&*what("memory of the API"), "≤ 60 MB"),
        (
            &what("the pass that writes it to an emptied Redis"),
            "≤ 60 s",
        ),
        (
            &what("memory of that pass over that of an empty one"),
            "≤ 50 MB",
        ),
        (&what("to empty it"), "≤ 60 s"),
    ];
    let [api, took, pass, emptying] = measured_each(figures, [20_000, 1_000_000], measure).await;
    let found = format!("{api} MB; {took} s and {pass} MB; {emptying} s");
    assert!(api < 100.0 && pass < 100.0, "{found}");
}
