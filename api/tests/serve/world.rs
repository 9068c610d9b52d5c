//! One test's own part of the servers that all tests share, and the APIs it starts there, in this
//! process.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{SecondsFormat, TimeDelta, Utc};
use clap::Parser;
use firstcome_api::migrate::{self, MigrateArgs};
use firstcome_api::serve::{ServeArgs, Server};
use firstcome_shared::config::{KafkaArgs, MysqlArgs, RedisArgs, StartArgs};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_stack::{Stack, StackOptions};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const OPS_TOKEN: &str = "a-token-for-operators-of-40-characters-x";

/// Longest wait for anything that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

static STACK: OnceCell<Stack> = OnceCell::const_new();

pub(crate) async fn stack() -> &'static Stack {
    STACK.get_or_init(async || Stack::start(StackOptions::default()).await.unwrap_or_else(|e| panic!("{e:#}"))).await
}

/// `serve`'s arguments as the command line reads them.
#[derive(Parser)]
struct ServeLine {
    #[command(flatten)]
    args: ServeArgs,
}

pub(crate) struct World {
    pub(crate) database: String,
    pub(crate) prefix: String,
    pub(crate) topic: String,
    pub(crate) redis: Redis,
    settings: BTreeMap<&'static str, String>,
}

impl World {
    /// Migrated, with admission open.
    pub(crate) async fn new() -> Self {
        let world = Self::closed().await;
        world.open_gate().await;
        world
    }

    /// Migrated, with admission closed.
    pub(crate) async fn closed() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let stack = stack().await;
        stack.mysql.query(&format!("CREATE DATABASE {name}")).await.unwrap();
        let settings = BTreeMap::from([
            ("listen-addr", "127.0.0.1:0".to_owned()),
            ("ops-token", OPS_TOKEN.to_owned()),
            ("user-auth", "trusted-header".to_owned()),
            ("database-url", stack.mysql.database_url(&name)),
            ("redis-url", stack.redis.url()),
            ("redis-key-prefix", name.clone()),
            ("kafka-brokers", stack.kafka.bootstrap()),
            ("kafka-topic", name.clone()),
        ]);
        let redis_args =
            RedisArgs { redis_url: stack.redis.url().into(), redis_key_prefix: name.clone(), redis_timeout_ms: 5_000 };
        let redis = Redis::new(&redis_args.settings()).unwrap();
        let world = Self { database: name.clone(), prefix: name.clone(), topic: name, redis, settings };
        world.migrate().await;
        world
    }

    pub(crate) async fn migrate(&self) {
        let args = MigrateArgs {
            mysql: MysqlArgs {
                database_url: self.settings["database-url"].clone().into(),
                database_pool_size: 2,
                database_timeout_ms: 10_000,
            },
            kafka: KafkaArgs {
                kafka_brokers: self.settings["kafka-brokers"].clone(),
                kafka_topic: self.topic.clone(),
                kafka_group: "unused".into(),
            },
            kafka_partitions: 2,
            kafka_replication: 1,
            start: StartArgs { startup_wait_seconds: 30 },
        };
        migrate::run(args, CancellationToken::new()).await.unwrap();
    }

    pub(crate) async fn open_gate(&self) {
        self.redis.open_gate(&mut self.redis.dedicated().await.unwrap()).await.unwrap();
    }

    /// The same with another setting, by its flag's name.
    #[allow(clippy::needless_pass_by_value)] // reads better at every call
    pub(crate) fn with(&self, setting: &'static str, value: impl Display) -> Self {
        let mut settings = self.settings.clone();
        settings.insert(setting, value.to_string());
        let (database, prefix, topic) = (self.database.clone(), self.prefix.clone(), self.topic.clone());
        Self { database, prefix, topic, redis: self.redis.clone(), settings }
    }

    pub(crate) async fn api(&self) -> Api {
        self.try_api().await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) async fn try_api(&self) -> anyhow::Result<Api> {
        let flags = self.settings.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]);
        let line = ServeLine::try_parse_from(std::iter::once("serve".to_owned()).chain(flags))?;
        let shutdown = CancellationToken::new();
        let server = Server::bind(line.args, &shutdown).await?.expect("nobody told it to stop");
        let base = format!("http://{}", server.address());
        let running = tokio::spawn(server.run(shutdown.clone()));
        Ok(Api { base, client: Client::new(), shutdown, running })
    }

    pub(crate) async fn sql(&self, statement: &str) -> Vec<Vec<String>> {
        let statement = statement.replace("{db}", &self.database);
        stack().await.mysql.query(&statement).await.unwrap_or_else(|e| panic!("{statement}: {e:#}"))
    }

    /// A coupon whose window is over, as time would have made it: nobody may make one that is.
    pub(crate) async fn make_over(&self, api: &Api, quantity: u32) -> (i64, i64) {
        let (id, drop) = api.make(open(quantity)).await;
        let then =
            "opens_at = UTC_TIMESTAMP(3) - INTERVAL 20 MINUTE, closes_at = UTC_TIMESTAMP(3) - INTERVAL 10 MINUTE";
        self.sql(&format!("UPDATE {{db}}.drops SET {then} WHERE id = {drop}")).await;
        let ago = |minutes| (Utc::now() - TimeDelta::minutes(minutes)).timestamp_millis();
        let mut set = redis::cmd("HSET");
        set.arg(self.keys(id, drop).meta).arg("opens_at_ms").arg(ago(20)).arg("closes_at_ms").arg(ago(10));
        set.query_async::<()>(&mut self.redis.connection()).await.unwrap();
        let path = format!("/v1/coupons/{id}");
        until("its window is over", async || api.get(&path).await.json["current_drop"]["state"] == "closed").await;
        (id, drop)
    }

    pub(crate) fn keys(&self, coupon: i64, drop: i64) -> DropKeys {
        self.redis.keys(CouponId(coupon), DropId(drop))
    }

    /// Every key of this test's with its content, to see that nothing changed.
    pub(crate) async fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let mut conn = self.redis.connection();
        let names: Vec<String> =
            redis::cmd("KEYS").arg(format!("{}:*", self.prefix)).query_async(&mut conn).await.unwrap();
        let mut dump = BTreeMap::new();
        for name in names {
            let content: Vec<u8> = redis::cmd("DUMP").arg(&name).query_async(&mut conn).await.unwrap();
            dump.insert(name, content);
        }
        dump
    }

    /// How many messages the topic holds.
    pub(crate) async fn messages(&self) -> i64 {
        use rdkafka::consumer::{BaseConsumer, Consumer as _};
        let (brokers, topic) = (self.settings["kafka-brokers"].clone(), self.topic.clone());
        let count = move || {
            let client: BaseConsumer = rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
            (0..2).map(|p| client.fetch_watermarks(&topic, p, LIMIT).unwrap().1).sum()
        };
        tokio::task::spawn_blocking(count).await.unwrap()
    }
}

impl World {
    /// The same on another Redis, on which admission is closed.
    pub(crate) fn on_redis(&self, url: &str) -> Self {
        let redis_args =
            RedisArgs { redis_url: url.into(), redis_key_prefix: self.prefix.clone(), redis_timeout_ms: 5_000 };
        Self { redis: Redis::new(&redis_args.settings()).unwrap(), ..self.with("redis-url", url) }
    }

    /// What the messages of the topic say.
    pub(crate) async fn payloads(&self) -> Vec<Value> {
        use rdkafka::consumer::{BaseConsumer, Consumer as _};
        use rdkafka::{Message as _, Offset, TopicPartitionList};
        let all = self.messages().await;
        let (brokers, topic) = (self.settings["kafka-brokers"].clone(), self.topic.clone());
        let read = move || {
            let mut config = rdkafka::ClientConfig::new();
            let client: BaseConsumer =
                config.set("bootstrap.servers", brokers).set("group.id", "reader").create().unwrap();
            let mut from = TopicPartitionList::new();
            for partition in 0..2 {
                from.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
            }
            client.assign(&from).unwrap();
            let next = |_| {
                let message = client.poll(LIMIT).expect("a message").unwrap();
                serde_json::from_slice(message.payload().unwrap()).unwrap()
            };
            (0..all).map(next).collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }
}

/// One API, running in this process.
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> (u16, &str) {
        (self.status, self.json["code"].as_str().or(self.json["status"].as_str()).unwrap_or_default())
    }
}

impl Api {
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Answer {
        self.try_ask(method, path, headers, body).await.unwrap()
    }

    pub(crate) async fn try_ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.timeout(LIMIT).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Answer { status, headers, json: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn claim(&self, coupon: i64, user: &str) -> Answer {
        self.ask(Method::POST, &format!("/v1/coupons/{coupon}/claims"), &[("x-user-id", user)], "").await
    }

    pub(crate) async fn mine(&self, coupon: i64, user: &str) -> Answer {
        self.ask(Method::GET, &format!("/v1/coupons/{coupon}/claims/me"), &[("x-user-id", user)], "").await
    }

    pub(crate) async fn ops(&self, method: Method, path: &str, body: &Value) -> Answer {
        let token = format!("Bearer {OPS_TOKEN}");
        self.ask(method, path, &[("authorization", &token)], body.to_string()).await
    }

    pub(crate) async fn patch(&self, coupon: i64, body: Value) -> Answer {
        self.ops(Method::PATCH, &format!("/v1/coupons/{coupon}"), &body).await
    }

    /// Makes a coupon and gives its id and the drop it has.
    pub(crate) async fn make(&self, body: Value) -> (i64, i64) {
        let made = self.ops(Method::POST, "/v1/coupons", &body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let drop = if made.json["current_drop"].is_null() { "next_drop" } else { "current_drop" };
        (made.json["id"].as_i64().unwrap(), made.json[drop]["id"].as_i64().unwrap())
    }

    /// The value of a metric's series.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.json;
        let mut lines = text.as_str().unwrap_or_default().lines();
        lines.find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Stops it as SIGTERM does, and waits for its end.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.running).await.expect("it stops in time").unwrap().unwrap();
    }
}

/// A coupon whose one drop is open from `opens` to `closes` minutes from now.
pub(crate) fn coupon(quantity: u32, opens: i64, closes: i64) -> Value {
    let at = |minutes| (Utc::now() + TimeDelta::minutes(minutes)).to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({
        "name": "Winter coupon", "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": at(opens), "closes_at": at(closes)},
    })
}

/// A coupon that is open.
pub(crate) fn open(quantity: u32) -> Value {
    coupon(quantity, -1, 60)
}

/// The same with one field set otherwise.
pub(crate) fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}

/// Waits until `ask` gives true.
pub(crate) async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let give_up = tokio::time::Instant::now() + LIMIT;
    while !ask().await {
        assert!(tokio::time::Instant::now() < give_up, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
