//! A server based on hyper-util: `axum::serve` has no header-read timeout and no connection limit,
//! so slow clients could hold sockets forever.

mod watch;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use axum::response::Response;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use self::watch::Watch;
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
    /// Time limit for the head of the first request on a connection, and for a client to read a part
    /// of a response.
    pub header_read: Duration,
    /// Time limit for the head of each further request, including the idle time before it. Longer
    /// than proxies keep idle connections (nginx and AWS's load balancers: 60 s): a proxy that
    /// reuses a connection just as this server closes it answers its client with 502.
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

/// Answers requests with a router.
#[derive(Clone)]
pub struct Routes(TowerToHyperService<Router>);

impl Routes {
    pub fn new(router: Router) -> Self {
        Self(TowerToHyperService::new(router))
    }

    pub fn answer(
        &self,
        peer: Peer,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Response> + use<> {
        request.extensions_mut().insert(peer);
        let answered = self.0.call(request);
        answered.map(|answered| match answered {
            Ok(response) => response,
            Err(never) => match never {},
        })
    }
}

/// Begins to listen on an address.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Serves `router` until `shutdown`, then finishes the requests in progress and closes.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let routes = Routes::new(router);
    let answer = move |peer, request| routes.answer(peer, request);
    serve_with(listener, answer, limits, shutdown).await;
}

/// Like [`serve`], but gets the responses from a function instead of a router.
pub async fn serve_with<Answering>(
    listener: TcpListener,
    answer: impl Fn(Peer, Request<Incoming>) -> Answering + Clone + Send + 'static,
    limits: Limits,
    shutdown: CancellationToken,
) where
    Answering: Future<Output = Response> + Send + 'static,
{
    metrics::describe_counter!(
        HUNG_UP_ON,
        "Connections closed because no whole request head came, or nothing of an answer was \
        read, in time"
    );
    metrics::counter!(HUNG_UP_ON).absolute(0);
    let mut builder = Builder::new();
    // `Watch` limits the time for a request's head instead.
    builder
        .header_read_timeout(None)
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
        // While a client does not read, hyper does not read its next request, and the connection
        // has no other limit.
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream
            .as_mut()
            .set_write_timeout_pinned(Some(limits.header_read));
        let answer = answer.clone();
        let watch = Watch::new(limits);
        let watched = Arc::clone(&watch);
        // If more than half of the places are taken, a new connection ends after its first
        // response, so that idle ones do not keep others out.
        let is_crowded = places.available_permits() < limits.connections / 2;
        let service = service_fn(move |request| {
            watched.begin();
            let id = RequestId::from_headers(request.headers());
            let answering = answer(Peer(peer), request);
            let watched = Arc::clone(&watched);
            id.clone().within(answering.map(move |mut response| {
                id.write(response.headers_mut());
                if is_crowded {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(watched.end(response))
            }))
        });
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = watch.idle() => {
                    metrics::counter!(HUNG_UP_ON).increment(1);
                    return;
                }
            };
            if let Err(error) = ended {
                if is_write_timeout(&error) {
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
