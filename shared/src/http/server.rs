//! A server based on hyper-util: `axum::serve` has no header-read timeout and no connection limit,
//! so slow clients could hold sockets forever.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::ops::Peer;
use super::request_id::RequestId;

const HUNG_UP_ON: &str = "firstcome_http_connections_timed_out_total";

/// Maximum size of a request's head, in bytes.
const HEAD: usize = 16 * 1024;

/// Limits on clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of concurrent connections. Further ones wait in the operating system's queue.
    pub connections: usize,
    /// Time limit for the head of the first request on a connection, and for reading a part of a
    /// response.
    pub header_read: Duration,
    /// Time limit for the head of each further request, including the idle time before it. Longer
    /// than proxies keep idle connections (nginx and AWS's load balancers: 60 s): a proxy that
    /// reuses one just as it is closed here answers its client 502.
    pub idle: Duration,
    /// Time limit for requests in progress after shutdown has begun.
    pub drain: Duration,
}

impl Limits {
    pub const DEFAULT: Self = Self {
        connections: 10_000,
        header_read: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        drain: Duration::from_secs(10),
    };

    /// Limits for a listener that only supervisors and scrapers use.
    pub const FOR_MACHINES: Self = Self {
        connections: 500,
        drain: Duration::from_secs(1),
        ..Self::DEFAULT
    };
}

/// Serves `router` until `shutdown`, then finishes the requests in progress and closes.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let routes = TowerToHyperService::new(router);
    metrics::describe_counter!(
        HUNG_UP_ON,
        "Connections closed because no whole request head came, or nothing of an answer was \
        read, in time"
    );
    metrics::counter!(HUNG_UP_ON).absolute(0);
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .writev(true)
        .max_buf_size(HEAD);
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                Some((accept(&listener).await?, place))
            } => accepted,
        };
        let Some(((stream, peer), place)) = accepted else {
            continue;
        };
        // While a client does not read, hyper does not read its next request, so none of hyper's
        // timers runs.
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream
            .as_mut()
            .set_write_timeout_pinned(Some(limits.header_read));
        let routes = routes.clone();
        let has_asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&has_asked);
        let is_crowded = places.available_permits() < limits.connections / 2;
        let service = service_fn(move |request| {
            asks.store(true, Relaxed);
            answered(&routes, peer, is_crowded, request)
        });
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = tokio::time::sleep(limits.header_read) => {
                    if !has_asked.load(Relaxed) {
                        metrics::counter!(HUNG_UP_ON).increment(1);
                        return;
                    }
                    connection.await
                }
            };
            if let Err(error) = ended {
                if error.is_timeout() || is_write_timeout(&error) {
                    metrics::counter!(HUNG_UP_ON).increment(1);
                }
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(after = ?limits.drain, "closed connections that were still busy at shutdown");
    }
}

/// Sets the id of every request, and its peer. A connection that was accepted while there were many
/// ends after its first response: idle ones must not keep others out.
fn answered(
    routes: &TowerToHyperService<Router>,
    peer: SocketAddr,
    is_crowded: bool,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let id = RequestId::from_headers(request.headers());
    request.extensions_mut().insert(Peer(peer));
    let work = routes.call(request);
    id.clone().within(async move {
        let mut response = work.await?;
        id.write(response.headers_mut());
        if is_crowded {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok(response)
    })
}

fn is_write_timeout(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY on a connection");
            }
            Some((stream, peer))
        }
        Err(error) => {
            // Usually the process has run out of file descriptors. Pause, so that the loop does not
            // spin until other connections close.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
