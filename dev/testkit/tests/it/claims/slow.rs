//! Clients that never read the responses to their requests. (`firstcome-bench slow` measures the
//! latency of other claims meanwhile.)

use firstcome_testkit::{Http, LIMIT, World, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Requests more data than the socket buffers hold, and reads none of it.
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
