//! An isolated environment for one test: a database, a key prefix, a topic and a mail sink on the
//! servers.

use std::collections::BTreeMap;
use std::process::Command;

use firstcome_stack::{
    KafkaCluster, KafkaServer, MailOptions, MailSink, RedisServer, SecureServers, Stack, Tables,
    with_database,
};

use crate::history::RecordedClaims;
use crate::http::{OPS_TOKEN, SIGNING_KEY, StartedApis};
use crate::kafka::TestTopic;
use crate::mysql::Sql;
use crate::process::Process;
use crate::redis::PrefixedKeys;
use crate::system::System;

static TABLES: Tables = Tables::new();

/// The servers of a world.
#[derive(Debug, Clone)]
pub struct WorldStores {
    urls: StoreUrls,
    /// The number of replicas of each partition.
    replication: u8,
    /// Additional settings of the processes. Addresses in them may differ from those in `urls`,
    /// which are for the test itself.
    settings: BTreeMap<&'static str, String>,
}

/// The addresses of the stores. MySQL's address has no database.
#[derive(Debug, Clone, Default)]
pub struct StoreUrls {
    pub redis: String,
    pub mysql: String,
    pub kafka: String,
}

impl WorldStores {
    /// Returns the servers that all tests share, which no test may break.
    pub async fn shared() -> Self {
        let stack = Stack::shared().await.unwrap();
        Self::at(StoreUrls {
            redis: stack.redis.url(),
            mysql: stack.mysql.database_url(""),
            kafka: stack.kafka.bootstrap(),
        })
    }

    pub fn at(urls: StoreUrls) -> Self {
        Self {
            urls,
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
        Self {
            settings: servers.settings(),
            ..Self::at(urls)
        }
    }

    /// Replaces Redis with a private server, which the test may break.
    #[must_use]
    pub fn with_redis(mut self, server: &RedisServer) -> Self {
        self.urls.redis = server.url();
        self
    }

    /// Replaces Redis with several servers. `urls` lists all servers that may hold data, separated
    /// by commas. The product finds them through `settings`.
    #[must_use]
    pub fn with_redis_servers(mut self, urls: &str, settings: &[(&'static str, String)]) -> Self {
        urls.clone_into(&mut self.urls.redis);
        self.settings.extend(settings.iter().cloned());
        self
    }

    /// Replaces MySQL with a private server, or with an address that the test can redirect.
    #[must_use]
    pub fn with_mysql_at(mut self, url: &str) -> Self {
        url.clone_into(&mut self.urls.mysql);
        self
    }

    /// Replaces Kafka with a private server.
    #[must_use]
    pub fn with_kafka(mut self, server: &KafkaServer) -> Self {
        self.urls.kafka = server.bootstrap();
        self
    }

    /// Replaces Kafka with three brokers, each with a copy of every message.
    #[must_use]
    pub fn with_kafka_cluster(mut self, cluster: &KafkaCluster) -> Self {
        self.urls.kafka = cluster.bootstrap();
        self.replication = 3;
        self
    }
}

/// A private database, key prefix, topic with its group, and mail sink.
pub struct World {
    pub sql: Sql,
    pub redis: PrefixedKeys,
    pub topic: TestTopic,
    /// Receives the mails of the world's processes.
    pub mail: MailSink,
    /// The settings and programs of the world.
    pub system: System,
    database: String,
    replication: u8,
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
        let migrated = self.system.migrate(&["--partitions=3", &replication]).await;
        migrated.unwrap();
    }

    /// Creates a world on these servers, with an empty database and no topic.
    pub async fn bare(stores: WorldStores, name: &str) -> Self {
        let id = format!("{name}-{:08x}", rand::random::<u32>());
        let database = id.replace('-', "_");
        Sql::new(&stores.urls.mysql)
            .query(&format!("CREATE DATABASE {database}"))
            .await;
        let mail = MailSink::start(MailOptions::default()).await.unwrap();
        let database_url = with_database(&stores.urls.mysql, &database);
        let mut own = SETTINGS
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec();
        own.extend(System::named(&id));
        own.extend([
            ("DATABASE_URL", database_url.clone()),
            ("REDIS_URL", stores.urls.redis.clone()),
            ("KAFKA_BROKERS", stores.urls.kafka.clone()),
            ("SMTP_URL", mail.url()),
        ]);
        own.extend(stores.settings.clone());
        if let Some(url) = stores.settings.get("DATABASE_URL") {
            own.push(("DATABASE_URL", with_database(url, &database)));
        }
        let system = System::new(None, None, own).unwrap();
        Self {
            claims: RecordedClaims::new(system.logs.folder()),
            sql: Sql::new(&database_url),
            redis: PrefixedKeys::new(&stores.urls.redis, &id),
            topic: TestTopic::new(&stores.urls.kafka, id.clone()),
            mail,
            system,
            database,
            replication: stores.replication,
            apis: StartedApis::default(),
        }
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// Sets a variable for all processes that are started later. An empty value removes it.
    pub fn set(&self, name: &str, value: &str) {
        self.system.set(name, value).unwrap();
    }

    /// Returns the value of a setting, which must be set.
    pub fn setting(&self, name: &str) -> String {
        self.system.settings()[name].clone()
    }

    /// Copies the processes' output so far into a folder, one file each.
    pub fn keep_logs(&self, folder: &std::path::Path) -> std::io::Result<()> {
        self.system.logs.keep(folder)
    }

    /// Starts a program of the product with this world's settings. Values in `env` override them,
    /// and an empty value removes a setting.
    pub fn start(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        let command = self.system.command(program, args, env);
        self.launch(program, args, command.unwrap())
    }

    /// Starts a program's command. Its log is named after the program and the first of `args`.
    pub fn launch(&self, program: &str, args: &[&str], mut command: Command) -> Process {
        let name = format!("{program}-{}", args.first().unwrap_or(&"run"));
        Process(self.system.launch(&name, &mut command).unwrap())
    }
}

/// Settings of every process except the addresses of the stores.
const SETTINGS: [(&str, &str); 11] = [
    ("OPS_TOKEN", OPS_TOKEN),
    ("KAFKA_SIGNING_KEY", SIGNING_KEY),
    ("ALERT_FROM", "firstcome@example.com"),
    ("ALERT_TO", "duty@example.com"),
    // Otherwise, a test with a failing store would wait half a minute for the mail.
    ("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "0"),
    // Long enough for a busy machine, because these tests do not cover slow answers.
    ("STORE_TIMEOUT_MS", "10000"),
    ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "30000"),
    ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "60"),
    ("FIRSTCOME_TEST_QUESTION_TIMEOUT_MS", "10000"),
    ("RUST_LOG", "info"),
    ("RUST_BACKTRACE", "1"),
];
