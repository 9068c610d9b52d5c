//! Tests the program itself: its output and its routes.

use std::process::Command;

use firstcome_stack::{Janitor, Program, ProxyFault};
use tokio::net::TcpSocket;

use super::world::{ConsumeWorld, LIMIT, until};

/// Sends a GET, and returns status and body.
async fn get(address: &str, path: &str) -> (u16, String) {
    let request = reqwest::Client::new()
        .get(format!("{address}{path}"))
        .timeout(LIMIT);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_reports_its_address_topic_and_health() {
    let (world, drop, proxy, through) = ConsumeWorld::behind_proxy(100).await;
    let janitor = Janitor::start().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstcome-api"));
    command
        .arg("consume")
        .args(world.arguments(&[&through]))
        .env("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "20000");
    let program = Program::start("consume", &mut command, log.path(), &janitor).unwrap();
    let [address, _] = program
        .lines(["listening on ", "consuming "], LIMIT)
        .await
        .unwrap();
    let consuming = format!("consuming {} as {}", world.kafka.topic, world.kafka.group);
    assert_eq!(
        program.stdout(),
        format!("listening on {address}\n{consuming}")
    );
    until("ready", async || get(&address, "/readyz").await.0 == 200).await;
    assert_eq!(get(&address, "/healthz").await.0, 200);
    assert_eq!(get(&address, "/nowhere").await.0, 404);
    // Connect from another address, because the connections of one address are limited.
    let idle = (0..100).map(|_| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        socket.connect(address.trim_start_matches("http://").parse().unwrap())
    });
    let idle = futures_util::future::join_all(idle).await;
    for _ in 0..5 {
        assert_eq!(get(&address, "/healthz").await.0, 200);
    }
    std::mem::drop(idle);

    world.claim(drop, 1..=50).await;
    world.send(vec![(0, None, Some("poison".to_owned()))]).await;
    world.until_rows(50).await;
    let shows = async |line: &str| {
        get(&address, "/metrics")
            .await
            .1
            .lines()
            .any(|shown| shown == line)
    };
    until("rows counted", async || {
        shows("firstcome_consumer_issued_total 50").await
    })
    .await;
    until("poison counted", async || {
        shows("firstcome_consumer_refused_total{reason=\"undecodable\"} 1").await
    })
    .await;

    proxy.set(ProxyFault::Cut).await.unwrap();
    world.claim(drop, 51..=100).await;
    until("not ready", async || {
        get(&address, "/readyz").await.0 == 503
    })
    .await;
    until("lag", async || shows("firstcome_consumer_lag 50").await).await;
    until("MySQL alone is reported", async || {
        let (status, body) = get(&address, "/readyz").await;
        status == 503 && body.contains("\"kafka\":\"ok\"") && body.contains("MySQL")
    })
    .await;
    assert_eq!(get(&address, "/healthz").await.0, 200);
    proxy.set(ProxyFault::Pass).await.unwrap();
    world.until_rows(100).await;
    until("ready again", async || {
        get(&address, "/readyz").await.0 == 200
    })
    .await;
    until("no lag", async || shows("firstcome_consumer_lag 0").await).await;
    assert!(program.stop(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn processes_from_before_the_clock_of_mysql_was_set_back_count_as_stopped() {
    let world = ConsumeWorld::new().await;
    let processes = format!("{}.processes", world.database);
    world
        .query(&format!(
            "INSERT INTO {processes} (id, role, owner, topic, consumer_group, publish_deadline_ms, \
             fallback_deadline_ms, seen_at) \
             VALUES ('old', 'consume', 'host:1', 't', 'g', 0, 0, UTC_TIMESTAMP(3))"
        ))
        .await;
    let seen = async || world.db.processes().await.unwrap().len();
    assert_eq!(seen().await, 1);
    world
        .query(&format!(
            "UPDATE {processes} SET seen_at = seen_at + INTERVAL 1 HOUR"
        ))
        .await;
    assert_eq!(seen().await, 0);
}
