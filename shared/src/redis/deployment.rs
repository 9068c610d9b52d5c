//! Where Redis is, and how to connect: to one server, or to the nodes of a Redis Cluster, by
//! redis-rs's own clients.

use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, RedisResult};

use super::client::RedisSettings;
use super::connection::Link;
use crate::tls::Tls;

/// Kinds of Redis deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RedisMode {
    /// One server. Its address must never lead to another server without its keys
    #[default]
    Single,
    /// `REDIS_URL` names nodes of a Redis Cluster, which report the others
    Cluster,
}

/// TCP timeout for a host that acknowledges nothing. The kernel's default is a quarter of an hour.
const SILENT: Duration = Duration::from_secs(3);

/// Maximum time to connect to a node of a cluster. redis-rs connects to all nodes before it sends
/// on, so one silent node delays the commands for all others by this much.
const NODE_CONNECTS_IN: Duration = Duration::from_millis(500);

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
        .map(|part: &str| {
            part.trim()
                .into_connection_info()
                .map_err(|_| form.to_owned())
        })
        .collect()
}
