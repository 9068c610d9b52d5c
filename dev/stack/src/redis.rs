//! Redis, durable by default, as the product requires.

use std::fs::File;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client};
use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fetch;
use crate::process::CommandLine;
use crate::proxy::FaultProxy;
use crate::server::{Instance, Server, ServerKind};

/// Options for starting Redis. The default is the product's production setting: every write is on
/// disk before it is acknowledged.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// The port of the master on 127.0.0.1, if this is a replica.
    pub replica_of: Option<u16>,
    /// Additional arguments of `redis-server`, such as `["--appendonly", "no"]`, which take
    /// precedence.
    pub extra_args: Vec<String>,
    /// Environment variables in addition to the inherited ones.
    pub env: Vec<(&'static str, String)>,
}

/// Time limit of a test's connection and of each response, which even a busy machine reaches only
/// if something is broken. The client's defaults are one second and half a second.
const PATIENCE: Duration = Duration::from_secs(60);

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

    /// Connects with long time limits.
    pub async fn connection(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let client = Client::open(self.url())?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(connection.await?)
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
        let port = format!("--port {}", instance.port());
        let fixed = [
            &*port,
            "--bind 127.0.0.1",
            "--enable-debug-command local",
            "--appendonly yes",
            "--appendfsync always",
            "--maxmemory-policy noeviction",
            // By default Redis stores up to 128 members or fields as a list, which each claim would
            // search linearly.
            "--zset-max-listpack-entries 0",
            "--hash-max-listpack-entries 0",
            "--lazyfree-lazy-expire yes",
            // By default a master waits five seconds for more replicas before it sends its data.
            "--repl-diskless-sync-delay 0",
        ];
        let words = fixed.iter().flat_map(|option| option.split(' '));
        command.extend(words.chain(["--save", ""]).map(Into::into));
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
        let answer = String::from_utf8_lossy(&answer[..length]);
        ensure!(
            answer.starts_with("+PONG"),
            "PING was answered with {answer:?}"
        );
        Ok(())
    }
}
