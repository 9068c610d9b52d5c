//! A shop of its own database and keys, on servers that all tests of this program share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::Utc;
use firstcome_attach::file::AttachFile;
use firstcome_attach::{Confirm, Engine, PassOptions};
use firstcome_shared::config::{MysqlArgs, TlsArgs};
use firstcome_shared::mysql::migrations;
use firstcome_shared::report::{Finding, Outcome, Run, Trigger};
use firstcome_stack::{MysqlServer, MysqlSessions, RedisServer, StackOptions, Tables};
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

static SERVERS: OnceCell<(MysqlServer, RedisServer)> = OnceCell::const_new();
static TABLES: Tables = Tables::new();
static SHOPS: AtomicU32 = AtomicU32::new(0);

const TIMEOUT_MS: u64 = 5_000;

pub(crate) const IN_FLIGHT: Duration = Duration::from_secs(20);

pub(crate) struct Shop {
    database: String,
    pub(crate) ours: String,
    redis_url: String,
    sessions: MysqlSessions,
    redis: MultiplexedConnection,
    pub(crate) prefix: String,
}

async fn servers() -> &'static (MysqlServer, RedisServer) {
    let start = async || {
        let StackOptions { mysql, redis, .. } = StackOptions::without_fsync();
        tokio::try_join!(MysqlServer::start(mysql), RedisServer::start(redis)).unwrap()
    };
    SERVERS.get_or_init(start).await
}

impl Shop {
    /// Creates a shop with these tables.
    pub(crate) async fn new(tables: &[&str]) -> Self {
        let (mysql, redis) = servers().await;
        let number = SHOPS.fetch_add(1, Ordering::Relaxed);
        let [theirs, ours] = ["shop", "ours"].map(|name| format!("engine_{name}_{number}"));
        for name in [&theirs, &ours] {
            mysql
                .query(&format!("CREATE DATABASE {name}"))
                .await
                .unwrap();
        }
        let database = mysql.database_url(&theirs);
        let ours = mysql.database_url(&ours);
        let migrate = async || {
            let settings = MysqlArgs::at(ours.clone().into(), &TlsArgs::default(), TIMEOUT_MS);
            let tables = migrations::Tables::Records;
            migrations::migrate(&settings.unwrap(), tables)
                .await
                .unwrap();
        };
        TABLES.made(&ours, migrate).await.unwrap();
        let shop = Self {
            sessions: MysqlSessions::new(&database),
            database,
            ours,
            redis_url: redis.url(),
            redis: redis.connection().await.unwrap(),
            prefix: format!("engine{number}:"),
        };
        for table in tables {
            shop.sql(table).await;
        }
        shop
    }

    pub(crate) async fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        let rows = self.sessions.rows(sql).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.sql(sql).await[0][0].parse().unwrap()
    }

    /// Runs a command of Redis; `@` is the prefix of the shop's keys.
    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let command = command.replace('@', &self.prefix);
        let mut asked = redis::Cmd::new();
        asked.arg(command.split(' ').collect::<Vec<_>>());
        let answer = asked.query_async(&mut self.redis.clone()).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(crate) async fn add(&self, key: &str, users: impl IntoIterator<Item = u64>) {
        let users: Vec<String> = users.into_iter().map(|user| user.to_string()).collect();
        for some in users.chunks(10_000) {
            let () = self.redis(&format!("SADD {key} {}", some.join(" "))).await;
        }
    }

    pub(crate) fn text(&self, campaigns: &str) -> String {
        let campaigns = campaigns.replace('@', &self.prefix);
        let Self {
            database,
            redis_url,
            ..
        } = self;
        format!("database = {database:?}\nredis = {redis_url:?}\n{campaigns}")
    }

    /// Starts a process with this file; `@` is the prefix of the shop's keys.
    pub(crate) fn engine(&self, campaigns: &str) -> Engine {
        let file = AttachFile::parse(&self.text(campaigns)).unwrap();
        let ours = self.ours.clone().into();
        Engine::new(file, Some(&ours), &TlsArgs::default(), TIMEOUT_MS).unwrap()
    }
}

pub(crate) async fn pass(engine: &Engine, confirm: Option<Confirm>) -> Run {
    let options = PassOptions {
        is_requested: true,
        confirm,
        ..PassOptions::default()
    };
    let mut run = Run::begun("run", Trigger::Cli, Utc::now());
    let stop = CancellationToken::new();
    engine.pass(&options, &mut run, &stop).await.ok().unwrap();
    run
}

/// Passes until everything that differs is old enough.
pub(crate) async fn settle(engine: &Engine) -> Run {
    pass(engine, None).await;
    engine.clock.forward(IN_FLIGHT);
    pass(engine, None).await
}

pub(crate) fn results(run: &Run) -> Vec<(&'static str, Outcome)> {
    let findings = run.all_findings();
    findings
        .map(|it: &Finding| (it.kind.as_str(), it.result))
        .collect()
}
