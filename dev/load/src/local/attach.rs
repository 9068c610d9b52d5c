//! Five coupon systems as published write-ups describe them, each with the keys, the tables and the
//! fault of its kind. A crowd breaks each in its own way; then the attached reconciler observes,
//! mails, and repairs, until there are exactly 100, or those beyond are named.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstcome_stack::{MailOptions, MailSink, MysqlServer, RedisServer, StackOptions};
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::terminal::step;

const QUANTITY: i64 = 100;
const PEOPLE: u32 = 1_000;

/// Concurrent claims.
const CROWD: usize = 64;

/// A system: what its API and its consumer do for one claim, and the file that describes it. In
/// commands, `U` is the user and `N` the ticket.
struct System {
    name: &'static str,
    fault: &'static str,
    /// If this answers 100 or more, the claim ends.
    check: &'static str,
    /// If this answers 0, the user was there already, and the claim ends.
    join: &'static str,
    /// If this answers more than 100, the claim ends.
    ticket: &'static str,
    admit: &'static str,
    /// Tickets whose message is lost.
    lost: Range<i64>,
    /// Tickets whose row is refused, and the event that is kept instead.
    failed: &'static [i64],
    event: &'static str,
    row: &'static str,
    tables: &'static [&'static str],
    campaign: &'static str,
}

/// A system that does nothing.
const NONE: System = System {
    name: "",
    fault: "",
    check: "",
    join: "",
    ticket: "",
    admit: "",
    lost: 0..0,
    failed: &[],
    event: "",
    row: "INSERT INTO coupon (user_id) VALUES (?)",
    tables: &["CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40))"],
    campaign: "",
};

const EVENTS: &str = "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40), done INT DEFAULT 0)";

const SYSTEMS: [System; 5] = [
    System {
        name: "SADD, INCR, a topic and a table of failed events",
        fault: "three inserts fail, two messages are lost, and the counter runs to 1,000",
        join: "SADD applied_user U",
        ticket: "INCR coupon_count",
        lost: 40..42,
        failed: &[20, 50, 70],
        event: "INSERT INTO failed (user_id) VALUES (?)",
        tables: &[NONE.tables[0], EVENTS],
        campaign: "users = { key = 'applied_user', type = 'set', means = 'applied' }
            count = { key = 'coupon_count', means = 'tickets' }
            rows = { table = 'coupon', user = 'user_id', duplicates = 'reported' }
            failed = { table = 'failed', user = 'user_id', done = 'delete' }",
        ..NONE
    },
    System {
        name: "SCARD, then SADD",
        fault: "readers who see 99 at once are all added",
        check: "SCARD event:users",
        join: "SADD event:users U",
        campaign: "users = { key = 'event:users', type = 'set' }
            rows = { table = 'coupon', user = 'user_id', order = 'id', duplicates = 'reported' }",
        ..NONE
    },
    System {
        name: "only INCR, a producer and a consumer",
        fault: "five messages are lost, and nothing names their users",
        ticket: "INCR coupon_count",
        lost: 60..65,
        campaign: "count = { key = 'coupon_count', means = 'tickets' }
            rows = { table = 'coupon', user = 'user_id', duplicates = 'reported' }",
        ..NONE
    },
    System {
        name: "a sorted set, and workers that insert",
        fault: "a worker dies with eight users, who stay in the set without a row",
        ticket: "INCR order",
        admit: "ZADD coupon:users N U",
        lost: 41..49,
        campaign: "users = { key = 'coupon:users', type = 'sorted set' }
            rows = { table = 'coupon', user = 'user_id', order = 'id', duplicates = 'reported' }",
        ..NONE
    },
    System {
        name: "a stock row, a history, and batches over a list",
        fault: "a batch of eight is consumed and lost, and three issues fail",
        ticket: "INCR coupon:count",
        admit: "HSET coupon:issued U 1",
        lost: 31..39,
        failed: &[50, 60, 70],
        event: "INSERT INTO failed (user_id) VALUES (?)",
        row: "INSERT INTO coupon (user_id, stock_id) SELECT ?, id FROM stock WHERE id = 7 FOR UPDATE",
        tables: &[
            "CREATE TABLE stock (id INT PRIMARY KEY, total INT)",
            "INSERT INTO stock VALUES (7, 100)",
            "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40), stock_id INT)",
            EVENTS,
        ],
        campaign: "users = { key = 'coupon:issued', type = 'hash' }
            count = { key = 'coupon:count', means = 'tickets' }
            rows = { table = 'coupon', user = 'user_id', where = { stock_id = 7 }, duplicates = 'locked' }
            failed = { table = 'failed', user = 'user_id', done = { column = 'done', value = 1 } }
            stock = { table = 'stock', where = { id = 7 } }",
        ..NONE
    },
];

/// The stores of one system.
#[derive(Clone)]
struct Shop {
    pool: Pool,
    redis: MultiplexedConnection,
}

impl Shop {
    /// Runs a command, if there is one.
    async fn redis(&mut self, command: &str, user: &str, ticket: i64) -> Result<Option<i64>> {
        if command.is_empty() {
            return Ok(None);
        }
        let ticket = ticket.to_string();
        let words = command.split(' ').map(|word| match word {
            "U" => user,
            "N" => &ticket,
            word => word,
        });
        let mut asked = redis::Cmd::new();
        asked.arg(words.collect::<Vec<_>>());
        Ok(Some(asked.query_async(&mut self.redis).await?))
    }

    async fn claim(mut self, system: &System, user: String) -> Result<()> {
        let user = user.as_str();
        let size = self.redis(system.check, user, 0).await?;
        if size >= Some(QUANTITY) || self.redis(system.join, user, 0).await? == Some(0) {
            return Ok(());
        }
        let ticket = self
            .redis(system.ticket, user, 0)
            .await?
            .unwrap_or_default();
        if ticket > QUANTITY {
            return Ok(());
        }
        self.redis(system.admit, user, ticket).await?;
        if system.lost.contains(&ticket) {
            return Ok(());
        }
        let sql = if system.failed.contains(&ticket) {
            system.event
        } else {
            system.row
        };
        Ok(self.pool.get_conn().await?.exec_drop(sql, (user,)).await?)
    }

    /// Lets users claim concurrently.
    async fn rush(&self, system: &'static System, users: Range<u32>) -> Result<()> {
        let mut claims = JoinSet::new();
        for user in users {
            if claims.len() >= CROWD {
                claims.join_next().await.context("no claim")???;
            }
            claims.spawn(self.clone().claim(system, format!("user-{user:04}")));
        }
        while let Some(claimed) = claims.join_next().await {
            claimed??;
        }
        Ok(())
    }
}

struct Servers {
    mysql: MysqlServer,
    redis: RedisServer,
    mail: MailSink,
    reconciler: firstcome_harness::System,
}

/// Runs the five systems.
pub async fn run() -> Result<()> {
    static ALL: [System; 5] = SYSTEMS;
    step("starting MySQL, Redis and a mail server");
    let (mysql, redis, mail) = tokio::try_join!(
        MysqlServer::start(StackOptions::without_fsync().mysql),
        RedisServer::start(StackOptions::default().redis),
        MailSink::start(MailOptions::default()),
    )?;
    let settings = [
        ("SMTP_URL", mail.url()),
        ("ALERT_FROM", "firstcome@example.com".into()),
        ("ALERT_TO", "duty@example.com".into()),
        ("RUST_LOG", "error".into()),
    ];
    let reconciler = firstcome_harness::System::new(None, None, settings)?;
    let servers = Servers {
        mysql,
        redis,
        mail,
        reconciler,
    };
    for (number, system) in ALL.iter().enumerate() {
        println!(
            "\n== {}. {}\n   fault: {}",
            number + 1,
            system.name,
            system.fault
        );
        servers.show(number, system).await?;
    }
    Ok(())
}

impl Servers {
    async fn show(&self, number: usize, system: &'static System) -> Result<()> {
        let [theirs, ours] = ["shop", "firstcome"].map(|name| format!("{name}_{number}"));
        for name in [&theirs, &ours] {
            self.mysql.query(&format!("CREATE DATABASE {name}")).await?;
        }
        let [database, ours] = [&theirs, &ours].map(|name| self.mysql.database_url(name));
        let address = format!("{}/{number}", self.redis.url());
        let redis = redis::Client::open(address.as_str())?;
        let redis = redis.get_multiplexed_async_connection().await?;
        let shop = Shop {
            pool: Pool::from_url(database.as_str())?,
            redis,
        };
        for table in system.tables {
            shop.pool.get_conn().await?.query_drop(*table).await?;
        }
        shop.rush(system, 0..PEOPLE).await?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("shop.toml");
        let campaign = system.campaign;
        let write = |mode: &str| {
            let stores = format!("database = '{database}'\nredis = '{address}'\n");
            let text =
                format!("name = 'demo'\nquantity = {QUANTITY}\nmode = '{mode}'\nin_flight = '1s'");
            std::fs::write(&file, format!("{stores}[[campaign]]\n{text}\n{campaign}\n"))
        };
        write("observe")?;
        self.pass("observe", &file, &[], &ours)?;
        let mail = self
            .mail
            .wait_for(|_| true, Duration::from_secs(10))
            .await?
            .text();
        let subject = mail.lines().find(|line| line.starts_with("Subject:"));
        println!("   mail: {}", subject.context("a mail without subject")?);
        write("repair")?;
        if self.pass("repair", &file, &[], &ours)? == Some(1) {
            self.pass(
                "confirm",
                &file,
                &["--campaign", "demo", "--confirm"],
                &ours,
            )?;
        }
        // Others claim what a repair has left to claim.
        shop.rush(system, PEOPLE..PEOPLE + 50).await?;
        self.pass("look again", &file, &[], &ours)?;
        self.mail.clear();
        shop.pool.disconnect().await?;
        // The text named the same users to people, and this names them to the check.
        let (_, run) = self.attach(&file, &["--json", "--dry-run"], &ours)?;
        let run: Value = serde_json::from_str(&run)?;
        let findings = run["drops"][0]["findings"].as_array().context("no drop")?;
        let over = findings.iter().filter(|it| it["kind"] == "over_issued");
        let named: BTreeSet<_> = over.filter_map(|it| it["user_id"].as_str()).collect();
        let rows = format!("SELECT user_id FROM {theirs}.coupon ORDER BY id");
        let rows = self.mysql.query(&rows).await?.concat();
        let beyond = rows.get(usize::try_from(QUANTITY)?..);
        let beyond = beyond.context("some are missing and not named")?.iter();
        let beyond: BTreeSet<_> = beyond.map(String::as_str).collect();
        ensure!(named == beyond, "named {named:?}, beyond {beyond:?}");
        match beyond.len() {
            0 => println!("   exactly {QUANTITY}"),
            over => println!("   oversold by {over}, each named above"),
        }
        Ok(())
    }

    /// Runs a pass, prints what it prints, and returns its exit code.
    fn pass(&self, what: &str, file: &Path, args: &[&str], ours: &str) -> Result<Option<i32>> {
        let (code, text) = self.attach(file, &[&["--full-ids"], args].concat(), ours)?;
        println!("   -- {what}");
        text.lines().for_each(|line| println!("      {line}"));
        Ok(code)
    }

    /// Runs a pass, and returns its exit code and output.
    fn attach(&self, file: &Path, args: &[&str], ours: &str) -> Result<(Option<i32>, String)> {
        let file = file.to_str().context("a path that is no text")?;
        let all = [&["attach", file, "--once"], args].concat();
        let own = [("DATABASE_URL", ours)];
        let mut pass = self
            .reconciler
            .command("firstcome-reconciler", &all, &own)?;
        let done = pass.output()?;
        let code = done.status.code();
        ensure!(code != Some(2), "{}", String::from_utf8_lossy(&done.stderr));
        Ok((code, String::from_utf8(done.stdout)?))
    }
}
