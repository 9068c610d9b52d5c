//! The life cycle that all servers share: start, wait for responses, break, restart.

use std::fmt::Debug;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::ports::ReservedPort;
use crate::process::{CommandLine, POLL, ServerProcess};
use crate::program::tail;
use crate::proxy::FaultProxy;
use crate::temp_dir::TempDirGuard;

const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The differences between the servers. The options of each server implement this trait.
pub trait ServerKind: Clone + Debug + Send + Sync + 'static {
    /// The name in lower case, for messages and folders.
    const NAME: &'static str;
    /// Number of ports.
    const PORTS: usize;

    /// Fetches missing programs and fills the empty data folder. Blocks.
    fn prepare(&self, instance: &Instance) -> Result<()>;

    /// Returns the program with its arguments. Blocks.
    fn command(&self, instance: &Instance) -> Result<CommandLine>;

    /// Succeeds once the server answers requests, not as soon as it listens.
    fn answers(&self, instance: &Instance) -> impl Future<Output = Result<()>> + Send;
}

/// The folders and ports of a server.
#[derive(Debug)]
pub struct Instance {
    /// The data folder, initially empty.
    pub(crate) data: PathBuf,
    /// The folder of the configuration and sockets.
    pub(crate) dir: PathBuf,
    pub(crate) ports: Vec<ReservedPort>,
    temp: Arc<TempDirGuard>,
}

impl Instance {
    fn new(temp: Arc<TempDirGuard>, name: &str, ports: usize) -> Result<Self> {
        let dir = temp.dir().join(name);
        let data = dir.join("data");
        fs::create_dir_all(&data)?;
        let ports = (0..ports)
            .map(|_| ReservedPort::find())
            .collect::<Result<_>>()?;
        Ok(Self {
            data,
            dir,
            ports,
            temp,
        })
    }

    /// Returns the port that clients use.
    pub(crate) fn port(&self) -> u16 {
        self.ports.first().map_or(0, ReservedPort::number)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// A real server on a free loopback port: [`crate::RedisServer`], [`crate::MysqlServer`],
/// [`crate::KafkaServer`], [`crate::BrowserServer`].
///
/// All methods take `&self`, so that a server can be shared in a static. When it is dropped, its
/// process is killed. Its data are deleted together with those of its [`crate::Stack`], if it has
/// one.
#[derive(Debug)]
pub struct Server<K: ServerKind> {
    pub(crate) options: K,
    pub(crate) instance: Arc<Instance>,
    process: Mutex<Option<ServerProcess>>,
    /// 0 if not running. It is outside the lock, so that `pid` does not wait.
    pid: AtomicU32,
}

impl<K: ServerKind> Server<K> {
    /// Starts a server and waits until it responds.
    pub async fn start(options: K) -> Result<Self> {
        let temp = tokio::task::spawn_blocking(TempDirGuard::new).await??;
        Self::start_in(Arc::new(temp), options).await
    }

    pub(crate) async fn start_in(temp: Arc<TempDirGuard>, options: K) -> Result<Self> {
        let instance = Arc::new(Instance::new(temp, K::NAME, K::PORTS)?);
        let server = Self {
            options: options.clone(),
            instance: instance.clone(),
            process: Mutex::default(),
            pid: AtomicU32::new(0),
        };
        tokio::task::spawn_blocking(move || options.prepare(&instance))
            .await?
            .with_context(|| format!("{} cannot be started", K::NAME))?;
        server.start_again().await?;
        Ok(server)
    }

    /// Returns the server's port on 127.0.0.1, even while it is down.
    pub fn port(&self) -> u16 {
        self.instance.port()
    }

    /// Returns the process ID, which is also the ID of its process group. `None` after
    /// [`Server::stop`] or [`Server::kill`]. A server that has ended by itself keeps its old ID.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Returns the data folder. A copy that is made while the server is down can be restored later,
    /// which takes the server back in time.
    pub fn data_dir(&self) -> &Path {
        &self.instance.data
    }

    /// Returns the last `lines` lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.instance.log(), lines)
    }

    /// Starts a proxy in front of this server. Kafka's clients bypass it: use
    /// [`crate::KafkaServer::start_behind_proxy`].
    pub async fn proxy(&self) -> Result<FaultProxy> {
        FaultProxy::start(self.port()).await
    }

    /// Restarts the server after [`Server::stop`], [`Server::kill`] or a crash, with the same port
    /// and data. Waits until it responds.
    pub async fn start_again(&self) -> Result<()> {
        let mut slot = self.process.lock().await;
        if let Some(process) = slot.as_ref()
            && process.ended()?.is_none()
        {
            bail!("{} is running already (process {})", K::NAME, process.pid());
        }
        *slot = None;
        let options = self.options.clone();
        let at = self.instance.clone();
        let process = tokio::task::spawn_blocking(move || {
            let command = options.command(&at)?;
            ServerProcess::start_server(&at.temp.janitor, &command, &at.dir, &at.log())
        });
        let process = slot.insert(process.await??);
        self.pid.store(process.pid(), Ordering::Relaxed);
        self.wait_until_it_answers(process)
            .await
            .map_err(|error| self.explain(&error))
    }

    async fn wait_until_it_answers(&self, process: &ServerProcess) -> Result<()> {
        let begun = Instant::now();
        loop {
            let answer = match timeout(ANSWER_LIMIT, self.options.answers(&self.instance)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => anyhow!("no answer within {ANSWER_LIMIT:?}"),
            };
            if let Some(status) = process.ended()? {
                bail!("it ended while starting ({status})");
            }
            if begun.elapsed() > START_LIMIT {
                return Err(answer.context(format!("it did not answer within {START_LIMIT:?}")));
            }
            sleep(POLL).await;
        }
    }

    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!(
            "{name} did not start: {error:#}\n--- last lines of its log ---\n{log}\n---\n\
             If its files in the cache folder are damaged, delete that folder and run `firstcome-stack setup`.",
            name = K::NAME,
            log = self.log_tail(25),
        )
    }

    /// Stops the server as an operator would: sends SIGTERM and waits until it has ended.
    pub async fn stop(&self) -> Result<()> {
        // SIGCONT is needed because a frozen process does not handle SIGTERM.
        self.end(&[Signal::TERM, Signal::CONT]).await
    }

    /// Kills the server as a crash would: sends SIGKILL and waits until it has ended.
    pub async fn kill(&self) -> Result<()> {
        self.end(&[Signal::KILL]).await
    }

    /// Kills the server, starts it again, and waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        self.kill().await?;
        self.start_again().await
    }

    async fn end(&self, signals: &[Signal]) -> Result<()> {
        let mut slot = self.process.lock().await;
        let process = slot.as_ref().context("it is not running")?;
        for signal in signals {
            process.signal(*signal)?;
        }
        process
            .wait(STOP_LIMIT)
            .await
            .with_context(|| format!("{} did not stop", K::NAME))?;
        *slot = None;
        self.pid.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Suspends the server (SIGSTOP): connections stay open, and it does not respond. It is
    /// suspended when this returns.
    pub async fn freeze(&self) -> Result<()> {
        self.set_frozen(true).await
    }

    /// Resumes a frozen server (SIGCONT).
    pub async fn thaw(&self) -> Result<()> {
        self.set_frozen(false).await
    }

    /// Suspends or resumes the server, and waits until it is suspended or runs again.
    pub async fn set_frozen(&self, frozen: bool) -> Result<()> {
        let slot = self.process.lock().await;
        let process = slot.as_ref().context("it is not running")?;
        process.signal(if frozen { Signal::STOP } else { Signal::CONT })?;
        while process.is_frozen() != frozen {
            if let Some(status) = process.ended()? {
                bail!("{} has ended by itself ({status})", K::NAME);
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}
