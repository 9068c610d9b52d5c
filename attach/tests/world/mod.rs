//! A world for coupon systems of others. One MySQL and one Redis for all tests. Each test has a database and a prefix of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::Utc;
use firstcome_attach::config::AttachFile;
use firstcome_attach::pass::Request;
use firstcome_attach::queue::Queues;
use firstcome_attach::{Attached, Ours};
use firstcome_shared::config::{MysqlArgs, RedisArgs, TlsArgs};
use firstcome_shared::mysql::{Db, DbSettings, migrations};
use firstcome_shared::redis::Redis;
use firstcome_shared::report::{Finding, Run, Trigger};
use firstcome_stack::{MysqlServer, RedisServer, StackOptions, Tables, mysql_rows};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

static SERVERS: OnceCell<(MysqlServer, RedisServer)> = OnceCell::const_new();
static TABLES: Tables = Tables::new();
static WORLDS: AtomicU32 = AtomicU32::new(0);

const TIMEOUT_MS: u64 = 5_000;

/// Their database and Redis, and our database.
pub(crate) struct World {
    database: String,
    redis_url: String,
    ours: String,
    redis: MultiplexedConnection,
    /// Begins the names of its keys.
    prefix: String,
}

async fn servers() -> &'static (MysqlServer, RedisServer) {
    let start = async || {
        let StackOptions { mysql, redis, .. } = StackOptions::without_fsync();
        tokio::try_join!(MysqlServer::start(mysql), RedisServer::start(redis)).unwrap()
    };
    SERVERS.get_or_init(start).await
}

fn mysql_at(url: &str) -> DbSettings {
    MysqlArgs::at(url.to_owned().into(), &TlsArgs::default(), TIMEOUT_MS).unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        let (mysql, redis) = servers().await;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let [theirs, ours] = ["shop", "ours"].map(|name| format!("{name}_{number}"));
        for name in [&theirs, &ours] {
            mysql
                .query(&format!("CREATE DATABASE {name}"))
                .await
                .unwrap();
        }
        let ours = mysql.database_url(&ours);
        let migrate = async || {
            migrations::migrate(&mysql_at(&ours)).await.unwrap();
        };
        TABLES.made(&ours, migrate).await.unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        let patient = AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&patient);
        Self {
            database: mysql.database_url(&theirs),
            redis_url: redis.url(),
            ours,
            redis: connection.await.unwrap(),
            prefix: format!("s{number}:"),
        }
    }

    pub(crate) async fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        let rows = mysql_rows(&self.database, sql).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs a Redis command; `@` is the prefix of the world's keys.
    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let command = command.replace('@', &self.prefix);
        let mut asked = redis::Cmd::new();
        asked.arg(command.split(' ').collect::<Vec<_>>());
        let answer = asked.query_async(&mut self.redis.clone()).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Reads a file without addresses; `@` is the prefix of the world's keys.
    pub(crate) fn attached(&self, text: &str, queues: Queues) -> Attached {
        let stores = format!(
            "database = {:?}\nredis = {:?}\n",
            self.database, self.redis_url
        );
        let text = format!("{stores}{}", text.replace('@', &self.prefix));
        let file = AttachFile::parse(&text).unwrap();
        let settings = mysql_at(&self.ours);
        let redis = RedisArgs::at(
            file.redis.clone().into(),
            false,
            &TlsArgs::default(),
            TIMEOUT_MS,
        );
        Attached {
            theirs: mysql_at(&file.database),
            redis: Redis::new(&redis.unwrap()).unwrap(),
            queues,
            file: Arc::new(file),
            ours: Some(Ours {
                db: Db::new(&settings).unwrap(),
                settings,
            }),
        }
    }
}

/// Runs one pass, and returns its findings.
pub(crate) async fn pass(attached: &Attached, request: Request) -> Vec<Finding> {
    let mut run = Run::begun("run", Trigger::Cli, Utc::now());
    let stop = CancellationToken::new();
    attached.compare(request, &mut run, &stop).await.unwrap();
    run.all_findings().cloned().collect()
}

/// Says how often which kind became what.
pub(crate) fn told(findings: &[Finding]) -> Vec<String> {
    let mut all: Vec<String> = findings
        .iter()
        .map(|it| format!("{} {}", it.kind.as_str(), it.result.as_str()))
        .collect();
    all.sort();
    let mut told = Vec::new();
    for same in all.chunk_by(|a, b| a == b) {
        told.push(format!("{} {}", same.len(), same[0]));
    }
    told
}
