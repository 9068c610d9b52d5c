//! Small answers in one plain write, large ones in a gathered one.
//!
//! hyper knows two ways to write. It copies an answer's body behind its head, into a buffer that
//! the connection keeps at its largest for as long as it lasts: with thousands of connections of
//! which each asked for one long list, gigabytes. Or it gathers both in a vectored write, which
//! costs the kernel more than a plain one. This takes the second way, and copies what is small.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are copied into one plain write.
const SMALL: usize = 1_024;

/// A stream whose writes are gathered where they are large.
pub(super) struct Gathered<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if length > SMALL {
            return Pin::new(&mut self.0).poll_write_vectored(cx, bufs);
        }
        let (mut all, mut end) = ([0; SMALL], 0);
        for buf in bufs {
            all[end..end + buf.len()].copy_from_slice(buf);
            end += buf.len();
        }
        Pin::new(&mut self.0).poll_write(cx, &all[..length])
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
