//! The live first screen: all viewers share one poll of the stores. Without viewers, nothing polls.

use std::time::{Duration, Instant};

use firstcome_testkit::{LIMIT, OPS_TOKEN, eventually, open_world};
use futures_util::future::join_all;
use reqwest::{Response, StatusCode};

use super::visitor::{VIEW_TOKEN, Visitor};

/// Reads a stream until this many events have arrived.
async fn receive(mut stream: Response, events: usize) -> Response {
    let mut seen: Vec<u8> = Vec::new();
    while String::from_utf8_lossy(&seen).matches("\n\n").count() < events {
        seen.extend_from_slice(&stream.chunk().await.unwrap().expect("the stream continues"));
    }
    stream
}

#[tokio::test]
async fn ten_live_viewers_share_one_poll_a_second_and_nothing_polls_without_viewers() {
    let (world, api) = open_world("ops-looks").await;
    api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let looks = async || {
        daemon
            .http()
            .metric("firstcome_page_looks_total", &[])
            .await
    };
    let mut people = Vec::new();
    for _ in 0..10 {
        people.push(Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await);
    }
    let begun = Instant::now();
    let before = looks().await.unwrap_or(0.0);
    let streams = join_all(people.iter().map(|person| person.get("/live"))).await;
    let streams = join_all(streams.into_iter().map(|stream| receive(stream, 5))).await;
    let grew = looks().await.unwrap() - before;
    let seconds = begun.elapsed().as_secs_f64();
    assert!(
        (4.0..=seconds + 2.0).contains(&grew),
        "{grew} polls in {seconds} s"
    );

    drop(streams);
    // Longer than the interval between two polls.
    let long = Duration::from_secs(4);
    let mut last = (looks().await, Instant::now());
    eventually("nothing is read without viewers", LIMIT, async || {
        let now = looks().await;
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > long
    })
    .await;
}

#[tokio::test]
async fn the_65th_viewer_gets_no_live_updates_and_operators_have_reserved_places() {
    let (world, api) = open_world("ops-seats").await;
    api.open_coupon(3).await;
    let daemon = world.daemon_with(&[("OPS_VIEW_TOKEN", VIEW_TOKEN)]).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let seats = join_all((0..64).map(|_| lee.get("/live"))).await;
    assert!(seats.iter().all(|seat| seat.status() == 200));
    // A browser that gets a 204 does not reconnect.
    assert_eq!(
        (
            lee.get("/live").await.status(),
            kim.get("/live").await.status()
        ),
        (StatusCode::NO_CONTENT, StatusCode::OK)
    );
    assert!(lee.text("/").await.contains("Winter coupon"));
    drop(seats);
    eventually("a seat is free", LIMIT, async || {
        lee.get("/live").await.status() == 200
    })
    .await;
}
