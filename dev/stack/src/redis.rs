//! Redis, durable by default, as the product requires.

use std::fs::File;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fetch;
use crate::process::CommandLine;
use crate::proxy::FaultProxy;
use crate::server::{Instance, Server, ServerKind};

/// Options for starting Redis. The default is the product's production setting: every write is on
/// disk before it is acknowledged.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Whether an append-only file is kept. Default `true`.
    pub appendonly: bool,
    /// `always` (default), `everysec` or `no`.
    pub appendfsync: String,
    /// The eviction policy when memory is full. Default `noeviction`.
    pub maxmemory_policy: String,
    /// The port of the master on 127.0.0.1, if this is a replica.
    pub replica_of: Option<u16>,
    /// Additional arguments of `redis-server`, such as `["--maxmemory", "10mb"]`, which take
    /// precedence.
    pub extra_args: Vec<String>,
    /// Environment variables in addition to the inherited ones.
    pub env: Vec<(&'static str, String)>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            appendonly: true,
            appendfsync: "always".into(),
            maxmemory_policy: "noeviction".into(),
            replica_of: None,
            extra_args: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// The configuration file, initially empty. Arguments take precedence.
const FILE: &str = "redis.conf";

/// A private Redis. It writes no snapshots (`save ""`), and allows `DEBUG` to loopback clients.
pub type RedisServer = Server<RedisOptions>;

impl RedisServer {
    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// Returns the URL through a proxy.
    pub fn url_via(&self, proxy: &FaultProxy) -> String {
        format!("redis://127.0.0.1:{}", proxy.port())
    }
}

impl ServerKind for RedisOptions {
    const NAME: &'static str = "redis";
    const PORTS: usize = 1;

    fn prepare(&self, instance: &Instance) -> Result<()> {
        File::create(instance.dir.join(FILE))?;
        fetch::redis()
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let mut command: CommandLine = vec!["env".into()];
        command.extend(
            self.env
                .iter()
                .map(|(name, value)| format!("{name}={value}").into()),
        );
        let file = instance.dir.join(FILE);
        command.extend([
            "redis-server".into(),
            file.into(),
            "--dir".into(),
            instance.data.clone().into(),
        ]);
        let port = instance.port().to_string();
        let fixed = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--enable-debug-command",
            "local",
        ];
        command.extend(fixed.map(Into::into));
        command
            .extend(["--appendonly", if self.appendonly { "yes" } else { "no" }].map(Into::into));
        command.extend(
            [
                "--appendfsync",
                &self.appendfsync,
                "--maxmemory-policy",
                &self.maxmemory_policy,
            ]
            .map(Into::into),
        );
        // By default Redis stores a set of up to 128 members as a list, which each claim would
        // search linearly.
        command.extend(["--zset-max-listpack-entries", "0"].map(Into::into));
        // By default a master waits five seconds for more replicas before it sends its data.
        command.extend(["--repl-diskless-sync-delay", "0"].map(Into::into));
        if let Some(port) = self.replica_of {
            command.extend(["--replicaof", &format!("127.0.0.1 {port}")].map(Into::into));
        }
        command.extend(self.extra_args.iter().map(Into::into));
        Ok(command)
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        let mut connection = TcpStream::connect(("127.0.0.1", instance.port())).await?;
        connection.write_all(b"PING\r\n").await?;
        let mut answer = [0; 64];
        let length = connection.read(&mut answer).await?;
        // Redis answers -LOADING while it reads its append-only file.
        if !answer[..length].starts_with(b"+PONG") {
            bail!(
                "PING was answered with {:?}",
                String::from_utf8_lossy(&answer[..length])
            );
        }
        Ok(())
    }
}
