//! Another team's stores: one server of each product for all tests, and databases and
//! a key prefix for each test.

use std::sync::atomic::{AtomicU32, Ordering};

use firstcome_shared::config::{MysqlArgs, TlsArgs};
use firstcome_shared::mysql::{DbSettings, migrations};
use firstcome_shops::Product;
use firstcome_stack::{
    LOCK_WAITS, MariadbOptions, MariadbServer, MysqlServer, MysqlSessions, PostgresOptions,
    PostgresServer, RedisServer, StackOptions, Tables, mysql_connection,
};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

static SERVERS: OnceCell<(MysqlServer, RedisServer)> = OnceCell::const_new();
static MARIADB: OnceCell<MariadbServer> = OnceCell::const_new();
static POSTGRES: OnceCell<PostgresServer> = OnceCell::const_new();
static TABLES: Tables = Tables::new();
static WORLDS: AtomicU32 = AtomicU32::new(0);

const TIMEOUT_MS: u64 = 5_000;

/// A team's database, their Redis, and our database.
pub(crate) struct World {
    pub(crate) database: String,
    shop: Shop,
    pub(crate) redis_url: String,
    redis: MultiplexedConnection,
    prefix: String,
    pub(crate) ours: String,
}

enum Shop {
    Mysql(MysqlSessions),
    Postgres(tokio_postgres::Client),
}

/// A transaction of their own program.
pub(crate) enum Transaction {
    Mysql(Conn),
    Postgres(tokio_postgres::Client),
}

impl Transaction {
    pub(crate) async fn run(&mut self, statement: &str) -> Result<(), String> {
        match self {
            Self::Mysql(conn) => {
                let done = conn.query_drop(statement).await;
                done.map_err(|error| error.to_string())
            }
            Self::Postgres(client) => {
                let done = client.batch_execute(statement).await;
                done.map_err(|error| format!("{error:?}"))
            }
        }
    }
}

pub(crate) async fn servers() -> &'static (MysqlServer, RedisServer) {
    let start = async || {
        let StackOptions { mysql, redis, .. } = StackOptions::without_fsync();
        tokio::try_join!(MysqlServer::start(mysql), RedisServer::start(redis)).unwrap()
    };
    SERVERS.get_or_init(start).await
}

fn settings(url: &str) -> DbSettings {
    MysqlArgs::at(url.to_owned().into(), &TlsArgs::default(), TIMEOUT_MS).unwrap()
}

impl World {
    /// Creates a world, and runs these statements of its team.
    pub(crate) async fn new(statements: &[&str]) -> Self {
        Self::on(Product::Mysql, statements).await
    }

    pub(crate) async fn on(product: Product, statements: &[&str]) -> Self {
        let (mysql, redis) = servers().await;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let [theirs, ours] = ["shop", "ours"].map(|name| format!("{name}_{number}"));
        mysql
            .query(&format!("CREATE DATABASE {ours}"))
            .await
            .unwrap();
        let ours = mysql.database_url(&ours);
        let migrate = async || {
            let records = migrations::Tables::Records;
            migrations::migrate(&settings(&ours), records)
                .await
                .unwrap();
        };
        TABLES.made(&ours, migrate).await.unwrap();
        let create = format!("CREATE DATABASE {theirs}");
        let (database, shop) = match product {
            Product::Mysql => {
                mysql.query(&create).await.unwrap();
                let database = mysql.database_url(&theirs);
                let sessions = MysqlSessions::new(&database);
                (database, Shop::Mysql(sessions))
            }
            Product::Mariadb => {
                let start = async || MariadbServer::start(MariadbOptions).await.unwrap();
                let mariadb = MARIADB.get_or_init(start).await;
                let first = MysqlSessions::new(&mariadb.database_url(""));
                first.rows(&create).await.unwrap();
                let database = mariadb.database_url(&theirs);
                let sessions = MysqlSessions::new(&database);
                (database, Shop::Mysql(sessions))
            }
            Product::Postgres => {
                let start = async || {
                    PostgresServer::start(PostgresOptions::default())
                        .await
                        .unwrap()
                };
                let postgres = POSTGRES.get_or_init(start).await;
                let first = postgres.client("postgres").await.unwrap();
                first.batch_execute(&create).await.unwrap();
                let client = postgres.client(&theirs).await.unwrap();
                (postgres.url(&theirs), Shop::Postgres(client))
            }
        };
        let world = Self {
            database,
            shop,
            redis_url: redis.url(),
            redis: redis.connection().await.unwrap(),
            prefix: format!("w{number}:"),
            ours,
        };
        for statement in statements {
            world.sql(statement).await;
        }
        world
    }

    /// Moves to another database of Redis, behind a login.
    pub(crate) async fn with_login(mut self) -> Self {
        let name = self.named("login@").replace(':', "");
        let mut login = redis::cmd("ACL");
        login.arg(&["SETUSER", &name, "on", ">p@ss/w:rd", "~*", "+@all"]);
        let () = login.query_async(&mut self.redis).await.unwrap();
        let login = format!("redis://{name}:p%40ss%2Fw%3Ard@");
        self.redis_url = format!("{}/3", self.redis_url.replace("redis://", &login));
        let client = redis::Client::open(self.redis_url.as_str()).unwrap();
        self.redis = client.get_multiplexed_async_connection().await.unwrap();
        self
    }

    /// Runs a statement of the team and returns its rows as text.
    pub(crate) async fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_sql(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn try_sql(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        match &self.shop {
            Shop::Mysql(sessions) => {
                let rows = sessions.rows(sql).await;
                rows.map_err(|error| error.to_string())
            }
            Shop::Postgres(client) => {
                let answer = client.simple_query(sql).await;
                let answer = answer.map_err(|error| format!("{error:?}"))?;
                let rows = answer.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(
                        (0..row.len())
                            .map(|at| row.get(at).unwrap_or("NULL").to_owned())
                            .collect(),
                    ),
                    _ => None,
                });
                Ok(rows.collect())
            }
        }
    }

    /// Begins a transaction of their own program. It is rolled back when it is dropped.
    pub(crate) async fn transaction(&self) -> Transaction {
        let mut transaction = match &self.shop {
            Shop::Mysql(sessions) => {
                Transaction::Mysql(mysql_connection(sessions.url()).await.unwrap())
            }
            Shop::Postgres(_) => {
                let connecting = tokio_postgres::connect(&self.database, NoTls).await;
                let (client, connection) = connecting.unwrap();
                tokio::spawn(connection);
                Transaction::Postgres(client)
            }
        };
        transaction.run("BEGIN").await.unwrap();
        transaction
    }

    /// Creates a login of MySQL with this right only.
    pub(crate) async fn login(&self, grant: &str) -> String {
        let name = self.named("reader_@").replace(':', "");
        self.sql(&format!("CREATE USER {name}")).await;
        self.sql(&format!("{grant} {name}")).await;
        name
    }

    /// Whether a statement of their database waits for a lock.
    pub(crate) async fn has_waiter(&self) -> bool {
        let waiting = match &self.shop {
            Shop::Mysql(_) => LOCK_WAITS,
            Shop::Postgres(_) => {
                "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND wait_event_type = 'Lock'"
            }
        };
        self.number(waiting).await > 0
    }

    /// Returns the only value of a query.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.sql(sql).await[0][0].parse().unwrap()
    }

    /// Writes the world's prefix for `@`.
    pub(crate) fn named(&self, text: &str) -> String {
        text.replace('@', &self.prefix)
    }

    /// Runs a Redis command; `@` is the prefix of the world's keys.
    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let command = self.named(command);
        let mut asked = redis::Cmd::new();
        asked.arg(command.split(' ').collect::<Vec<_>>());
        let answer = asked.query_async(&mut self.redis.clone()).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs a script with one argument.
    pub(crate) async fn script<T: redis::FromRedisValue>(
        &self,
        script: &str,
        keys: &[&str],
        argument: u32,
    ) -> T {
        let mut asked = redis::cmd("EVAL");
        asked.arg(script).arg(keys.len()).arg(keys).arg(argument);
        asked.query_async(&mut self.redis.clone()).await.unwrap()
    }

    /// Runs each step: a Redis command if it begins with its name in capitals and is no SQL.
    pub(crate) async fn run(&self, steps: &[&str]) {
        for step in steps {
            if firstcome_shops::is_statement(step) {
                self.sql(step).await;
            } else {
                let _reply: redis::Value = self.redis(step).await;
            }
        }
    }

    /// Adds members to a set.
    pub(crate) async fn add_members(&self, key: &str, users: impl IntoIterator<Item = String>) {
        for some in chunks(users) {
            let () = self.redis(&format!("SADD {key} {}", some.join(" "))).await;
        }
    }

    /// Inserts a row of `coupon` for each user.
    pub(crate) async fn add_rows(&self, users: impl IntoIterator<Item = String>) {
        let values = users.into_iter().map(|user| format!("('{user}')"));
        for some in chunks(values) {
            let insert = format!("INSERT INTO coupon (user_id) VALUES {}", some.join(", "));
            self.sql(&insert).await;
        }
    }

    /// The file with its addresses.
    pub(crate) fn file(&self, rest: &str) -> String {
        let [database, redis] = [&self.database, &self.redis_url];
        let rest = self.named(rest);
        format!("database = {database:?}\nredis = {redis:?}\n{rest}")
    }
}

/// Splits texts for commands and statements, and keeps no more of them in memory.
fn chunks(texts: impl IntoIterator<Item = String>) -> impl Iterator<Item = Vec<String>> {
    let mut texts = texts.into_iter();
    std::iter::from_fn(move || {
        let some: Vec<String> = texts.by_ref().take(5_000).collect();
        (!some.is_empty()).then_some(some)
    })
}

pub(crate) fn users(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}
