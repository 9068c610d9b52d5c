//! Clients that hold many connections at low cost, and quickly reopen those that the server closes.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The behaviour of a client on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HogKind {
    /// Sends nothing.
    Silent,
    /// Sends half of a request's headers.
    HalfHead,
    /// Sends a request every four seconds and reads the response.
    Polite,
    /// Sends a hundred requests at a time and reads all responses.
    Pipelining,
    /// Sends requests and never reads a response.
    NeverReading,
}

impl HogKind {
    pub const ALL: [Self; 5] = [
        Self::Silent,
        Self::HalfHead,
        Self::Polite,
        Self::Pipelining,
        Self::NeverReading,
    ];
}

/// The connections, which end when this handle is dropped.
pub struct Hogs {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// Pause before a client reopens a closed connection.
const COME_BACK: Duration = Duration::from_millis(100);

/// Time for which a supervisor waits for a response.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

impl Hogs {
    /// Holds this many connections to `address`. Clients of the kind `NeverReading` request
    /// `large`, the others `/healthz`.
    pub fn start(
        address: SocketAddr,
        kind: HogKind,
        large: &'static str,
        connections: usize,
    ) -> Self {
        let path = if kind == HogKind::NeverReading {
            large
        } else {
            "/healthz"
        };
        let opened = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let opened = Arc::clone(&opened);
            tasks.spawn(async move {
                loop {
                    // A client whose connection is closed or refused reconnects.
                    let _ = hold(address, kind, path, &opened).await;
                    sleep(COME_BACK).await;
                }
            });
        }
        Self {
            address,
            opened,
            _tasks: tasks,
        }
    }

    /// Waits until the clients have opened this many connections in total.
    ///
    /// # Panics
    ///
    /// Panics if that takes longer than half a minute.
    pub async fn have_opened(&self, connections: usize) {
        let all = async {
            while self.opened.load(Ordering::Relaxed) < connections {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(30), all).await;
        assert!(
            in_time.is_ok(),
            "only {} connections were opened",
            self.opened.load(Ordering::Relaxed)
        );
    }

    /// Requests `path` five times as a supervisor would: on a new connection, with a short timeout.
    /// Returns the failures.
    pub async fn failed_probes(&self, path: &str) -> Vec<String> {
        let mut failed = Vec::new();
        for _ in 0..5 {
            match timeout(PROBE_LIMIT, probe(self.address, path)).await {
                Ok(Ok(line)) if line.starts_with("HTTP/1.1 200") => {}
                Ok(Ok(line)) => failed.push(line),
                Ok(Err(error)) => failed.push(error.to_string()),
                Err(_) => failed.push(format!("no answer in {PROBE_LIMIT:?}")),
            }
        }
        failed
    }
}

/// Sends a probe from a different address than the hogs. Their address has reached its limit, so a
/// probe from it would compete with reconnecting hogs.
async fn probe(address: SocketAddr, path: &str) -> Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
    let mut stream = socket.connect(address).await?;
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap_or("closed without an answer")
        .to_owned())
}

async fn hold(address: SocketAddr, kind: HogKind, path: &str, opened: &AtomicUsize) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    if kind == HogKind::NeverReading {
        socket.set_recv_buffer_size(4 * 1024)?;
    }
    let mut stream = socket.connect(address).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let first = match kind {
        HogKind::Silent => String::new(),
        HogKind::HalfHead => head[..head.len() - 4].to_owned(),
        HogKind::Polite => head.clone(),
        HogKind::Pipelining => head.repeat(100),
        HogKind::NeverReading => head.repeat(1_000),
    };
    let (mut read, mut write) = stream.split();
    write.write_all(first.as_bytes()).await?;
    opened.fetch_add(1, Ordering::Relaxed);
    let mut bytes = vec![0; 16 * 1024];
    match kind {
        // This loop ends when a write fails because the connection was closed.
        HogKind::NeverReading => loop {
            write.write_all(head.as_bytes()).await?;
            sleep(Duration::from_millis(10)).await;
        },
        HogKind::Pipelining => {
            let mut sent = 0;
            loop {
                // Reading may interrupt a write, which then continues at its position. A request
                // with a gap would get 400, which closes the connection.
                tokio::select! {
                    read = read.read(&mut bytes) => if read? == 0 { return Err(Error::from(ErrorKind::UnexpectedEof)) },
                    written = write.write(&first.as_bytes()[sent..]) => sent = (sent + written?) % first.len(),
                }
            }
        }
        _ => loop {
            tokio::select! {
                read = read.read(&mut bytes) => if read? == 0 { return Ok(()) },
                () = sleep(Duration::from_secs(4)), if kind == HogKind::Polite => write.write_all(head.as_bytes()).await?,
            }
        },
    }
}
