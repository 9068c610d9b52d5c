//! Where Redis is, and how to connect: to one server, to the master that Sentinels name, or to the
//! nodes of a Redis Cluster, by redis-rs's own clients.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, TlsMode,
};
use secrecy::ExposeSecret as _;

use super::connection::Link;
use crate::tls::Tls;

#[derive(Debug, Clone, Default)]
pub enum RedisMode {
    /// One server. Its address must never lead to another server without its keys.
    #[default]
    Single,
    /// The addresses are Sentinels, which report the master.
    Sentinel(SentinelSettings),
    /// The addresses are nodes of a cluster, which report the others.
    Cluster,
}

/// Settings for Sentinels.
#[derive(Debug, Clone)]
pub struct SentinelSettings {
    /// The name under which Sentinels watch the master.
    pub master: String,
    /// Of the Sentinels; the address contains the login for the master.
    pub password: Option<secrecy::SecretString>,
}

/// TCP timeout for a host that acknowledges nothing. The kernel's default is a quarter of an hour.
const SILENT: Duration = Duration::from_secs(3);

/// Maximum time to connect to a node of a cluster. redis-rs connects to all nodes before it sends
/// on, so one silent node delays the commands for all others by this much.
const NODE_CONNECTS_IN: Duration = Duration::from_millis(500);

/// The configured addresses and how to connect to them.
pub(super) struct Deployment {
    pub(super) addresses: Vec<ConnectionInfo>,
    pub(super) mode: RedisMode,
    tls: Option<Tls>,
    timeout: Duration,
    attempts: AtomicUsize,
}

impl Deployment {
    pub(super) fn new(
        url: &str,
        mode: RedisMode,
        tls: Option<Tls>,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let addresses = addresses(url).map_err(|why| {
            let what = "REDIS_URL can't be used";
            RedisError::from((redis::ErrorKind::InvalidClientConfig, what, why))
        })?;
        Ok(Self {
            addresses,
            mode,
            tls,
            timeout,
            attempts: AtomicUsize::new(0),
        })
    }

    /// Returns all addresses, without user and password.
    pub(super) fn hosts_and_ports(&self) -> String {
        let addresses = self.addresses.iter().map(|info| info.addr().to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    pub(super) fn database(&self) -> i64 {
        self.addresses[0].redis_settings().db()
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.mode, RedisMode::Cluster)
    }

    pub(super) fn has_sentinels(&self) -> bool {
        matches!(self.mode, RedisMode::Sentinel(_))
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.timeout))
            .set_connection_timeout(Some(self.timeout))
    }

    pub(super) async fn connect(&self) -> Result<Link, RedisError> {
        match &self.mode {
            RedisMode::Single => {
                let client = self.client(self.addresses[0].clone())?;
                let config = self.config();
                let one = client.get_multiplexed_async_connection_with_config(&config);
                Ok(Link::One(one.await?))
            }
            RedisMode::Sentinel(settings) => self.connect_to_master(settings).await,
            RedisMode::Cluster => {
                let mut builder = ClusterClientBuilder::new(self.addresses.clone())
                    .retries(0)
                    .connection_timeout(self.timeout.min(NODE_CONNECTS_IN))
                    .response_timeout(self.timeout)
                    .tcp_settings(tcp_settings());
                if let Some(tls) = &self.tls {
                    builder = builder.certs(tls.for_redis());
                }
                let cluster = builder.build()?.get_async_connection().await?;
                Ok(Link::Cluster(cluster))
            }
        }
    }

    async fn connect_to_master(&self, settings: &SentinelSettings) -> Result<Link, RedisError> {
        let mut sentinels: Vec<ConnectionAddr> = self
            .addresses
            .iter()
            .map(|info| info.addr().clone())
            .collect();
        // redis-rs believes the first Sentinel, which may be cut off together with the old master:
        // each attempt begins with another one.
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let first = attempt % sentinels.len();
        sentinels.rotate_left(first);
        let master = SentinelServerType::Master;
        let mut builder = SentinelClientBuilder::new(sentinels, &settings.master, master)?
            .set_client_to_redis_db(self.database())
            .set_client_to_redis_tcp_settings(tcp_settings())
            .set_client_to_sentinel_tcp_settings(tcp_settings());
        let login = self.addresses[0].redis_settings();
        if let Some(user) = login.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(password) = &settings.password {
            builder = builder.set_client_to_sentinel_password(password.expose_secret());
        }
        if let Some(tls) = &self.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(tls.for_redis())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(tls.for_redis());
        }
        let config = self.config();
        let mut client = builder.build()?;
        let one = client.get_async_connection_with_config(&config).await?;
        Ok(Link::One(one))
    }

    /// Returns a client of one Sentinel.
    pub(super) fn sentinel(
        &self,
        info: &ConnectionInfo,
        settings: &SentinelSettings,
    ) -> Result<Client, RedisError> {
        let mut login = RedisConnectionInfo::default();
        if let Some(password) = &settings.password {
            login = login.set_password(password.expose_secret());
        }
        self.client(info.clone().set_redis_settings(login))
    }

    fn client(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        let info = info.set_tcp_settings(tcp_settings());
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.for_redis()),
            None => Client::open(info),
        }
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

fn with_address(like: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let address = match like.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    like.clone().set_addr(address)
}

/// Parses addresses separated by commas. An address without a scheme gets the scheme, login and
/// database of the first.
pub(crate) fn addresses(text: &str) -> Result<Vec<ConnectionInfo>, String> {
    const EXAMPLE: &str =
        "it must look like redis://host:6379/0, several nodes like redis://first:6379,second:6379";
    let mut parts = text.split(',').map(str::trim);
    let first = parts
        .next()
        .unwrap_or_default()
        .into_connection_info()
        .map_err(|_| EXAMPLE.to_owned())?;
    let mut all = vec![first];
    for part in parts {
        let info = if part.contains("://") {
            part.into_connection_info()
                .map_err(|_| EXAMPLE.to_owned())?
        } else {
            let (host, port) = part.rsplit_once(':').unwrap_or((part, "6379"));
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = port.parse().map_err(|_| EXAMPLE.to_owned())?;
            if host.is_empty() || host.contains(['/', '@', '?', '#']) {
                return Err(EXAMPLE.into());
            }
            with_address(&all[0], host, port)
        };
        all.push(info);
    }
    if all.len() > 1
        && all
            .iter()
            .any(|info| matches!(info.addr(), ConnectionAddr::Unix(_)))
    {
        return Err(EXAMPLE.into());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_share_the_login_of_the_first() {
        let all =
            addresses("redis://user:secret@one:7001/0, two:7002,redis://three,[::1]:9").unwrap();
        let told: Vec<String> = all.iter().map(|info| info.addr().to_string()).collect();
        assert_eq!(told, ["one:7001", "two:7002", "three:6379", "::1:9"]);
        assert_eq!(all[1].redis_settings().password(), Some("secret"));
        assert_eq!(all[2].redis_settings().password(), None);
        for wrong in [
            "",
            "one:6379",
            "redis://one,",
            "redis://one,two:x",
            "redis://one,two:1/0",
            "redis://one,u@two:1",
        ] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }
}
