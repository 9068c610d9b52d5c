//! Where Redis is, and how to connect: to one server, or to the nodes of a Redis Cluster, by
//! redis-rs's own clients.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, RedisResult};

use crate::tls::{StoreAddress, Tls};

/// Kinds of Redis deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RedisMode {
    /// One server. Its address must never lead to another server without its keys
    #[default]
    Single,
    /// `REDIS_URL` names nodes of a Redis Cluster, which report the others
    Cluster,
}

#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://[[user]:password@]host:port[/database]`, or `rediss://…` with TLS settings; several
    /// nodes are separated by commas.
    pub url: StoreAddress,
    /// Prefix of every key; `fc` unless several installations share one Redis.
    pub prefix: String,
    /// Maximum wait for a reply. A call that timed out may have run.
    pub timeout: Duration,
    pub mode: RedisMode,
    pub durability: RedisDurability,
}

/// How this process ensures that Redis keeps acknowledged writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RedisDurability {
    /// By reading its settings
    #[default]
    Checked,
    /// The operator guarantees it: for a provider's Redis whose settings can't be read
    Managed,
}

/// TCP timeout for a host that acknowledges nothing. The kernel's default is a quarter of an hour.
const SILENT: Duration = Duration::from_secs(3);

/// Maximum time to connect to a node of a cluster. redis-rs connects to all nodes before it sends
/// further commands, so one silent node delays the commands for all others by this much.
const NODE_CONNECTS_IN: Duration = Duration::from_millis(500);

/// redis-rs's connection.
#[derive(Clone)]
pub(super) enum Link {
    /// To one server. It ends with the server's process.
    One(MultiplexedConnection),
    /// To the nodes of a cluster.
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) fn connection(&self) -> Box<dyn ConnectionLike + Send> {
        match self.clone() {
            Self::One(one) => Box::new(one),
            Self::Cluster(cluster) => Box::new(cluster),
        }
    }
}

/// The settings, with the addresses that they name.
pub(super) struct Deployment {
    pub(super) addresses: Vec<ConnectionInfo>,
    pub(super) settings: RedisSettings,
}

impl Deployment {
    pub(super) fn is_cluster(&self) -> bool {
        self.settings.mode == RedisMode::Cluster
    }

    pub(super) async fn connect(&self) -> RedisResult<Link> {
        let timeout = self.settings.timeout;
        let certificates = self.settings.url.tls().map(Tls::for_redis);
        if self.is_cluster() {
            let mut builder = ClusterClientBuilder::new(self.addresses.clone())
                .retries(0)
                .connection_timeout(timeout.min(NODE_CONNECTS_IN))
                .response_timeout(timeout)
                .tcp_settings(tcp_settings());
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            return Ok(Link::Cluster(
                builder.build()?.get_async_connection().await?,
            ));
        }
        let info = self.addresses[0].clone().set_tcp_settings(tcp_settings());
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates)?,
            None => Client::open(info)?,
        };
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(timeout))
            .set_connection_timeout(Some(timeout));
        let one = client.get_multiplexed_async_connection_with_config(&config);
        Ok(Link::One(one.await?))
    }
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(SILENT)
        .with_interval(SILENT / 3)
        .with_retries(3);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(SILENT)
}

/// Parses addresses separated by commas.
pub(crate) fn addresses(text: &str) -> Result<Vec<ConnectionInfo>, String> {
    let form = "it must look like redis://host:6379/0, several nodes like \
        redis://first:6379,redis://second:6379";
    text.split(',')
        .map(|part| {
            part.trim()
                .into_connection_info()
                .map_err(|_| form.to_owned())
        })
        .collect()
}
