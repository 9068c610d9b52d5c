//! Answers requests while start-up waits for a store: the process is alive but not ready. A load
//! balancer sends it no requests, and a supervisor does not restart it.

use std::future::{Future, ready};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Limits, Problem, health, serve};

/// Time limit for the last responses.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs `start`, and answers requests on this socket until it returns. The server that uses the
/// socket afterwards misses no connection, because new ones wait in the operating system's queue.
pub async fn answer_during<T>(
    socket: &std::net::TcpListener,
    limits: Limits,
    start: impl Future<Output = T>,
) -> std::io::Result<T> {
    let started = CancellationToken::new();
    let listener = TcpListener::from_std(socket.try_clone()?)?;
    let limits = Limits {
        drain: DRAIN,
        ..limits
    };
    let answering = serve(listener, routes(), limits, started.clone());
    let start = async {
        let ended = start.await;
        started.cancel();
        ended
    };
    Ok(tokio::join!(start, answering).0)
}

fn routes() -> Router {
    let waiting = health::check(|| {
        ready(Err(
            "this process starts; its log names the store it waits for".to_owned(),
        ))
    });
    health::routes(vec![("process", waiting)], Vec::new()).fallback(async || {
        Problem::unavailable("this server starts, and can't answer this yet: try again")
    })
}
