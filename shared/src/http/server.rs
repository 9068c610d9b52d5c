//! A server based on hyper-util: `axum::serve` has no header-read timeout and no connection limit,
//! so slow clients could hold sockets forever.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
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
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::access;
use super::activity::{Activity, Watched, WorkingBody};
use super::connections::ConnectionPool;
use super::ops::Peer;
use super::request_id::RequestId;

const HUNG_UP_ON: &str = "firstcome_http_connections_timed_out_total";

/// Limits on clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of concurrent connections. A new one replaces the connection that has been
    /// idle longest. While all connections have requests in progress, the new one waits in the
    /// operating system's queue.
    pub connections: usize,
    /// Maximum number of concurrent connections per address (per /64 network with IPv6). A new one
    /// replaces an idle one of the same address. If there is none, the new one is closed.
    pub connections_of_address: Option<usize>,
    /// Time limit for sending a request's head, for the time between two requests on a connection,
    /// and for reading a part of a response.
    pub header_read: Duration,
    /// Maximum size of a head, in bytes.
    pub header_bytes: usize,
    /// Time limit for requests in progress after shutdown has begun.
    pub drain: Duration,
}

impl Limits {
    pub const DEFAULT: Self = Self {
        connections: 10_000,
        connections_of_address: None,
        header_read: Duration::from_secs(10),
        header_bytes: 16 * 1024,
        drain: Duration::from_secs(10),
    };

    /// Limits for a listener that only supervisors and scrapers use.
    pub const FOR_MACHINES: Self = Self {
        connections: 100,
        connections_of_address: Some(50),
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
        "Connections closed because no whole request head came, or nothing of an answer was read, in time"
    );
    metrics::counter!(HUNG_UP_ON).absolute(0);
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .writev(true)
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    let pool = Arc::new(ConnectionPool::new(&limits));
    let graceful = GracefulShutdown::new();
    loop {
        // Accept first, then close another connection if the pool is full: only an accepted
        // connection may displace another.
        let admitted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            admitted = async {
                let (stream, peer) = accept(&listener).await?;
                Some((stream, peer, pool.admit(peer).await?))
            } => admitted,
        };
        let Some((stream, peer, open)) = admitted else {
            continue;
        };
        // While a client does not read, hyper does not read its next request, so none of hyper's
        // timers runs.
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream
            .as_mut()
            .set_write_timeout_pinned(Some(limits.header_read));
        let activity = Arc::clone(&open.activity);
        let stream = Watched {
            stream,
            activity: Arc::clone(&activity),
        };
        let routes = routes.clone();
        let pool = Arc::clone(&pool);
        let service = service_fn(move |request| answered(&routes, peer, &pool, &activity, request));
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                ended = connection => if let Err(error) = ended {
                    if error.is_timeout() || is_write_timeout(&error) {
                        metrics::counter!(HUNG_UP_ON).increment(1);
                    }
                    tracing::debug!(%error, "a connection ended early");
                },
                () = open.activity.closed() => tracing::debug!(%peer, "an idle connection made room for another"),
            }
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

/// Wraps every request: sets its id, logs it, and decides whether its connection stays open.
fn answered(
    routes: &TowerToHyperService<Router>,
    peer: SocketAddr,
    pool: &Arc<ConnectionPool>,
    activity: &Arc<Activity>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<WorkingBody<Body>>, Infallible>> + use<> {
    let working = activity.begin();
    let id = RequestId::of(request.headers());
    let access = access::begin(&request, peer);
    request.extensions_mut().insert(Peer(peer));
    let work = routes.call(request);
    let pool = Arc::clone(pool);
    id.clone().within(async move {
        let mut response = work.await?;
        id.write(response.headers_mut());
        if pool.is_last_answer(&working.0) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(access) = access {
            access.end(response.status());
        }
        Ok(response.map(|body| WorkingBody {
            body,
            _working: working,
        }))
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
