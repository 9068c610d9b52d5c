//! Discovers the servers that hold the data: the one in the address, the master named by Sentinel,
//! or the primaries of a Redis Cluster with their hash slots
//! (docs/decisions/0024-redis-cluster.md).

use std::time::Duration;

use crc::{CRC_16_XMODEM, Crc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, Value,
};
use tokio::time::{Instant, timeout_at};

use super::server::fields;
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
    /// Login for the Sentinels; the address contains the login for the master.
    pub username: Option<String>,
    pub password: Option<secrecy::SecretString>,
}

/// TCP timeout for a host that acknowledges nothing. The kernel's default is a quarter of an hour.
const SILENT: Duration = Duration::from_secs(3);

/// Maximum wait for the other replies after the first node has replied.
const OTHERS: Duration = Duration::from_millis(200);

/// Hash slots of a cluster.
pub(super) const HASH_SLOTS: u16 = 16_384;

/// Returns the hash slot of a key, computed from the text between its first braces if there is any
/// (redis.io, "Redis cluster specification", "Hash tags").
pub(super) fn hash_slot(key: &[u8]) -> u16 {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    CRC.checksum(tag.unwrap_or(key)) % HASH_SLOTS
}

/// First and last hash slot of a range.
pub(super) type HashSlots = (u16, u16);

pub(super) fn has_hash_slot(ranges: &[HashSlots], slot: u16) -> bool {
    ranges
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&slot))
}

/// A server that holds data: its address, and its hash slots in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) hash_slots: Vec<HashSlots>,
}

impl Primary {
    /// Host and port.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The configured addresses, and how to discover the primaries through them.
pub(super) struct Seeds {
    addresses: Vec<ConnectionInfo>,
    mode: RedisMode,
    tls: Option<Tls>,
    timeout: Duration,
}

impl Seeds {
    pub(super) fn new(
        url: &str,
        mode: RedisMode,
        tls: Option<Tls>,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let addresses =
            addresses(url).map_err(|why| config_error("REDIS_URL can't be used", why))?;
        Ok(Self {
            addresses,
            mode,
            tls,
            timeout,
        })
    }

    /// Returns all addresses, without user and password.
    pub(super) fn hosts_and_ports(&self) -> String {
        self.addresses
            .iter()
            .map(|info| info.addr().to_string())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Returns the first address, which is probed to find out why it does not answer.
    pub(super) fn first(&self) -> &ConnectionAddr {
        self.addresses[0].addr()
    }

    pub(super) fn database(&self) -> i64 {
        self.addresses[0].redis_settings().db()
    }

    /// Whether other servers can become primaries.
    pub(super) fn may_change(&self) -> bool {
        !matches!(self.mode, RedisMode::Single)
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.mode, RedisMode::Cluster)
    }

    /// Returns the client of the only server, if no discovery is needed.
    pub(super) fn single(&self) -> Option<Result<Client, RedisError>> {
        matches!(self.mode, RedisMode::Single).then(|| self.client(self.addresses[0].clone()))
    }

    /// Returns a client of a server that holds data, with the login of the first address.
    pub(super) fn client_of(&self, primary: &Primary) -> Result<Client, RedisError> {
        self.client(with_address(
            &self.addresses[0],
            &primary.host,
            primary.port,
        ))
    }

    fn client(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(
                TcpKeepalive::new()
                    .with_time(SILENT)
                    .with_interval(SILENT / 3)
                    .with_retries(3),
            )
            .set_user_timeout(SILENT);
        let info = info.set_tcp_settings(tcp);
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.for_redis()),
            None => Client::open(info),
        }
    }

    /// Asks all seeds and all `known` servers concurrently which servers hold the data, because a
    /// server that is cut off returns outdated information. The reply with the highest epoch
    /// decides.
    pub(super) async fn primaries(&self, known: &[String]) -> Result<Vec<Primary>, RedisError> {
        let mut asked = self.addresses.clone();
        if self.is_cluster() {
            let parts = known.iter().filter_map(|address| address.rsplit_once(':'));
            let known = parts.filter_map(|(host, port)| {
                Some(with_address(&self.addresses[0], host, port.parse().ok()?))
            });
            let others: Vec<_> = known
                .filter(|info| asked.iter().all(|seed| seed.addr() != info.addr()))
                .collect();
            asked.extend(others);
        }
        let mut answers: FuturesUnordered<_> =
            asked.into_iter().map(|info| self.ask(info)).collect();
        let mut latest = None::<(u64, Vec<Primary>)>;
        let mut trouble = None;
        let mut others_until = None;
        loop {
            let next = match others_until {
                None => answers.next().await,
                // An unreachable host must not delay discovery.
                Some(until) => timeout_at(until, answers.next()).await.ok().flatten(),
            };
            match next {
                None => break,
                Some(Err(error)) => trouble = Some(error),
                Some(Ok((epoch, primaries))) => {
                    others_until.get_or_insert_with(|| Instant::now() + OTHERS);
                    if latest.as_ref().is_none_or(|(before, _)| *before < epoch) {
                        latest = Some((epoch, primaries));
                    }
                }
            }
        }
        match (latest, trouble) {
            (Some((_, primaries)), _) if !primaries.is_empty() => Ok(primaries),
            (Some(_), _) => Err(config_error(
                "no node of the cluster serves any hash slot",
                "create the cluster first: `redis-cli --cluster create`".into(),
            )),
            (None, Some(error)) => Err(error),
            (None, None) => Err(config_error("REDIS_URL names no server", String::new())),
        }
    }

    /// Asks a server. Returns its reply with its epoch. Newer replies have higher epochs.
    async fn ask(&self, info: ConnectionInfo) -> Result<(u64, Vec<Primary>), RedisError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.timeout))
            .set_connection_timeout(Some(self.timeout));
        match &self.mode {
            RedisMode::Sentinel(settings) => {
                let mut login = redis::RedisConnectionInfo::default();
                if let Some(user) = &settings.username {
                    login = login.set_username(user);
                }
                if let Some(password) = &settings.password {
                    login = login.set_password(secrecy::ExposeSecret::expose_secret(password));
                }
                let client = self.client(info.set_redis_settings(login))?;
                let mut conn = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                let asked = redis::cmd("SENTINEL")
                    .arg("MASTER")
                    .arg(&settings.master)
                    .to_owned();
                let told: Vec<String> = asked
                    .query_async(&mut conn)
                    .await
                    .map_err(|error| of_sentinel(error, settings))?;
                master_told(&told).ok_or_else(|| unexpected("Sentinel"))
            }
            RedisMode::Cluster | RedisMode::Single => {
                let (host, port) = host_and_port(info.addr());
                let client = self.client(info)?;
                let mut conn = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                let mut pipe = redis::pipe();
                pipe.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
                let (told, slots): (String, Value) =
                    pipe.query_async(&mut conn).await.map_err(of_cluster)?;
                let epoch = fields(&told)
                    .get("cluster_current_epoch")
                    .and_then(|text| text.trim().parse().ok());
                let primaries =
                    primaries_told(&slots, &host).ok_or_else(|| unexpected("the cluster"))?;
                tracing::trace!(
                    host,
                    port,
                    ?epoch,
                    primaries = primaries.len(),
                    "a node reported the cluster's slots"
                );
                Ok((epoch.unwrap_or(0), primaries))
            }
        }
    }
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

fn host_and_port(address: &ConnectionAddr) -> (String, u16) {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            (host.clone(), *port)
        }
        other => (other.to_string(), 0),
    }
}

/// Returns an error that a retry cannot resolve.
pub(super) fn config_error(what: &'static str, detail: String) -> RedisError {
    (ErrorKind::InvalidClientConfig, what, detail).into()
}

fn unexpected(who: &'static str) -> RedisError {
    (
        ErrorKind::UnexpectedReturnType,
        "an answer that can't be read",
        format!("from {who}"),
    )
        .into()
}

fn of_sentinel(error: RedisError, settings: &SentinelSettings) -> RedisError {
    let detail = error.detail().unwrap_or_default();
    if detail.contains("No such master") {
        return config_error(
            "Sentinel watches no master of that name",
            format!(
                "REDIS_SENTINEL_MASTER is {}: `SENTINEL MASTERS` lists the names",
                settings.master
            ),
        );
    }
    if detail.contains("unknown command") {
        return config_error(
            "REDIS_URL leads to no Sentinel",
            "name the Sentinels in it, by default on port 26379, or leave REDIS_MODE=sentinel out"
                .into(),
        );
    }
    error
}

fn of_cluster(error: RedisError) -> RedisError {
    let told = error.to_string();
    if told.contains("cluster support disabled") || told.contains("unknown command") {
        return config_error(
            "this Redis is no cluster",
            "leave REDIS_MODE=cluster out".into(),
        );
    }
    error
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

/// Parses the reply to `SENTINEL MASTER`, a flat list of names and values.
fn master_told(told: &[String]) -> Option<(u64, Vec<Primary>)> {
    let field = |name: &str| {
        told.chunks_exact(2)
            .find(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str())
    };
    let host = field("ip")?.to_owned();
    let port = field("port")?.parse().ok()?;
    let epoch = field("config-epoch")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    Some((
        epoch,
        vec![Primary {
            host,
            port,
            hash_slots: vec![(0, HASH_SLOTS - 1)],
        }],
    ))
}

/// Parses the reply of `asked` to `CLUSTER SLOTS`: a range, its primary, then replicas.
fn primaries_told(slots: &Value, asked: &str) -> Option<Vec<Primary>> {
    let Value::Array(ranges) = slots else {
        return None;
    };
    let mut primaries: Vec<Primary> = Vec::new();
    for range in ranges {
        let Value::Array(parts) = range else {
            return None;
        };
        let [Value::Int(first), Value::Int(last), Value::Array(node), ..] = parts.as_slice() else {
            return None;
        };
        let [host, Value::Int(port), ..] = node.as_slice() else {
            return None;
        };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() && host != b"?" => {
                String::from_utf8(host.clone()).ok()?
            }
            // The node does not know its own address, so use the address to which the request was
            // sent.
            Value::Nil | Value::BulkString(_) => asked.to_owned(),
            _ => return None,
        };
        let port = u16::try_from(*port).ok()?;
        let first = u16::try_from(*first).ok()?;
        let last = u16::try_from(*last).ok()?;
        if first > last || last >= HASH_SLOTS {
            return None;
        }
        match primaries
            .iter_mut()
            .find(|known| known.host == host && known.port == port)
        {
            Some(known) => known.hash_slots.push((first, last)),
            None => primaries.push(Primary {
                host,
                port,
                hash_slots: vec![(first, last)],
            }),
        }
    }
    for primary in &mut primaries {
        primary.hash_slots.sort_unstable();
    }
    primaries.sort_by_key(|primary| primary.hash_slots.first().copied());
    Some(primaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_slot_of_a_key_matches_redis() {
        // These are results of `CLUSTER KEYSLOT` in Redis 7.0.
        for (key, slot) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("{7}", hash_slot(b"7")),
            ("", 0),
        ] {
            assert_eq!(hash_slot(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(
            hash_slot(b"fc:{7}:claimants"),
            hash_slot(b"fc:{7}:drop:9:meta")
        );
        assert_eq!(hash_slot(b"foo{}{bar}"), hash_slot(b"foo{}{bar}"));
        assert_ne!(hash_slot(b"foo{}{bar}"), hash_slot(b"bar"));
        assert_eq!(hash_slot(b"foo{{bar}}zap"), hash_slot(b"{bar"));
    }

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

    #[test]
    fn cluster_slots_are_parsed_by_primary() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range =
            |first, last, node| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let told = Value::Array(vec![
            range(5461, 16383, node(text("b"), 2)),
            range(0, 5000, node(text(""), 1)),
            range(5002, 5460, node(Value::Nil, 1)),
            range(5001, 5001, node(text("b"), 2)),
        ]);
        let primaries = primaries_told(&told, "asked").unwrap();
        assert_eq!(
            primaries,
            [
                Primary {
                    host: "asked".into(),
                    port: 1,
                    hash_slots: vec![(0, 5000), (5002, 5460)]
                },
                Primary {
                    host: "b".into(),
                    port: 2,
                    hash_slots: vec![(5001, 5001), (5461, 16383)]
                },
            ]
        );
        for wrong in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(3, 1, node(text("b"), 2))]),
        ] {
            assert_eq!(primaries_told(&wrong, "asked"), None);
        }
    }

    #[test]
    fn master_address_is_parsed_from_the_sentinel_reply() {
        let told = [
            "name",
            "mymaster",
            "ip",
            "10.0.0.1",
            "port",
            "6380",
            "config-epoch",
            "7",
        ]
        .map(str::to_owned);
        let (epoch, primaries) = master_told(&told).unwrap();
        assert_eq!(
            (epoch, primaries[0].host.as_str(), primaries[0].port),
            (7, "10.0.0.1", 6380)
        );
        assert_eq!(master_told(&told[..4]), None);
    }
}
