//! A listener that can be closed and reopened on the same port.

use parking_lot::Mutex;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::background;
use crate::ports::ReservedPort;

type Serve = dyn Fn(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;
type SessionTasks = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// Time limit of the retries while the port is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Accepts connections on a reserved port and runs a session for each.
pub(crate) struct Listener {
    port: ReservedPort,
    serve: Arc<Serve>,
    sessions: SessionTasks,
    /// The accepting task while the listener is open.
    accepting: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Creates a listener that is not open yet.
    pub(crate) fn new<F, S>(serve: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let serve: Arc<Serve> = Arc::new(move |stream| Box::pin(serve(stream)));
        Ok(Self {
            port: ReservedPort::find()?,
            serve,
            sessions: SessionTasks::default(),
            accepting: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Opens the listener. Clients can connect once this returns. Does nothing if it is already
    /// open.
    pub(crate) async fn open(&self) -> Result<()> {
        let mut accepting = self.accepting.lock().await;
        if accepting.is_some() {
            return Ok(());
        }
        let listener = bind(self.port())
            .await
            .with_context(|| format!("cannot listen on port {}", self.port()))?;
        listener.set_nonblocking(true)?;
        *accepting = Some(background::spawn(accept(
            listener,
            self.serve.clone(),
            self.sessions.clone(),
        ))?);
        Ok(())
    }

    /// Closes all connections and refuses new ones.
    pub(crate) async fn close(&self) {
        let mut accepting = self.accepting.lock().await;
        if let Some(task) = accepting.take() {
            task.abort();
            let _ = task.await;
        }
        self.cut().await;
    }

    /// Closes the current connections. They are closed when this returns.
    pub(crate) async fn cut(&self) {
        let sessions = std::mem::take(&mut *self.sessions.lock());
        for session in &sessions {
            session.abort();
        }
        for session in sessions {
            let _ = session.await;
        }
    }

    /// Returns the number of open connections.
    pub(crate) fn open_sessions(&self) -> usize {
        let sessions = self.sessions.lock();
        sessions
            .iter()
            .filter(|session| !session.is_finished())
            .count()
    }
}

/// Binds to the port, with retries, because a child process that was forked while the port was open
/// holds a copy of its socket until it executes its program.
async fn bind(port: u16) -> std::io::Result<StdListener> {
    let begun = Instant::now();
    loop {
        match StdListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bound => return bound,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.get_mut() {
            task.abort();
        }
        for session in self.sessions.lock().drain(..) {
            session.abort();
        }
    }
}

async fn accept(listener: StdListener, serve: Arc<Serve>, sessions: SessionTasks) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        // The error concerns a single connection, or a resource that is exhausted for a moment.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let session = tokio::spawn(serve(stream));
        let mut sessions = sessions.lock();
        sessions.retain(|session| !session.is_finished());
        sessions.push(session);
    }
}
