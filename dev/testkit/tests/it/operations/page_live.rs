//! The live first screen: all viewers share one reading of the stores.

use std::time::{Duration, Instant};

use firstcome_testkit::{OPS_TOKEN, open_world};
use futures_util::future::join_all;

use super::visitor::Visitor;

#[tokio::test]
async fn ten_live_viewers_share_one_reading_of_the_stores_a_second() {
    let (world, api) = open_world("ops-looks").await;
    api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let looks = async || {
        let looks = daemon.http().metric("firstcome_page_looks_total", &[]);
        looks.await.unwrap_or(0.0)
    };
    let mut people = Vec::new();
    for _ in 0..10 {
        people.push(Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await);
    }
    let (begun, before) = (Instant::now(), looks().await);
    while begun.elapsed() < Duration::from_secs(3) {
        let answers = join_all(people.iter().map(|person| person.get("/live"))).await;
        assert!(answers.iter().all(|answer| answer.status() == 200));
    }
    let (grew, seconds) = (looks().await - before, begun.elapsed().as_secs_f64());
    assert!(
        (1.0..=seconds * 2.0).contains(&grew),
        "{grew} readings in {seconds} s"
    );
}
