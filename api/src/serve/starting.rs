//! What is answered while start-up waits for a store: that this process runs, and does no work yet.
//! A load balancer sends nobody here meanwhile, and a supervisor has no reason to end it.

use std::future::{Future, ready};
use std::time::Duration;

use axum::Router;
use firstcome_shared::http::{self, Limits, Problem, health};
use tokio_util::sync::CancellationToken;

/// Longest wait for the last of these answers.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs `start`, and answers at this socket until it ends. Whoever accepts at the socket after it
/// misses no connection: those of meanwhile wait in the operating system's queue.
pub(super) async fn answer_during<T>(
    socket: std::net::TcpListener,
    limits: Limits,
    start: impl Future<Output = T>,
) -> std::io::Result<T> {
    let started = CancellationToken::new();
    let listener = tokio::net::TcpListener::from_std(socket)?;
    let answering = http::serve(listener, routes(), Limits { drain: DRAIN, ..limits }, started.clone());
    let start = async {
        let ended = start.await;
        started.cancel();
        ended
    };
    Ok(tokio::join!(start, answering).0)
}

fn routes() -> Router {
    let waiting = health::check(|| ready(Err("this process starts; its log names the store it waits for".to_owned())));
    health::routes_without_metrics(vec![("process", waiting)], Vec::new())
        .fallback(async || Problem::unavailable("this server starts, and can't answer this yet: try again"))
}
