//! Tracks whether the server or the client is active on a connection: an atomic state that the
//! connection's task writes and the pool reads.
//!
//! ```text
//! accepted ─▶ waiting ─request─▶ working ─body ends─▶ flushing ─all written─▶ waiting
//!                                   └──── a write does not proceed: stalled ────┘
//! ```
//! A waiting connection may be closed after [`IDLE_FOR`] if a new connection needs its place. A
//! stalled connection may be closed after [`STALLED_FOR`], but only if none is waiting. A working
//! connection is never closed.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Maximum time for a new client's first bytes, and for a browser's next request after a response.
pub(super) const IDLE_FOR: Duration = Duration::from_millis(250);

/// Maximum time that a write may make no progress. Even a client on a slow link reads some bytes in
/// this time.
const STALLED_FOR: Duration = Duration::from_millis(500);

/// Stored instead of a time while the server works on a request.
const BUSY: u64 = u64::MAX;

/// Stored instead of a time once the pool has asked the connection's task to close it.
const CLOSING: u64 = u64::MAX - 1;

/// Added to the time of a stalled connection, so that it sorts after all waiting ones.
const STALLED: u64 = 1 << 62;

const WAITING: u8 = 0;
const WORKING: u8 = 1;
const FLUSHING: u8 = 2;

/// The state of one connection.
pub(super) struct Activity {
    pub(super) network: IpAddr,
    /// When the server started. The times below are milliseconds since then.
    epoch: Instant,
    /// The first response after this time closes the connection.
    pub(super) ends_at: u64,
    /// The time from which the connection may be closed, or [`BUSY`] or [`CLOSING`].
    closable_at: AtomicU64,
    phase: AtomicU8,
    close: Notify,
}

impl Activity {
    pub(super) fn new(network: IpAddr, epoch: Instant, longest: Duration) -> Self {
        let now = millis(epoch.elapsed());
        Self {
            network,
            epoch,
            ends_at: now + millis(longest),
            closable_at: AtomicU64::new(now + millis(IDLE_FOR)),
            phase: AtomicU8::new(WAITING),
            close: Notify::new(),
        }
    }

    /// Returns the connection's rank if it may be closed now. The connection with the lowest rank
    /// is closed first.
    pub(super) fn closable(&self, now: u64) -> Option<u64> {
        let at = self.closable_at.load(Ordering::Relaxed);
        (at != BUSY && at != CLOSING && at & !STALLED <= now).then_some(at)
    }

    /// Requests the connection's task to close it, unless its state has changed since it had this
    /// rank.
    pub(super) fn close(&self, rank: u64) -> bool {
        let closes = self
            .closable_at
            .compare_exchange(rank, CLOSING, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if closes {
            self.close.notify_one();
        }
        closes
    }

    /// Completes when the connection must close. Poll it after the connection itself: a request
    /// that has just arrived changes the state from [`CLOSING`].
    pub(super) async fn closed(&self) {
        loop {
            self.close.notified().await;
            if self.closable_at.load(Ordering::Relaxed) == CLOSING {
                return;
            }
        }
    }

    /// Marks the connection as working until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Working {
        self.phase.store(WORKING, Ordering::Relaxed);
        self.closable_at.store(BUSY, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    fn flushed(&self) {
        if self.phase.load(Ordering::Relaxed) == FLUSHING {
            self.phase.store(WAITING, Ordering::Relaxed);
            self.closable_at
                .store(millis(self.epoch.elapsed() + IDLE_FOR), Ordering::Relaxed);
        }
    }

    fn stalled(&self) {
        if self.closable_at.load(Ordering::Relaxed) == BUSY {
            let at = millis(self.epoch.elapsed() + STALLED_FOR) | STALLED;
            self.closable_at.store(at, Ordering::Relaxed);
        }
    }

    fn wrote(&self) {
        if self.phase.load(Ordering::Relaxed) != WAITING
            && self.closable_at.load(Ordering::Relaxed) != BUSY
        {
            self.closable_at.store(BUSY, Ordering::Relaxed);
        }
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(STALLED - 1)
}

/// Held while a response is made and sent.
pub(super) struct Working(pub(super) Arc<Activity>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.phase.store(FLUSHING, Ordering::Relaxed);
    }
}

/// A response body that keeps its connection marked as working until it is dropped.
pub(super) struct WorkingBody<B> {
    pub(super) body: B,
    pub(super) _working: Working,
}

impl<B: Body + Unpin> Body for WorkingBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Maximum bytes copied into one plain write.
const SMALL: usize = 1_024;

/// A stream that reports to its [`Activity`] whether writes proceed.
///
/// hyper has two ways to write. It can append a response's body to its head, in a buffer that never
/// shrinks: gigabytes of memory if thousands of connections each request one long list. Or it can
/// pass both to a vectored write, which costs the kernel more than a plain write. This stream uses
/// vectored writes, and copies small responses into one buffer.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) activity: Arc<Activity>,
}

impl<S> Watched<S> {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.activity.stalled(),
            Poll::Ready(_) => self.activity.wrote(),
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if length <= SMALL {
            let mut all = [0; SMALL];
            let mut end = 0;
            for buf in bufs {
                all[end..end + buf.len()].copy_from_slice(buf);
                end += buf.len();
            }
            return self.poll_write(cx, &all[..length]);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
