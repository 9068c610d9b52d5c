//! Clients that hold their sockets and never finish a request. (`firstcome-bench slow` measures the
//! latency of claims meanwhile.)

use std::time::Duration;

use firstcome_testkit::{
    Http, LIMIT, OPS_TOKEN, World, all_issued, assert_exact, eventually, people, rush, tally,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SLOW: usize = 100;

/// Sends the beginning of a request, then an occasional byte, until the server hangs up. Returns
/// the server's output.
async fn dawdles(mut connection: TcpStream, begins: String) -> String {
    connection.write_all(begins.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut some = [0; 512];
    loop {
        match tokio::time::timeout(Duration::from_millis(50), connection.read(&mut some)).await {
            Ok(Ok(0) | Err(_)) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(Ok(read)) => answer.extend(&some[..read]),
            // Nothing yet: send one more byte. If the server has hung up, the next read shows it.
            Err(_) => drop(connection.write_all(b"x").await),
        }
    }
}

#[tokio::test]
async fn slow_clients_are_disconnected_and_counted_while_claims_are_answered() {
    let world = World::new("slow").await;
    let api = world
        .serve_with(&[
            ("FIRSTCOME_TEST_HEADER_READ_TIMEOUT_MS", "3000"),
            ("FIRSTCOME_TEST_REQUEST_TIMEOUT_MS", "3000"),
        ])
        .await;
    world.open().await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(300).await;
    let address = api.http().base().trim_start_matches("http://").to_owned();
    let of_head = "POST /v1/coupons/1/claims HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned();
    let of_body = format!(
        "POST /v1/coupons HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OPS_TOKEN}\r\ncontent-length: 16000\r\n\r\n"
    );
    let (mut heads, mut bodies) = (JoinSet::new(), JoinSet::new());
    for _ in 0..SLOW {
        heads.spawn(dawdles(
            TcpStream::connect(&address).await.unwrap(),
            of_head.clone(),
        ));
        bodies.spawn(dawdles(
            TcpStream::connect(&address).await.unwrap(),
            of_body.clone(),
        ));
    }

    let answers = rush(&[&api], coupon.id, &people(300), 50).await;
    assert_eq!(tally(&answers), [("accepted".into(), 300)].into());
    assert!(
        heads.try_join_next().is_none(),
        "they held their sockets throughout"
    );
    all_issued(&world, coupon.drop, 300).await;
    assert_exact(&world, &coupon, 300, &answers).await;

    let all = async { (heads.join_all().await, bodies.join_all().await) };
    let (_, bodies) = tokio::time::timeout(LIMIT, all)
        .await
        .expect("each is disconnected");
    let refused = bodies
        .iter()
        .filter(|answer| answer.starts_with("HTTP/1.1 503"))
        .count();
    assert_eq!(refused, SLOW, "{}", bodies[0]);
    eventually("they are counted", LIMIT, async || {
        api.http()
            .metric("firstcome_http_connections_timed_out_total", &[])
            .await
            >= Some(100.0)
    })
    .await;
}

/// Requests more than the socket buffers hold, and reads nothing.
async fn never_reads(address: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let asks = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    connection.write_all(asks.as_bytes()).await.unwrap();
    connection
}

#[tokio::test]
async fn clients_that_read_nothing_are_disconnected() {
    let world = World::new("unread").await;
    let api = world
        .serve_with(&[
            ("FIRSTCOME_TEST_HEADER_READ_TIMEOUT_MS", "2000"),
            ("FIRSTCOME_TEST_MAX_CONNECTIONS", "4"),
        ])
        .await;
    let address = api.http().base().trim_start_matches("http://").to_owned();
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(never_reads(&address).await);
    }
    let alive = async || {
        Http::try_send(api.http().request(reqwest::Method::GET, "/healthz"))
            .await
            .is_ok()
    };
    eventually("another client is answered", LIMIT, alive).await;
    drop(unread);
}
