//! The world of a test: its database, topic and key prefix on the shared servers, and the APIs that
//! it starts in this process.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{NaiveDate, SecondsFormat, TimeDelta, Utc};
use firstcome_api::serve::ApiServer;
use firstcome_shared::claim::Claim;
use firstcome_shared::config::{KafkaArgs, MysqlArgs, TlsArgs};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::gate::Opened;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::{Redis, RedisDurability, RedisMode, RedisSettings};
use firstcome_stack::{MysqlSessions, eventually, redis_dump, tokens};
use redis::{FromRedisValue, ToRedisArgs};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) use crate::support::{LIMIT, stack, until};
use crate::support::{RunningProgram, create_topic, new_database, parse};

pub(crate) const OPS_TOKEN: &str = "a-token-for-operators-of-40-characters-x";

pub(crate) const REDEEM_TOKEN: &str = "a-token-for-shops-of-some-characters-yz";

const TOKEN_SECRET: &str = "a secret of more than thirty-two bytes";

/// Builds an `Authorization` header with a user's token, with the claims of `more` added or
/// overridden.
pub(crate) fn bearer(user: &str, more: &Value) -> String {
    let exp = Utc::now().timestamp() + 3_600;
    let mut claims = json!({"sub": user, "iss": "shop", "aud": "coupons", "exp": exp});
    let more = more.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(more);
    let header = json!({"alg": "HS256"});
    let token = tokens::token(&header, &claims, TOKEN_SECRET.as_bytes());
    format!("Bearer {token}")
}

/// Returns the date in UTC. In the last two minutes of a day, waits for the next one, so that the
/// date does not change during the test.
pub(crate) async fn today() -> NaiveDate {
    eventually("the next day", 3 * LIMIT, async || {
        (Utc::now() + TimeDelta::minutes(2)).date_naive() == Utc::now().date_naive()
    })
    .await;
    Utc::now().date_naive()
}

/// Partitions of each test's topic.
const PARTITIONS: i32 = 2;

#[derive(Clone)]
pub(crate) struct ServeWorld {
    /// Name of the database and the topic, and prefix of the keys in Redis.
    pub(crate) name: String,
    pub(crate) redis: Redis,
    sessions: MysqlSessions,
    settings: BTreeMap<&'static str, String>,
}

impl ServeWorld {
    /// Creates a world with admission open.
    pub(crate) async fn new() -> Self {
        let world = Self::closed().await;
        world.open_gate().await;
        world
    }

    /// Creates a world with admission open and one API.
    pub(crate) async fn with_api() -> (Self, InProcessApi) {
        let world = Self::new().await;
        let api = world.api().await;
        (world, api)
    }

    /// Creates a world with admission closed.
    pub(crate) async fn closed() -> Self {
        let stack = stack().await;
        let name = new_database(&stack.mysql).await;
        let settings = BTreeMap::from([
            ("listen-addr", "127.0.0.1:0".to_owned()),
            ("ops-token", OPS_TOKEN.to_owned()),
            ("redeem-token", REDEEM_TOKEN.to_owned()),
            ("user-auth", "trusted-header".to_owned()),
            // Long timeouts for busy machines.
            ("question-timeout-ms", "5000".to_owned()),
            ("store-timeout-ms", "5000".to_owned()),
            ("publish-deadline-ms", "8000".to_owned()),
            ("backup-deadline-ms", "5000".to_owned()),
            ("database-url", stack.mysql.database_url(&name)),
            ("redis-url", stack.redis.url()),
            ("redis-key-prefix", name.clone()),
            ("kafka-brokers", stack.kafka.bootstrap()),
            ("kafka-topic", name.clone()),
            ("kafka-signing-key", "k".repeat(32)),
        ]);
        let redis = redis_client(&stack.redis.url(), name.clone());
        let world = Self {
            name,
            redis,
            sessions: MysqlSessions::new(&stack.mysql.url()),
            settings,
        };
        world.create_topic().await;
        world
    }

    pub(crate) async fn create_topic(&self) {
        let own = ["kafka-brokers", "kafka-topic", "kafka-signing-key"];
        let flags = own.map(|name| format!("--{name}={}", self.settings[name]));
        let args: KafkaArgs = parse(flags).unwrap();
        let kafka = args.settings(&TlsArgs::default()).unwrap();
        create_topic(&kafka, PARTITIONS).await;
    }

    /// Opens every existing coupon, as the reconciler does.
    pub(crate) async fn open_gate(&self) {
        let servers = self.redis.servers().await.unwrap();
        for row in self.sql("SELECT id, era FROM {db}.coupons").await {
            let [coupon, era] = [row[0].parse().unwrap(), row[1].parse().unwrap()];
            let coupon = CouponId(coupon);
            let server = servers.holding(coupon).unwrap();
            let seen = self.redis.coupon_state(coupon).await.unwrap().gate;
            let era = u64::try_from(era).unwrap();
            let begun = self.redis.begin_era_on(coupon, server, &seen, era).await;
            let fence = begun.unwrap().unwrap();
            let opened = self.redis.open(coupon, &fence, &[]).await.unwrap();
            assert_eq!(opened, Opened::Yes);
        }
    }

    /// Returns this world with a setting changed, by the name of its flag.
    #[allow(clippy::needless_pass_by_value)] // reads better at every call
    pub(crate) fn with(&self, setting: &'static str, value: impl Display) -> Self {
        let mut world = self.clone();
        world.settings.insert(setting, value.to_string());
        world
    }

    /// Returns this world with tokens for users.
    pub(crate) fn with_tokens(&self) -> Self {
        self.with("user-auth", "jwt")
            .with("jwt-algorithm", "HS256")
            .with("jwt-secret", TOKEN_SECRET)
            .with("jwt-issuer", "shop")
            .with("jwt-audience", "coupons")
    }

    pub(crate) async fn api(&self) -> InProcessApi {
        self.try_api()
            .await
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) async fn try_api(&self) -> anyhow::Result<InProcessApi> {
        let flags = self
            .settings
            .iter()
            .map(|(name, value)| format!("--{name}={value}"));
        let stop = CancellationToken::new();
        let server = ApiServer::bind(parse(flags)?, &stop)
            .await?
            .expect("the token is not cancelled");
        let base = format!("http://{}", server.address()?);
        let task = tokio::spawn(server.run(stop.clone()));
        Ok(InProcessApi {
            base,
            client: Client::new(),
            running: RunningProgram { stop, task },
        })
    }

    /// Connects to the database as the services do.
    pub(crate) fn db(&self) -> Db {
        let url = format!("--database-url={}", self.settings["database-url"]);
        let args: MysqlArgs = parse([url]).unwrap();
        Db::new(&args.settings().unwrap()).unwrap()
    }

    pub(crate) async fn sql(&self, statement: &str) -> Vec<Vec<String>> {
        let statement = statement.replace("{db}", &self.name);
        let rows = self.sessions.rows(&statement).await;
        rows.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Creates a coupon and moves its window to the past, because the API refuses to create a
    /// closed one.
    pub(crate) async fn make_over(&self, api: &InProcessApi, quantity: u32) -> (i64, i64) {
        let (id, drop) = api.make(open(quantity)).await;
        let then = "opens_at = UTC_TIMESTAMP(3) - INTERVAL 20 MINUTE, closes_at = UTC_TIMESTAMP(3) - INTERVAL 10 MINUTE";
        self.sql(&format!("UPDATE {{db}}.drops SET {then} WHERE id = {drop}"))
            .await;
        let ago = |minutes| (Utc::now() - TimeDelta::minutes(minutes)).timestamp_millis();
        let opened = ago(20).to_string();
        let closed = ago(10).to_string();
        let meta = self.keys(id, DropId(drop)).meta;
        self.ask_redis::<()>(&[
            "HSET",
            &meta,
            "opens_at_ms",
            &opened,
            "closes_at_ms",
            &closed,
        ])
        .await;
        let path = format!("/v1/coupons/{id}");
        until("the drop is closed", async || {
            api.get(&path).await.json["current_drop"]["state"] == "closed"
        })
        .await;
        (id, drop)
    }

    pub(crate) fn keys(&self, coupon: i64, drop: DropId) -> DropKeys {
        self.redis.keys(CouponId(coupon), drop)
    }

    /// Returns all keys of this test with their contents, to detect changes.
    pub(crate) async fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let pattern = format!("{}:*", self.name);
        let mut names: Vec<String> = self.ask_redis(&["KEYS", &pattern]).await;
        // Each process writes these keys once a second, to check whether Redis takes writes.
        names.retain(|name| !name.contains(":writes:"));
        let dump = redis_dump(&mut self.redis.connection(), names).await;
        dump.unwrap()
            .into_iter()
            .map(|(name, (content, _))| (name, content))
            .collect()
    }

    /// Sends one command to Redis.
    pub(crate) async fn ask_redis<T: FromRedisValue>(&self, words: &[impl ToRedisArgs]) -> T {
        let mut cmd = redis::Cmd::new();
        for word in words {
            cmd.arg(word);
        }
        cmd.query_async(&mut self.redis.connection()).await.unwrap()
    }

    /// Inserts the row of an issued coupon.
    pub(crate) async fn issue(&self, coupon: i64, drop: DropId, slot: u32, user: &str) {
        let columns = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_by, slot_limit, person_scope";
        let values = format!(
            "{drop}, {slot}, {coupon}, '{user}', 'CODE-{slot}', UTC_TIMESTAMP(3), 'consumer', l.slot_limit, l.person_scope"
        );
        self.sql(&format!(
            "INSERT INTO {{db}}.issued_coupons ({columns}) SELECT {values} FROM {{db}}.slot_limits l \
             WHERE l.drop_id = {drop} AND l.slot_limit >= {slot} ORDER BY l.slot_limit LIMIT 1"
        ))
        .await;
    }

    /// Returns the number of messages on the topic.
    pub(crate) async fn messages(&self) -> i64 {
        use rdkafka::consumer::{BaseConsumer, Consumer as _};
        let brokers = self.settings["kafka-brokers"].clone();
        let topic = self.name.clone();
        let count = move || {
            let client: BaseConsumer = rdkafka::ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .create()
                .unwrap();
            (0..PARTITIONS)
                .map(|p| client.fetch_watermarks(&topic, p, LIMIT).unwrap().1)
                .sum()
        };
        tokio::task::spawn_blocking(count).await.unwrap()
    }

    /// Returns the claims in the topic's messages.
    pub(crate) async fn published(&self) -> Vec<Claim> {
        use rdkafka::consumer::{BaseConsumer, Consumer as _};
        use rdkafka::{Message as _, Offset, TopicPartitionList};
        let all = self.messages().await;
        let brokers = self.settings["kafka-brokers"].clone();
        let topic = self.name.clone();
        let read = move || {
            let mut config = rdkafka::ClientConfig::new();
            let client: BaseConsumer = config
                .set("bootstrap.servers", brokers)
                .set("group.id", "reader")
                .create()
                .unwrap();
            let mut from = TopicPartitionList::new();
            from.add_partition_range(&topic, 0, PARTITIONS - 1);
            from.set_all_offsets(Offset::Beginning).unwrap();
            client.assign(&from).unwrap();
            let next = |_| {
                let message = client.poll(LIMIT).expect("a message").unwrap();
                Claim::decode(message.payload().unwrap()).unwrap()
            };
            (0..all).flat_map(next).collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    /// Returns this world on another Redis, where admission is closed.
    pub(crate) fn on_redis(&self, url: &str) -> Self {
        Self {
            redis: redis_client(url, self.name.clone()),
            ..self.with("redis-url", url)
        }
    }
}

fn redis_client(url: &str, prefix: String) -> Redis {
    Redis::new(&RedisSettings {
        url: url.into(),
        prefix,
        timeout: Duration::from_secs(5),
        mode: RedisMode::default(),
        durability: RedisDurability::default(),
    })
    .unwrap()
}

/// An API that runs in this process.
pub(crate) struct InProcessApi {
    pub(crate) base: String,
    pub(crate) client: Client,
    running: RunningProgram,
}

#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) json: Value,
}

impl HttpAnswer {
    pub(crate) fn code(&self) -> (u16, &str) {
        (
            self.status,
            self.json["code"]
                .as_str()
                .or(self.json["status"].as_str())
                .unwrap_or_default(),
        )
    }

    #[track_caller]
    pub(crate) fn is(&self, status: u16, code: &str) {
        assert_eq!(self.code(), (status, code), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn has_status(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
    }

    /// Checks that the problem's sentence contains this text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        let detail = self.json["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(text), "{text}: {self:?}");
    }
}

impl InProcessApi {
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> HttpAnswer {
        self.try_ask(method, path, headers, body).await.unwrap()
    }

    pub(crate) async fn try_ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> reqwest::Result<HttpAnswer> {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.timeout(LIMIT).send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await?;
        Ok(HttpAnswer {
            status,
            headers,
            json: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        })
    }

    pub(crate) async fn get(&self, path: &str) -> HttpAnswer {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn claim(&self, coupon: i64, user: &str) -> HttpAnswer {
        self.ask(
            Method::POST,
            &format!("/v1/coupons/{coupon}/claims"),
            &[("x-user-id", user)],
            "",
        )
        .await
    }

    pub(crate) async fn mine(&self, coupon: i64, user: &str) -> HttpAnswer {
        self.ask(
            Method::GET,
            &format!("/v1/coupons/{coupon}/claims/me"),
            &[("x-user-id", user)],
            "",
        )
        .await
    }

    pub(crate) async fn ops(&self, method: Method, path: &str, body: &Value) -> HttpAnswer {
        let token = format!("Bearer {OPS_TOKEN}");
        self.ask(method, path, &[("authorization", &token)], body.to_string())
            .await
    }

    pub(crate) async fn patch(&self, coupon: i64, body: Value) -> HttpAnswer {
        self.ops(Method::PATCH, &format!("/v1/coupons/{coupon}"), &body)
            .await
    }

    /// Creates a coupon and returns its id and its drop.
    pub(crate) async fn make(&self, body: Value) -> (i64, i64) {
        let made = self.ops(Method::POST, "/v1/coupons", &body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let drop = if made.json["current_drop"].is_null() {
            "next_drop"
        } else {
            "current_drop"
        };
        (
            made.json["id"].as_i64().unwrap(),
            made.json[drop]["id"].as_i64().unwrap(),
        )
    }

    /// Returns the value of a metric's series, or 0 if there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.json;
        let mut lines = text.as_str().unwrap_or_default().lines();
        lines
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or(0.0)
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }
}

/// Builds the body that creates a coupon with one drop, whose window is given in minutes from now.
pub(crate) fn coupon(quantity: u32, minutes: RangeInclusive<i64>) -> Value {
    let (opens, closes) = minutes.into_inner();
    let at = |minutes| {
        (Utc::now() + TimeDelta::minutes(minutes)).to_rfc3339_opts(SecondsFormat::Millis, true)
    };
    json!({
        "name": "Winter coupon", "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": at(opens), "closes_at": at(closes)},
    })
}

pub(crate) fn open(quantity: u32) -> Value {
    coupon(quantity, -1..=60)
}

/// Returns this body with one field added or changed.
pub(crate) fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}
