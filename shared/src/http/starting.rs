//! Answers requests while start-up waits for a store: the process is alive but not ready. A load
//! balancer sends it no requests, and a supervisor does not restart it.

use std::future::{Future, ready};
use std::time::Duration;

use axum::Router;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Limits, Problem, health, serve};

/// Time limit for the last responses.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs `start`, and answers requests on these sockets until it returns. The server that uses the
/// sockets afterwards misses no connection, because new ones wait in the operating system's queue.
pub async fn answer_during<T>(
    sockets: Vec<std::net::TcpListener>,
    limits: Limits,
    start: impl Future<Output = T>,
) -> std::io::Result<T> {
    let started = CancellationToken::new();
    let listeners: Vec<_> = sockets
        .into_iter()
        .map(TcpListener::from_std)
        .collect::<Result<_, _>>()?;
    let limits = Limits {
        drain: DRAIN,
        ..limits
    };
    let answering = listeners
        .into_iter()
        .map(|listener| serve(listener, routes(), limits, started.clone()));
    let start = async {
        let ended = start.await;
        started.cancel();
        ended
    };
    Ok(tokio::join!(start, join_all(answering)).0)
}

fn routes() -> Router {
    let waiting = health::check(|| {
        ready(Err(
            "this process starts; its log names the store it waits for".to_owned(),
        ))
    });
    health::routes_without_metrics(vec![("process", waiting)], Vec::new()).fallback(async || {
        Problem::unavailable("this server starts, and can't answer this yet: try again")
    })
}
