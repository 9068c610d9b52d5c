//! The timer of one connection. hyper's own timer, which it starts for each request, costs more than
//! everything else that most responses need.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::time::{Instant, sleep_until};

use super::Limits;

/// No request has begun yet.
const UNUSED: u64 = u64::MAX;

/// A request is in progress.
const BUSY: u64 = u64::MAX - 1;

/// Watches how long a connection waits for a request's head.
pub(super) struct Watch {
    opened: Instant,
    limits: Limits,
    /// [`UNUSED`], [`BUSY`], or when the last response ended, in milliseconds since the connection
    /// was opened.
    state: AtomicU64,
}

impl Watch {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            limits,
            state: AtomicU64::new(UNUSED),
        })
    }

    pub(super) fn begin(&self) {
        self.state.store(BUSY, Relaxed);
    }

    /// Records the end of a response: now, or when its body is dropped if the body has an unknown
    /// length.
    pub(super) fn end(self: Arc<Self>, response: Response) -> Response {
        let ends = EndsRequest(self);
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _until_the_body_is_dropped = &ends;
                frame
            }))
        })
    }

    /// Waits until a limit on the head of a request is exceeded.
    pub(super) async fn idle(&self) {
        let Limits {
            header_read, idle, ..
        } = self.limits;
        let mut look_at = self.opened + header_read;
        loop {
            sleep_until(look_at).await;
            look_at = match self.state.load(Relaxed) {
                UNUSED => return,
                BUSY => Instant::now() + idle,
                ended => self.opened + Duration::from_millis(ended) + idle,
            };
            if look_at <= Instant::now() {
                return;
            }
        }
    }
}

/// Records the end of a request when it is dropped.
struct EndsRequest(Arc<Watch>);

impl Drop for EndsRequest {
    fn drop(&mut self) {
        let since_opened = self.0.opened.elapsed().as_millis();
        let ended = u64::try_from(since_opened).unwrap_or(BUSY);
        self.0.state.store(ended, Relaxed);
    }
}
