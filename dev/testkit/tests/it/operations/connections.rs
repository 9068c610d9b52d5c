//! Memory that the API needs for connections that stay open after long answers.

use firstcome_load::measure::memory_kb;
use firstcome_testkit::World;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::catalogue::fill;

const LONG: usize = 100_000;

/// Opens a connection, requests a long list, and reads it.
async fn connection(address: &str) -> BufReader<TcpStream> {
    let mut connection = BufReader::new(TcpStream::connect(address).await.unwrap());
    connection
        .write_all(b"GET /v1/coupons?limit=1000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(connection.read_line(&mut head).await.unwrap() > 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    assert!(body.len() > LONG, "{head}");
    connection.read_exact(&mut body).await.unwrap();
    connection
}

#[tokio::test]
async fn idle_connections_free_the_memory_of_long_answers() {
    let world = World::new("connections").await;
    fill(&world, 1_000).await;
    let api = world.serve().await;
    let address = api.http().base().trim_start_matches("http://").to_owned();
    let mut open = Vec::new();
    let mut memory = Vec::new();
    for connections in [20, 220] {
        while open.len() < connections {
            open.push(connection(&address).await);
        }
        memory.push(memory_kb(api.process.pid(), "VmRSS").unwrap());
    }
    let more = memory[1].saturating_sub(memory[0]) * 1_000;
    let sent = 200 * LONG as u64;
    assert!(
        more < sent / 2,
        "{more} more bytes for 200 connections that were sent at least {sent}"
    );
}
