//! The keys of one world, and plain commands.

use std::time::Duration;

use firstcome_stack::{RedisDump, redis_dump};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisResult, ToRedisArgs, Value,
};

/// Timeout for a Redis that may be broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keys with one prefix: on a single Redis server, on the master among several servers, or on
/// the nodes of a cluster.
#[derive(Debug, Clone)]
pub struct PrefixedKeys {
    clients: Vec<Client>,
    prefix: String,
}

impl PrefixedKeys {
    /// Returns the keys with this prefix in the Redis at this address. Several addresses are
    /// separated by commas.
    pub fn new(urls: &str, prefix: &str) -> Self {
        let clients = urls
            .split(',')
            .map(|url| Client::open(url).unwrap())
            .collect();
        Self {
            clients,
            prefix: prefix.to_owned(),
        }
    }

    async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.unwrap()
    }

    async fn try_connection(&self) -> RedisResult<MultiplexedConnection> {
        if let [only] = self.clients.as_slice() {
            return connect(only).await;
        }
        for client in &self.clients {
            let Ok(mut conn) = connect(client).await else {
                continue;
            };
            let role = redis::cmd("ROLE")
                .query_async::<Vec<Value>>(&mut conn)
                .await
                .unwrap_or_default();
            if role.first() == Some(&Value::BulkString(b"master".into())) {
                return Ok(conn);
            }
        }
        Err((ErrorKind::Io, "none of these is a master").into())
    }

    /// Runs one command, given as words.
    pub async fn command<T: FromRedisValue>(&self, words: &[impl ToRedisArgs]) -> T {
        self.try_command(words).await.unwrap()
    }

    /// Like [`Self::command`], but returns an error if Redis fails.
    pub async fn try_command<T: FromRedisValue>(
        &self,
        words: &[impl ToRedisArgs],
    ) -> RedisResult<T> {
        let mut cmd = Cmd::new();
        for word in words {
            cmd.arg(word);
        }
        match cmd.query_async(&mut self.try_connection().await?).await {
            // `MOVED SLOT HOST:PORT`
            Err(error) if error.code() == Some("MOVED") => {
                let address = error
                    .detail()
                    .and_then(|detail| detail.rsplit(' ').next())
                    .unwrap_or_default();
                cmd.query_async(&mut connect(&Client::open(format!("redis://{address}"))?).await?)
                    .await
            }
            answer => answer,
        }
    }

    /// Reads Redis's clock in Unix milliseconds.
    pub async fn now_ms(&self) -> i64 {
        let (seconds, micros): (i64, i64) = self.command(&["TIME"]).await;
        seconds * 1_000 + micros / 1_000
    }

    /// Returns the name of a key of a drop: `meta`, `count`, `users`, `free`, `waiting`, `times`.
    pub fn of_drop(&self, coupon: i64, drop: i64, name: &str) -> String {
        self.of_coupon(coupon, &format!("drop:{drop}:{name}"))
    }

    /// Returns the name of a key of a coupon: `claimants`, `revoked`, `allowed`, `allow_list`,
    /// `revision`, `gate`.
    pub fn of_coupon(&self, coupon: i64, name: &str) -> String {
        self.own(&format!("{{{coupon}}}:{name}"))
    }

    /// Returns the name of a key of the whole installation.
    pub fn own(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// Whether every gate that exists is open. In a cluster, see [`Self::names`].
    pub async fn gates_are_open(&self) -> bool {
        for name in self.names().await {
            if name.ends_with(":gate") {
                let gate: Option<String> = self.command(&["GET", &name]).await;
                if !gate.is_some_and(|gate| gate.ends_with(" open")) {
                    return false;
                }
            }
        }
        true
    }

    /// Returns the names of all keys with the prefix, sorted. In a cluster, only those on the first
    /// node that is a master.
    pub async fn names(&self) -> Vec<String> {
        let mut conn = self.connection().await;
        let mut cursor = 0_u64;
        let mut names = Vec::new();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(format!("{}:*", self.prefix))
                .arg("COUNT")
                .arg(1_000);
            let (next, page): (u64, Vec<String>) = scan.query_async(&mut conn).await.unwrap();
            names.extend(page);
            if next == 0 {
                break;
            }
            cursor = next;
        }
        names.sort();
        names.dedup();
        names
    }

    /// Returns every key with the prefix, with its content and when it expires. Not for a cluster.
    pub async fn dump(&self) -> RedisDump {
        let names = self.names().await;
        redis_dump(&mut self.connection().await, names)
            .await
            .unwrap()
    }
}

/// Connects with a long timeout, because the client's default of half a second is too short on a
/// busy machine.
async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(PATIENCE))
        .set_connection_timeout(Some(PATIENCE));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}
