use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;

/// Starts a server with these limits that runs until the guard is dropped.
async fn server(limits: Limits) -> (SocketAddr, Arc<Notify>, tokio_util::sync::DropGuard) {
    let go_on = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let slow = Arc::clone(&go_on);
    let routes = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/slow", get(async move || slow.notified().await));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, routes, limits, stop.clone()));
    (address, go_on, stop.drop_guard())
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let all = stream.read_to_string(&mut text);
    let read = tokio::time::timeout(Duration::from_secs(10), all).await;
    read.unwrap().unwrap();
    text
}

#[tokio::test]
async fn idle_connections_make_room_after_the_time_limit_and_busy_ones_stay() {
    let (address, go_on, _stop) = server(Limits {
        connections: 3,
        header_read: Duration::from_millis(300),
        ..Limits::DEFAULT
    })
    .await;
    let slow = ask(address, "/slow").await;
    let _idle = [
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    ];
    // The probe waits in the queue until the idle connections are closed.
    assert!(answer(ask(address, "/healthz").await).await.ends_with("ok"));
    go_on.notify_one();
    assert!(answer(slow).await.starts_with("HTTP/1.1 200"));
}
