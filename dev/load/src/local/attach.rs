//! Five coupon systems as published write-ups describe them, each with the keys, the tables and the
//! fault of its kind. A crowd breaks each in its own way; then the attached reconciler observes,
//! mails, repairs, and what is left is exactly 100, or is named.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstcome_stack::{
    MailOptions, MailSink, MysqlServer, RedisServer, StackOptions, built_program,
};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Pool, TxOpts};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::terminal::step;

/// Coupons of each system, and users of its crowd.
const QUANTITY: i64 = 100;
const PEOPLE: u32 = 1_000;

/// Concurrent claims.
const CROWD: usize = 64;

#[derive(Clone, Copy)]
enum Api {
    Applied,
    CheckThenAdd,
    CountOnly,
    SortedSet,
    StockAndHistory,
}

struct System {
    name: &'static str,
    api: Api,
    /// What breaks in the rush.
    fault: &'static str,
    tables: &'static [&'static str],
    /// The table with a row for each coupon.
    rows: &'static str,
    campaign: &'static str,
}

const COUPON: &str =
    "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) NOT NULL)";

const SYSTEMS: [System; 5] = [
    System {
        name: "SADD, INCR, a topic and a table of failed events",
        api: Api::Applied,
        fault: "three inserts fail, two messages are lost, and the counter runs to 1,000",
        tables: &[
            COUPON,
            "CREATE TABLE failed_event (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) NOT NULL)",
        ],
        rows: "coupon",
        campaign: r#"users = { key = "applied_user", type = "set", means = "applied" }
count = { key = "coupon_count", means = "tickets" }
rows = { table = "coupon", user = "user_id", duplicates = "reported" }
failed = { table = "failed_event", user = "user_id", done = "delete" }"#,
    },
    System {
        name: "SCARD, then SADD",
        api: Api::CheckThenAdd,
        fault: "two readers see 99, and both are added",
        tables: &[
            "CREATE TABLE event_coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, event_id INT, user_id VARCHAR(40), UNIQUE KEY (event_id, user_id))",
        ],
        rows: "event_coupon",
        campaign: r#"users = { key = "event:users", type = "set" }
rows = { table = "event_coupon", user = "user_id", where = { event_id = 7 }, order = "id" }"#,
    },
    System {
        name: "only INCR, a producer and a consumer",
        api: Api::CountOnly,
        fault: "five messages are lost, and nothing names their users",
        tables: &[COUPON],
        rows: "coupon",
        campaign: r#"count = { key = "coupon_count", means = "tickets" }
rows = { table = "coupon", user = "user_id", duplicates = "reported" }"#,
    },
    System {
        name: "a sorted set, and workers that insert",
        api: Api::SortedSet,
        fault: "a worker dies with eight users, who stay in the set without a row",
        tables: &[
            "CREATE TABLE issued (id BIGINT AUTO_INCREMENT PRIMARY KEY, coupon_id INT, user_id VARCHAR(40), issued_at DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3), UNIQUE KEY (coupon_id, user_id))",
        ],
        rows: "issued",
        campaign: r#"users = { key = "coupon:users", type = "sorted set" }
rows = { table = "issued", user = "user_id", where = { coupon_id = 7 }, order = "issued_at" }"#,
    },
    System {
        name: "a stock row, a history, and batches over a list",
        api: Api::StockAndHistory,
        fault: "a batch of eight is consumed and lost; three issues fail, two of them twice",
        tables: &[
            "CREATE TABLE stock (coupon_id INT PRIMARY KEY, total INT NOT NULL)",
            "INSERT INTO stock VALUES (7, 100)",
            "CREATE TABLE history (id BIGINT AUTO_INCREMENT PRIMARY KEY, coupon_id INT, user_id VARCHAR(40))",
            "CREATE TABLE failed_issue (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40), resolved INT NOT NULL DEFAULT 0)",
        ],
        rows: "history",
        campaign: r#"users = { key = "coupon:issued", type = "hash" }
count = { key = "coupon:count", means = "tickets" }
rows = { table = "history", user = "user_id", where = { coupon_id = 7 }, duplicates = "locked" }
failed = { table = "failed_issue", user = "user_id", done = { column = "resolved", value = 1 } }
stock = { table = "stock", where = { coupon_id = 7 } }"#,
    },
];

/// The stores of one system.
#[derive(Clone)]
struct Shop {
    pool: Pool,
    redis: MultiplexedConnection,
}

impl Shop {
    async fn redis<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> Result<T> {
        let mut command = redis::Cmd::new();
        Ok(command.arg(words).query_async(&mut self.redis).await?)
    }

    async fn sql(&self, sql: &str, user: &str) -> Result<()> {
        let mut conn = self.pool.get_conn().await?;
        Ok(conn.exec_drop(sql, (user,)).await?)
    }

    /// What their API and their consumer do for one claim.
    async fn claim(mut self, api: Api, user: String) -> Result<()> {
        let user = user.as_str();
        let insert = "INSERT INTO coupon (user_id) VALUES (?)";
        match api {
            Api::Applied => {
                let is_new: bool = self.redis(&["SADD", "applied_user", user]).await?;
                match self.redis::<i64>(&["INCR", "coupon_count"]).await? {
                    _ if !is_new => Ok(()),
                    101.. | 40 | 80 => Ok(()),
                    20 | 50 | 70 => {
                        self.sql("INSERT INTO failed_event (user_id) VALUES (?)", user)
                            .await
                    }
                    _ => self.sql(insert, user).await,
                }
            }
            Api::CheckThenAdd => {
                let size: i64 = self.redis(&["SCARD", "event:users"]).await?;
                // Long enough for others to read the same.
                let _: String = self.redis(&["PING"]).await?;
                if size >= QUANTITY || !self.redis::<bool>(&["SADD", "event:users", user]).await? {
                    return Ok(());
                }
                let insert = "INSERT INTO event_coupon (event_id, user_id) VALUES (7, ?)";
                self.sql(insert, user).await
            }
            Api::CountOnly => match self.redis::<i64>(&["INCR", "coupon_count"]).await? {
                101.. | 15 | 30 | 45 | 60 | 75 => Ok(()),
                _ => self.sql(insert, user).await,
            },
            Api::SortedSet => {
                let order: i64 = self.redis(&["INCR", "order"]).await?;
                if order > QUANTITY {
                    return Ok(());
                }
                let () = self
                    .redis(&["ZADD", "coupon:users", &order.to_string(), user])
                    .await?;
                if (41..=48).contains(&order) {
                    return Ok(());
                }
                self.sql(
                    "INSERT INTO issued (coupon_id, user_id) VALUES (7, ?)",
                    user,
                )
                .await
            }
            Api::StockAndHistory => self.issue(user).await,
        }
    }

    async fn issue(mut self, user: &str) -> Result<()> {
        let ticket: i64 = self.redis(&["INCR", "coupon:count"]).await?;
        if ticket > QUANTITY {
            return Ok(());
        }
        let () = self.redis(&["HSET", "coupon:issued", user, "1"]).await?;
        match ticket {
            31..=38 => return Ok(()),
            50 | 60 | 70 => {
                self.sql("INSERT INTO failed_issue (user_id) VALUES (?)", user)
                    .await?
            }
            _ => {}
        }
        if [50, 60].contains(&ticket) {
            return self
                .sql("INSERT INTO failed_issue (user_id) VALUES (?)", user)
                .await;
        }
        let mut conn = self.pool.get_conn().await?;
        let mut issue = conn.start_transaction(TxOpts::default()).await?;
        issue
            .query_drop("SELECT total FROM stock WHERE coupon_id = 7 FOR UPDATE")
            .await?;
        let insert = "INSERT INTO history (coupon_id, user_id) VALUES (7, ?)";
        issue.exec_drop(insert, (user,)).await?;
        Ok(issue.commit().await?)
    }

    /// Lets users claim concurrently.
    async fn rush(&self, api: Api, users: std::ops::Range<u32>) -> Result<()> {
        let mut claims = JoinSet::new();
        for user in users {
            if claims.len() >= CROWD {
                claims.join_next().await.context("no claim")???;
            }
            claims.spawn(self.clone().claim(api, format!("user-{user:04}")));
        }
        while let Some(claimed) = claims.join_next().await {
            claimed??;
        }
        Ok(())
    }
}

/// The servers of all systems, and the programs' settings.
struct Servers {
    mysql: MysqlServer,
    redis: RedisServer,
    mail: MailSink,
}

/// Runs the five systems.
pub async fn run() -> Result<()> {
    step("starting MySQL, Redis and a mail server");
    let (mysql, redis, mail) = tokio::try_join!(
        MysqlServer::start(StackOptions::without_fsync().mysql),
        RedisServer::start(StackOptions::default().redis),
        MailSink::start(MailOptions::default()),
    )?;
    let servers = Servers { mysql, redis, mail };
    for (number, system) in SYSTEMS.iter().enumerate() {
        servers.show(number, system).await?;
    }
    Ok(())
}

impl Servers {
    async fn show(&self, number: usize, system: &System) -> Result<()> {
        println!(
            "\n== {}. {}\n   fault: {}",
            number + 1,
            system.name,
            system.fault
        );
        let [theirs, ours] = ["shop", "firstcome"].map(|name| format!("{name}_{number}"));
        for name in [&theirs, &ours] {
            self.mysql.query(&format!("CREATE DATABASE {name}")).await?;
        }
        let (database, ours) = (
            self.mysql.database_url(&theirs),
            self.mysql.database_url(&ours),
        );
        let redis = format!("{}/{number}", self.redis.url());
        let shop = Shop {
            pool: Pool::from_url(database.as_str())?,
            redis: redis::Client::open(redis.as_str())?
                .get_multiplexed_async_connection()
                .await?,
        };
        for table in system.tables {
            shop.pool.get_conn().await?.query_drop(*table).await?;
        }
        let migrated = self.program("firstcome-api", &["migrate"], &ours)?;
        ensure!(
            migrated.status.success(),
            "{}",
            String::from_utf8_lossy(&migrated.stderr)
        );
        shop.rush(system.api, 0..PEOPLE).await?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("shop.toml");
        let write = |mode: &str| {
            let head = format!(
                "database = {database:?}\nredis = {redis:?}\n[[campaign]]\nname = \"demo\""
            );
            let text = format!(
                "{head}\nquantity = {QUANTITY}\nmode = \"{mode}\"\nin_flight = \"1s\"\n{}\n",
                system.campaign
            );
            std::fs::write(&file, text)
        };
        write("observe")?;
        self.pass("observe", &file, &[], &ours)?;
        let limit = Duration::from_secs(10);
        let mail = self.mail.wait_for(|_| true, limit).await?.text();
        let subject = mail.lines().find(|line| line.starts_with("Subject:"));
        println!("   mail: {}", subject.unwrap_or_default());
        self.mail.clear();
        write("repair")?;
        let code = self.pass("repair", &file, &[], &ours)?;
        if code == Some(1) {
            self.pass(
                "confirm",
                &file,
                &["--campaign", "demo", "--confirm"],
                &ours,
            )?;
        }
        // What a repair left to claim, others claim.
        shop.rush(system.api, PEOPLE..PEOPLE + 50).await?;
        self.pass("look again", &file, &[], &ours)?;
        let sql = format!("SELECT COUNT(*) FROM {theirs}.{}", system.rows);
        let rows: i64 = self.mysql.query(&sql).await?[0][0].parse()?;
        match rows - QUANTITY {
            0 => println!("   exactly {QUANTITY}"),
            over @ 1.. => println!("   oversold by {over}, each named above"),
            less => anyhow::bail!("{} are missing and not named", -less),
        }
        self.mail.clear();
        Ok(shop.pool.disconnect().await?)
    }

    /// Runs a pass, prints what it prints, and returns its exit code.
    fn pass(&self, what: &str, file: &Path, args: &[&str], ours: &str) -> Result<Option<i32>> {
        let file = file.to_str().context("a path that is no text")?;
        let all = [&["attach", file, "--once", "--full-ids"], args].concat();
        let done = self.program("firstcome-reconciler", &all, ours)?;
        println!("   -- {what}");
        for line in String::from_utf8_lossy(&done.stdout).lines() {
            println!("      {line}");
        }
        let failed = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.code() != Some(2), "{failed}");
        Ok(done.status.code())
    }

    fn program(&self, name: &str, args: &[&str], ours: &str) -> Result<Output> {
        let mut program = Command::new(built_program(name)?);
        program
            .args(args)
            .env("DATABASE_URL", ours)
            .env("RUST_LOG", "error");
        program.env("SMTP_URL", self.mail.url());
        program
            .env("ALERT_FROM", "firstcome@example.com")
            .env("ALERT_TO", "duty@example.com");
        Ok(program.output()?)
    }
}
