//! An isolated environment for one test: a database, a key prefix, a topic and a mail sink on the
//! servers.

use parking_lot::Mutex;
use std::collections::BTreeMap;

use firstcome_shared::tuning::Tuning;
use firstcome_stack::{
    KafkaCluster, KafkaServer, MailOptions, MailSink, MysqlServer, RedisServer, SecureServers,
    Stack, StackOptions, Tables, built_program, with_database,
};
use tokio::sync::OnceCell;

use crate::LIMIT;
use crate::history::RecordedClaims;
use crate::http::{OPS_TOKEN, SIGNING_KEY, StartedApis};
use crate::kafka::TestTopic;
use crate::logs::Logs;
use crate::mysql::Sql;
use crate::process::Process;
use crate::redis::PrefixedKeys;

static STACK: OnceCell<Stack> = OnceCell::const_new();
static TABLES: Tables = Tables::new();

/// Returns the servers that all tests of this binary share. They are started at first use and
/// always end with the process. No test may break them (see [`WorldStores`]).
pub async fn shared() -> &'static Stack {
    let start = async || {
        Stack::start(StackOptions::without_fsync())
            .await
            .unwrap_or_else(|error| panic!("{error:#}"))
    };
    STACK.get_or_init(start).await
}

/// The servers of a world.
#[derive(Debug, Clone)]
pub struct WorldStores {
    redis: String,
    mysql: String,
    kafka: String,
    /// The number of replicas of each partition.
    replication: u8,
    /// Settings of the processes, which may have other addresses. The test uses the addresses
    /// above.
    settings: BTreeMap<String, String>,
}

/// The addresses of the stores. MySQL's address has no database.
#[derive(Debug, Default)]
pub struct StoreUrls {
    pub redis: String,
    pub mysql: String,
    pub kafka: String,
}

impl WorldStores {
    /// Returns the servers that all tests share.
    pub async fn shared() -> Self {
        let stack = shared().await;
        Self::at(StoreUrls {
            redis: stack.redis.url(),
            mysql: stack.mysql.database_url(""),
            kafka: stack.kafka.bootstrap(),
        })
    }

    pub fn at(urls: StoreUrls) -> Self {
        let StoreUrls {
            redis,
            mysql,
            kafka,
        } = urls;
        Self {
            redis,
            mysql,
            kafka,
            replication: 1,
            settings: BTreeMap::new(),
        }
    }

    /// Returns servers that processes can reach only over TLS and with logins.
    pub fn secure(servers: &SecureServers) -> Self {
        let urls = StoreUrls {
            redis: servers.door_to_redis(),
            mysql: servers.door_to_mysql().unwrap(),
            kafka: servers.door_to_kafka(),
        };
        let settings = servers
            .settings()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Self {
            settings,
            ..Self::at(urls)
        }
    }

    /// Replaces Redis with a private server, which the test may break.
    #[must_use]
    pub fn with_redis(mut self, server: &RedisServer) -> Self {
        self.redis = server.url();
        self
    }

    /// Replaces Redis with several servers. `urls` lists all servers that may hold data, separated
    /// by commas. The product finds them through `settings`.
    #[must_use]
    pub fn with_redis_servers(mut self, urls: &str, settings: &[(&str, String)]) -> Self {
        urls.clone_into(&mut self.redis);
        self.settings.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        self
    }

    /// Replaces MySQL with a private server.
    #[must_use]
    pub fn with_mysql(mut self, server: &MysqlServer) -> Self {
        self.mysql = server.database_url("");
        self
    }

    /// Replaces MySQL with a server behind an address that the test can redirect.
    #[must_use]
    pub fn with_mysql_at(mut self, url: &str) -> Self {
        url.clone_into(&mut self.mysql);
        self
    }

    /// Replaces Kafka with a private server.
    #[must_use]
    pub fn with_kafka(mut self, server: &KafkaServer) -> Self {
        self.kafka = server.bootstrap();
        self
    }

    /// Replaces Kafka with three brokers, each with a copy of every message.
    #[must_use]
    pub fn with_kafka_cluster(mut self, cluster: &KafkaCluster) -> Self {
        self.kafka = cluster.bootstrap();
        self.replication = 3;
        self
    }
}

/// A private database, key prefix, topic with its group, and mail sink.
pub struct World {
    pub sql: Sql,
    pub redis: PrefixedKeys,
    pub topic: TestTopic,
    /// Receives its mails.
    pub mail: MailSink,
    database: String,
    replication: u8,
    env: Mutex<BTreeMap<String, String>>,
    logs: Logs,
    pub(crate) apis: StartedApis,
    pub(crate) claims: RecordedClaims,
}

impl World {
    /// Creates a world on the shared servers, with tables and a topic.
    pub async fn new(name: &str) -> Self {
        Self::on(WorldStores::shared().await, name).await
    }

    /// Creates a world on these servers, with tables and a topic.
    pub async fn on(stores: WorldStores, name: &str) -> Self {
        let world = Self::bare(stores, name).await;
        TABLES
            .migrated(world.sql.url(), async || world.migrate().await)
            .await
            .unwrap();
        world
    }

    /// Creates a world on the shared servers, with tables but no topic, for tests that start no
    /// process.
    pub async fn of_tables(name: &str) -> Self {
        let world = Self::bare(WorldStores::shared().await, name).await;
        TABLES
            .made(world.sql.url(), async || world.migrate().await)
            .await
            .unwrap();
        world
    }

    /// Creates missing tables and the topic.
    pub async fn migrate(&self) {
        let replication = format!("--replication={}", self.replication);
        let args = ["migrate", "--partitions=3", &replication];
        let migrate = self.start("firstcome-api", &args, &[]);
        assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
    }

    /// Creates a world on these servers, with an empty database and no topic.
    pub async fn bare(stores: WorldStores, name: &str) -> Self {
        let id = format!("{name}-{:08x}", rand::random::<u32>());
        let database = id.replace('-', "_");
        Sql::new(&stores.mysql)
            .query(&format!("CREATE DATABASE {database}"))
            .await;
        let mail = MailSink::start(MailOptions::default()).await.unwrap();
        let database_url = with_database(&stores.mysql, &database);
        let mut env = settings(&id);
        env.insert("DATABASE_URL".into(), database_url.clone());
        env.insert("REDIS_URL".into(), stores.redis.clone());
        env.insert("KAFKA_BROKERS".into(), stores.kafka.clone());
        env.insert("SMTP_URL".into(), mail.url());
        env.extend(stores.settings.clone());
        if let Some(url) = stores.settings.get("DATABASE_URL") {
            env.insert("DATABASE_URL".into(), with_database(url, &database));
        }
        let logs = Logs::new();
        Self {
            claims: RecordedClaims::new(logs.folder()),
            sql: Sql::new(&database_url),
            redis: PrefixedKeys::new(&stores.redis, &id),
            topic: TestTopic::new(&stores.kafka, id.clone()),
            mail,
            database,
            replication: stores.replication,
            env: Mutex::new(env),
            logs,
            apis: StartedApis::default(),
        }
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// Sets a variable for all processes that are started later. An empty value removes it.
    pub fn set(&self, name: &str, value: &str) {
        assert_read(name);
        self.env.lock().insert(name.into(), value.into());
    }

    /// Returns the value of a setting, which must be set.
    pub fn setting(&self, name: &str) -> String {
        self.env.lock()[name].clone()
    }

    /// Returns all settings by name.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        self.env.lock().clone()
    }

    /// Copies the processes' output so far into a folder, one file each.
    pub fn keep_logs(&self, folder: &std::path::Path) -> std::io::Result<()> {
        self.logs.keep(folder)
    }

    /// Starts a program of the product with this world's settings. Values in `env` override them,
    /// and an empty value removes a setting.
    pub fn start(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        for (name, _) in env {
            assert_read(name);
        }
        let mut all = self.env.lock().clone();
        all.extend(
            env.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        all.retain(|_, value| !value.is_empty());
        Process::start(&self.logs, &built_program(program).unwrap(), args, &all)
    }

    /// Starts a program with only these settings.
    pub fn start_alone(
        &self,
        program: &str,
        args: &[&str],
        env: &BTreeMap<String, String>,
    ) -> Process {
        Process::start(&self.logs, &built_program(program).unwrap(), args, env)
    }
}

/// Fails if no program reads the variable, because a test that shortens a constant under a wrong
/// name would only be slow. `ProcessClock` sets the clock's variable.
fn assert_read(variable: &str) {
    let is_known = variable
        .strip_prefix("FIRSTCOME_TEST_")
        .is_none_or(|name| name == "CLOCK" || Tuning::named(name).is_some());
    assert!(is_known, "no program reads {variable}");
}

/// Returns the settings of every process except the addresses of the stores.
fn settings(id: &str) -> BTreeMap<String, String> {
    [
        ("REDIS_KEY_PREFIX", id),
        ("KAFKA_TOPIC", id),
        ("KAFKA_GROUP", id),
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("OPS_TOKEN", OPS_TOKEN),
        ("KAFKA_SIGNING_KEY", SIGNING_KEY),
        ("USER_AUTH", "trusted-header"),
        ("ALERT_FROM", "firstcome@example.com"),
        ("ALERT_TO", "duty@example.com"),
        // Scheduled passes would disturb tests, so a test must enable them.
        ("RECONCILE_CRON", "0 0 0 1 1 *"),
        ("DEEP_CRON", "0 0 0 1 1 *"),
        ("DIGEST_CRON", "0 0 0 1 1 *"),
        // A test with a failing store would otherwise wait a minute for the mail.
        ("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "0"),
        // Long enough for a busy machine, because these tests do not cover slow answers.
        ("STORE_TIMEOUT_MS", "10000"),
        ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "4000"),
        ("FIRSTCOME_TEST_QUESTION_TIMEOUT_MS", "10000"),
        ("RUST_LOG", "info"),
        ("RUST_BACKTRACE", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.logs.print();
        }
    }
}
