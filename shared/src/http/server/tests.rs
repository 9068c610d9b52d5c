use std::net::IpAddr;

use axum::body::{Body, Bytes};
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use firstcome_stack::{HogKind, Hogs};
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::super::activity::millis;
use super::*;

/// Larger than all buffers of a connection.
static LARGE: [u8; 1 << 20] = [b'x'; 1 << 20];

/// Starts a server with these limits that runs until the guard is dropped.
async fn server(limits: Limits) -> (SocketAddr, Arc<Notify>, tokio_util::sync::DropGuard) {
    let go_on = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let slow = Arc::clone(&go_on);
    let routes = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/large", get(async || Bytes::from_static(&LARGE)))
        .route("/slow", get(async move || slow.notified().await))
        .route(
            "/events",
            get(async || {
                Sse::new(
                    stream::repeat_with(|| Ok::<_, Infallible>(Event::default().data("now")))
                        .then(paced),
                )
            }),
        )
        .route(
            "/parts",
            get(async || {
                Body::from_stream(
                    stream::iter(0..20)
                        .map(|n| Ok::<_, Infallible>(format!("part {n}\n")))
                        .then(paced),
                )
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, routes, limits, stop.clone()));
    (address, go_on, stop.drop_guard())
}

async fn paced<T>(part: T) -> T {
    tokio::time::sleep(Duration::from_millis(100)).await;
    part
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    let all = async {
        while !text.contains(end) {
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(read) => text.push_str(&String::from_utf8_lossy(&bytes[..read])),
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_is_served_when_idle_connections_fill_the_pool() {
    // Pipelining clients use all available processor time, and each waiting client is accepted
    // before a probe. Ten connections are enough to show this, and even a busy machine then
    // responds in time.
    const CAP: usize = 10;
    let limits = Limits {
        connections: CAP,
        ..Limits::DEFAULT
    };
    let of_address = Limits {
        connections: 10 * CAP,
        connections_of_address: Some(CAP),
        ..Limits::DEFAULT
    };
    for (limits, kinds) in [
        (limits, &HogKind::ALL[..]),
        (of_address, &HogKind::ALL[..3]),
    ] {
        for kind in kinds {
            let (address, ..) = &server(limits).await;
            let hogs = Hogs::start(*address, *kind, "/large", 2 * CAP);
            hogs.have_opened(CAP).await;
            let failed = hogs.failed_probes("/healthz").await;
            assert!(failed.is_empty(), "{kind:?} {limits:?}: {failed:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_in_progress_is_never_aborted_for_a_new_connection() {
    let (address, go_on, _stop) = server(Limits {
        connections: 16,
        ..Limits::DEFAULT
    })
    .await;
    let mut slow = ask(address, "/slow").await;
    let mut events = ask(address, "/events").await;
    let mut parts = ask(address, "/parts").await;
    assert!(
        read_until(&mut events, "data: now")
            .await
            .contains("200 OK")
    );
    let hogs = Hogs::start(address, HogKind::Silent, "/large", 20);
    hogs.have_opened(20).await;
    assert_eq!(hogs.failed_probes("/healthz").await, [""; 0]);
    assert!(
        read_until(&mut parts, "part 19").await.contains("part 19"),
        "a long download ends"
    );
    assert!(
        read_until(&mut events, "data: now")
            .await
            .contains("data: now"),
        "events continue"
    );
    go_on.notify_one();
    assert!(
        read_until(&mut slow, "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200"),
        "a slow answer comes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn address_gets_no_connection_beyond_its_limit_if_all_are_busy() {
    let limits = Limits {
        connections: 10,
        connections_of_address: Some(2),
        ..Limits::DEFAULT
    };
    let (address, go_on, _stop) = server(limits).await;
    let mut slow = [ask(address, "/slow").await, ask(address, "/slow").await];
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        read_until(&mut ask(address, "/healthz").await, "ok").await,
        "",
        "it is closed"
    );
    go_on.notify_waiters();
    assert!(
        read_until(&mut slow[0], "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        read_until(&mut slow[1], "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let next = ask(address, "/healthz").await;
    assert!(
        read_until(&mut { next }, "ok").await.ends_with("ok"),
        "one that waits for its client makes room"
    );
}

#[tokio::test]
async fn response_on_an_old_connection_closes_it() {
    let pool = ConnectionPool::new(&Limits::DEFAULT);
    let epoch = std::time::Instant::now();
    let address = IpAddr::from([192, 0, 2, 7]);
    let of_age = |longest| Activity::new(address, epoch, longest);
    assert!(!pool.is_last_answer(&of_age(Duration::from_secs(60))));
    assert!(pool.is_last_answer(&of_age(Duration::ZERO)));
    let open = pool.admit(SocketAddr::new(address, 4711)).await.unwrap();
    let most = millis(Duration::from_secs(720)) + 1_000;
    assert!(
        (millis(Duration::from_secs(600))..=most).contains(&open.activity.ends_at),
        "{}",
        open.activity.ends_at
    );
}
