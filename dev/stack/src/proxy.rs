//! A TCP proxy that breaks connections in chosen ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use crate::listener::Listener;

/// The behaviour of a [`FaultProxy`] towards existing and new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyFault {
    #[default]
    Pass,
    /// Delays each chunk of data, in both directions.
    Delay(Duration),
    /// Closes connections and refuses new ones.
    Cut,
    /// Keeps connections open and accepts new ones but forwards nothing in either direction. New
    /// connections reach the server only when the fault ends. The withheld data is delivered then,
    /// as after a network partition, so that late requests still reach the server.
    BlackHole,
    /// Forwards requests to the server, which executes them, but discards its replies. A connection
    /// that lost a reply is closed when the fault ends, because its later replies would belong to
    /// the wrong requests.
    DropReplies,
    /// The client sees the end of the server's stream, while the client's own data still passes.
    HalfClose,
}

/// Traffic of a proxy since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyCounters {
    pub accepted: u64,
    pub open: usize,
    /// Bytes forwarded to the server.
    pub bytes_to_server: u64,
    /// Bytes forwarded to clients.
    pub bytes_to_client: u64,
    /// Bytes that were discarded.
    pub bytes_dropped: u64,
}

/// The current state.
#[derive(Debug, Clone, Copy, Default)]
struct Now {
    fault: ProxyFault,
    /// Connections up to this number are dead: no data passes.
    stranded: u64,
}

impl Now {
    fn on(self, connection: u64) -> ProxyFault {
        if connection <= self.stranded {
            ProxyFault::BlackHole
        } else {
            self.fault
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    dropped: AtomicU64,
}

/// A proxy on a free port of 127.0.0.1. It lives until it is dropped, and does not depend on the
/// runtime that started it.
pub struct FaultProxy {
    listener: Listener,
    fault: watch::Sender<Now>,
    upstream: Arc<AtomicU16>,
    counts: Arc<Counts>,
}

impl FaultProxy {
    /// Starts a proxy without a fault in front of `upstream_port` of 127.0.0.1. With port 0,
    /// connections are closed until [`FaultProxy::set_upstream`] is called.
    pub async fn start(upstream_port: u16) -> Result<Self> {
        let (fault, watching) = watch::channel(Now::default());
        let upstream = Arc::new(AtomicU16::new(upstream_port));
        let counts = Arc::new(Counts::default());
        let to = upstream.clone();
        let counting = counts.clone();
        let listener = Listener::new(move |client| {
            let number = counting.accepted.fetch_add(1, Ordering::Relaxed) + 1;
            session(
                client,
                to.clone(),
                number,
                watching.clone(),
                counting.clone(),
            )
        })?;
        listener.open().await?;
        Ok(Self {
            listener,
            fault,
            upstream,
            counts,
        })
    }

    /// Returns the port to connect to.
    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// Sets the target of new connections.
    pub fn set_upstream(&self, port: u16) {
        self.upstream.store(port, Ordering::Relaxed);
    }

    /// Switches the behaviour. It applies when this returns.
    pub async fn set(&self, fault: ProxyFault) -> Result<()> {
        self.fault.send_modify(|now| now.fault = fault);
        if fault == ProxyFault::Cut {
            self.listener.close().await;
            return Ok(());
        }
        self.listener.open().await
    }

    /// Closes the current connections. New connections are served.
    pub async fn cut_now(&self) {
        self.listener.cut().await;
    }

    /// Leaves the current connections open but never forwards data on them again, as after the
    /// silent death of a host. New connections are served.
    pub fn strand_now(&self) {
        let stranded = self.counts.accepted.load(Ordering::Relaxed);
        self.fault.send_modify(|now| now.stranded = stranded);
    }

    pub fn counters(&self) -> ProxyCounters {
        ProxyCounters {
            accepted: self.counts.accepted.load(Ordering::Relaxed),
            open: self.listener.open_sessions(),
            bytes_to_server: self.counts.to_server.load(Ordering::Relaxed),
            bytes_to_client: self.counts.to_client.load(Ordering::Relaxed),
            bytes_dropped: self.counts.dropped.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultProxy")
            .field("port", &self.port())
            .field("fault", &self.fault.borrow().fault)
            .finish_non_exhaustive()
    }
}

async fn session(
    client: TcpStream,
    upstream: Arc<AtomicU16>,
    number: u64,
    mut fault: watch::Receiver<Now>,
    counts: Arc<Counts>,
) {
    if fault
        .wait_for(|now| now.on(number) != ProxyFault::BlackHole)
        .await
        .is_err()
    {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream.load(Ordering::Relaxed))).await
    else {
        return;
    };
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let pump = |from, to, passed, replies| {
        let fault = fault.clone();
        let dropped = &counts.dropped;
        Pump {
            from,
            to,
            number,
            fault,
            passed,
            dropped,
            replies,
        }
    };
    let requests = pump(from_client, to_server, &counts.to_server, false);
    let replies = pump(from_server, to_client, &counts.to_client, true);
    // If one direction ends, the other stays open, as in TCP. An error closes both.
    let _ = tokio::try_join!(requests.run(), replies.run());
}

/// One direction of one connection.
struct Pump<'a> {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    /// The number of the connection.
    number: u64,
    fault: watch::Receiver<Now>,
    passed: &'a AtomicU64,
    dropped: &'a AtomicU64,
    replies: bool,
}

/// The error that ends both directions of a connection.
struct Broken;

impl Pump<'_> {
    async fn run(mut self) -> Result<(), Broken> {
        let mut buffer = vec![0; 64 * 1024];
        let mut lost_replies = false;
        let mut closed = false;
        loop {
            let fault = self.fault.borrow_and_update().on(self.number);
            if lost_replies && fault != ProxyFault::DropReplies {
                return Err(Broken);
            }
            if self.replies && fault == ProxyFault::HalfClose && !closed {
                self.to.shutdown().await.map_err(|_| Broken)?;
                closed = true;
            }
            let length = tokio::select! {
                read = self.from.read(&mut buffer) => read.map_err(|_| Broken)?,
                changed = self.fault.changed() => { changed.map_err(|_| Broken)?; continue }
            };
            self.hold_back().await?;
            if length == 0 {
                let _ = self.to.shutdown().await;
                return Ok(());
            }
            let fault = self.fault.borrow().on(self.number);
            // This connection is about to be closed.
            if fault == ProxyFault::Cut {
                return Err(Broken);
            }
            lost_replies |= self.replies && fault == ProxyFault::DropReplies;
            let drops = lost_replies || closed;
            // The bytes are counted before the write, so that every byte a client has received is
            // already counted.
            let counter = if drops { self.dropped } else { self.passed };
            counter.fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
            if !drops {
                self.to
                    .write_all(&buffer[..length])
                    .await
                    .map_err(|_| Broken)?;
            }
        }
    }

    /// Waits until the fault lets data, or the end of the stream, pass.
    async fn hold_back(&mut self) -> Result<(), Broken> {
        let fault = self.fault.borrow().on(self.number);
        if let ProxyFault::Delay(time) = fault {
            tokio::time::sleep(time).await;
        }
        let number = self.number;
        let passes = |now: &Now| now.on(number) != ProxyFault::BlackHole;
        self.fault
            .wait_for(passes)
            .await
            .map(drop)
            .map_err(|_| Broken)
    }
}
