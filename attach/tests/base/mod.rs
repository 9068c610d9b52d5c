//! Another team's coupon system, for the tests of two crates: one MySQL and one Redis for all tests
//! of a program, and separate databases and key prefixes for each test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use firstcome_attach::config::AttachFile;
use firstcome_attach::queue::Queues;
use firstcome_attach::{Attached, Ours};
use firstcome_shared::config::{MysqlArgs, RedisArgs, TlsArgs};
use firstcome_shared::mysql::{Db, DbSettings, migrations};
use firstcome_shared::redis::Redis;
use firstcome_stack::{MysqlServer, MysqlSessions, RedisServer, StackOptions, Tables};
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;

static SERVERS: OnceCell<(MysqlServer, RedisServer)> = OnceCell::const_new();
static TABLES: Tables = Tables::new();
static WORLDS: AtomicU32 = AtomicU32::new(0);

const TIMEOUT_MS: u64 = 5_000;

/// Their database and Redis, and our database.
pub(crate) struct World {
    pub(crate) database: String,
    sessions: MysqlSessions,
    pub(crate) redis_url: String,
    pub(crate) ours: String,
    pub(crate) redis: MultiplexedConnection,
    /// The prefix of its keys' names.
    pub(crate) prefix: String,
}

async fn servers() -> &'static (MysqlServer, RedisServer) {
    let start = async || {
        let StackOptions { mysql, redis, .. } = StackOptions::without_fsync();
        tokio::try_join!(MysqlServer::start(mysql), RedisServer::start(redis)).unwrap()
    };
    SERVERS.get_or_init(start).await
}

pub(crate) fn mysql_at(url: &str) -> DbSettings {
    MysqlArgs::at(url.to_owned().into(), &TlsArgs::default(), TIMEOUT_MS).unwrap()
}

pub(crate) fn redis_at(url: &str) -> Redis {
    let tls = TlsArgs::default();
    let settings = RedisArgs::at(url.to_owned().into(), false, &tls, TIMEOUT_MS);
    Redis::new(&settings.unwrap()).unwrap()
}

impl World {
    /// Creates a world without tables.
    pub(crate) async fn empty() -> Self {
        let (mysql, redis) = servers().await;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let [theirs, ours] = ["shop", "ours"].map(|name| format!("{name}_{number}"));
        for name in [&theirs, &ours] {
            let create = format!("CREATE DATABASE {name}");
            mysql.query(&create).await.unwrap();
        }
        let ours = mysql.database_url(&ours);
        let migrate = async || {
            migrations::migrate(&mysql_at(&ours), migrations::Tables::All)
                .await
                .unwrap();
        };
        TABLES.made(&ours, migrate).await.unwrap();
        let database = mysql.database_url(&theirs);
        Self {
            sessions: MysqlSessions::new(&database),
            database,
            redis_url: redis.url(),
            ours,
            redis: redis.connection().await.unwrap(),
            prefix: format!("w{number}:"),
        }
    }

    pub(crate) async fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        let rows = self.sessions.rows(sql).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Returns the only value of a query.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.sql(sql).await[0][0].parse().unwrap()
    }

    /// Runs a Redis command; `@` is the prefix of the world's keys.
    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let command = command.replace('@', &self.prefix);
        let mut asked = redis::Cmd::new();
        asked.arg(command.split(' ').collect::<Vec<_>>());
        let answer = asked.query_async(&mut self.redis.clone()).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Adds members to a set.
    pub(crate) async fn add_members(&self, key: &str, users: impl IntoIterator<Item = String>) {
        for some in users.into_iter().collect::<Vec<_>>().chunks(5_000) {
            let () = self.redis(&format!("SADD {key} {}", some.join(" "))).await;
        }
    }

    /// The file, with its addresses; `@` is the prefix of the world's keys.
    pub(crate) fn text(&self, campaigns: &str) -> String {
        let campaigns = campaigns.replace('@', &self.prefix);
        format!(
            "database = {:?}\nredis = {:?}\n{campaigns}",
            self.database, self.redis_url
        )
    }

    pub(crate) fn attached(&self, campaigns: &str) -> Attached {
        self.attached_with(campaigns, Queues::default())
    }

    pub(crate) fn attached_with(&self, campaigns: &str, queues: Queues) -> Attached {
        let file = AttachFile::parse(&self.text(campaigns)).unwrap();
        let settings = mysql_at(&self.ours);
        let ours = Ours {
            db: Db::new(&settings).unwrap(),
            settings,
        };
        Attached {
            theirs: mysql_at(&file.database),
            redis: redis_at(&file.redis),
            queues,
            file: Arc::new(file),
            ours: Some(ours),
        }
    }
}

/// Records the mappings of all campaigns as confirmed.
pub(crate) async fn trust(attached: &Attached) {
    let ours = attached.ours.as_ref().unwrap();
    for campaign in &attached.file.campaigns {
        ours.trust(&attached.file, campaign).await.unwrap();
    }
}
