use axum::body::Body;
use axum::routing::get;
use futures_util::stream::once;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::*;

/// Starts a server with these limits that runs until the guard is dropped.
async fn server(limits: Limits) -> (SocketAddr, Arc<Notify>, tokio_util::sync::DropGuard) {
    let go_on = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let slow = Arc::clone(&go_on);
    let streaming = Arc::clone(&go_on);
    let stream = async move || {
        let end = once(async move {
            streaming.notified().await;
            Ok::<_, Infallible>("end")
        });
        Body::from_stream(end)
    };
    let routes = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/stream", get(stream))
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

/// Sends a request on a connection that stays open, and returns whether the response ends it.
async fn is_ended_after_a_request(stream: &mut TcpStream) -> bool {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    while !text.ends_with("\r\n\r\nok") {
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "the connection was closed: {text:?}");
        text.push_str(str::from_utf8(&bytes[..read]).unwrap());
    }
    text.contains("connection: close")
}

#[tokio::test]
async fn idle_limit_exceeds_that_of_proxies_and_replaces_the_one_of_the_first_head() {
    assert!(Limits::DEFAULT.idle > Duration::from_secs(60));
    let header_read = Duration::from_millis(100);
    let (address, _, _stop) = server(Limits {
        header_read,
        ..Limits::DEFAULT
    })
    .await;
    let mut used = TcpStream::connect(address).await.unwrap();
    assert!(!is_ended_after_a_request(&mut used).await);
    let mut unused = TcpStream::connect(address).await.unwrap();
    // The unused connection is closed after `header_read`; the used one is idle for as long.
    assert_eq!(unused.read(&mut [0]).await.unwrap(), 0);
    assert!(!is_ended_after_a_request(&mut used).await);
}

#[tokio::test]
async fn new_connection_ends_after_one_response_if_over_half_of_the_places_are_taken() {
    let (address, _, _stop) = server(Limits {
        connections: 4,
        ..Limits::DEFAULT
    })
    .await;
    let mut ends = Vec::new();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        ends.push(is_ended_after_a_request(&mut stream).await);
        open.push(stream);
    }
    assert_eq!(ends, [false, false, true]);
}

#[tokio::test]
async fn connection_is_closed_if_it_stays_idle_or_its_next_head_is_incomplete() {
    let (address, _, _stop) = server(Limits {
        header_read: Duration::from_millis(50),
        idle: Duration::from_millis(300),
        ..Limits::DEFAULT
    })
    .await;
    for begun in ["", "GET /healthz HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asked = Instant::now();
        assert!(!is_ended_after_a_request(&mut stream).await);
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert!(answer(stream).await.is_empty());
        assert!(asked.elapsed() >= Duration::from_millis(290), "{begun}");
    }
}

#[tokio::test]
async fn connection_stays_open_while_a_response_lasts() {
    let (address, go_on, _stop) = server(Limits {
        header_read: Duration::from_millis(50),
        idle: Duration::from_millis(50),
        ..Limits::DEFAULT
    })
    .await;
    for path in ["/slow", "/stream"] {
        let asked = ask(address, path).await;
        // Each unused connection takes `header_read` to be closed. Meanwhile the response lasts
        // longer than both limits.
        for _ in 0..4 {
            let mut unused = TcpStream::connect(address).await.unwrap();
            assert_eq!(unused.read(&mut [0]).await.unwrap(), 0);
        }
        go_on.notify_one();
        let answered = answer(asked).await;
        assert!(answered.starts_with("HTTP/1.1 200"), "{path}");
        assert_eq!(
            answered.contains("end\r\n"),
            path == "/stream",
            "{answered}"
        );
    }
}
