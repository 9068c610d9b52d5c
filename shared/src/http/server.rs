//! A server on hyper-util, because `axum::serve` has no header-read timeout and no connection cap:
//! slow clients would hold sockets for ever.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response};
use axum::{BoxError, Router};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::access;
use super::gather::Gathered;
use super::ops::Peer;
use super::request_id::RequestId;

const HUNG_UP_ON: &str = "firstcome_http_connections_timed_out_total";
const TOO_MANY: &str = "firstcome_http_connections_refused_total";

/// What one client may ask of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; more wait in the operating system's queue.
    pub connections: usize,
    /// Connections of one address at a time; more are closed.
    pub connections_of_address: Option<usize>,
    /// Time to send a request's head, also between two requests of one connection, and time to read
    /// some of an answer.
    pub header_read: Duration,
    /// Largest head, in bytes.
    pub header_bytes: usize,
    /// Time given to requests under way once shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_of_address: None,
            header_read: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves `router` until `shutdown`, then finishes the requests under way and closes.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let routes = TowerToHyperService::new(router);
    let with_peer = move |peer| {
        let routes = routes.clone();
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            routes.call(request)
        })
    };
    serve_by(listener, with_peer, limits, shutdown).await;
}

/// [`serve`], for services that answer some requests before any router is asked, one for each
/// connection.
pub async fn serve_by<S, B>(
    listener: TcpListener,
    service_for: impl Fn(SocketAddr) -> S,
    limits: Limits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    metrics::describe_counter!(
        HUNG_UP_ON,
        "Connections closed because no whole request head came, or nothing of an answer was read, in time"
    );
    metrics::counter!(HUNG_UP_ON).absolute(0);
    metrics::describe_counter!(TOO_MANY, "Connections closed because their address had too many");
    metrics::counter!(TOO_MANY).absolute(0);
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .writev(true)
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let addresses = AddressCounts::new(limits.connections_of_address);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let Some(counted) = addresses.count(peer.ip()) else {
            metrics::counter!(TOO_MANY).increment(1);
            continue;
        };
        // A client that reads nothing keeps hyper from reading its next head, so that no timer of
        // hyper's runs.
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(limits.header_read));
        let service = service_for(peer);
        let service = service_fn(move |request| answered(&service, peer, request));
        let watcher = graceful.watcher();
        let builder = builder.clone();
        tokio::spawn(async move {
            let connection = builder.serve_connection(TokioIo::new(Gathered(stream)), service);
            if let Err(error) = watcher.watch(connection).await {
                if error.is_timeout() || is_write_timeout(&error) {
                    metrics::counter!(HUNG_UP_ON).increment(1);
                }
                tracing::debug!(%error, "a connection ended early");
            }
            drop((slot, counted));
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(after = ?limits.drain, "connections were still busy at shutdown and are cut");
    }
}

/// How many connections each address has open.
struct AddressCounts {
    most: Option<usize>,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl AddressCounts {
    fn new(most: Option<usize>) -> Self {
        Self { most, open: Arc::default() }
    }

    /// Counts one more until the answer is dropped; `None` where that is one too many.
    fn count(&self, address: IpAddr) -> Option<impl Drop + Send + use<>> {
        let open = self.most.is_some().then(|| Arc::clone(&self.open));
        let has_room = open.as_ref().is_none_or(|open| {
            let mut open = open.lock();
            let count = open.entry(address).or_default();
            let has_room = self.most.is_none_or(|most| *count < most);
            *count += usize::from(has_room);
            has_room
        });
        has_room.then(|| CountedConnection { open, address })
    }
}

struct CountedConnection {
    open: Option<Arc<Mutex<HashMap<IpAddr, usize>>>>,
    address: IpAddr,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let Some(open) = &self.open else { return };
        let mut open = open.lock();
        if let Entry::Occupied(mut count) = open.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Around every request: its id, and its line in the access log.
fn answered<S, B>(
    service: &S,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<B>, Infallible>> + use<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    let id = RequestId::of(request.headers());
    let access = access::begin(&request, peer);
    let work = service.call(request);
    id.within(async move {
        let mut response = work.await?;
        id.write(response.headers_mut());
        if let Some(access) = access {
            access.end(response.status());
        }
        Ok(response)
    })
}

fn is_write_timeout(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY on a connection");
            }
            Some((stream, peer, slot))
        }
        Err(error) => {
            // Out of file descriptors, mostly: a short pause keeps the loop from spinning while
            // others close.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
