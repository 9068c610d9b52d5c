//! Coupon systems as published write-ups and repositories describe them, each with the keys, the
//! tables and the fault of its kind. A crowd breaks each in its own way. Then the attached
//! reconciler observes, mails, and repairs, until exactly 100 coupons are issued, or it has
//! reported the users of those beyond 100.

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

/// A system: the commands and statements of its API and its consumer for one claim, and the file
/// that describes it. In commands, `U` is the user and `N` the ticket.
struct System {
    name: &'static str,
    fault: &'static str,
    /// Commands before the sale.
    opens: &'static [&'static str],
    /// A script that admits. Its `ARGV[1]` is the user. It returns the ticket, or 0 for a user who
    /// is not admitted.
    script: &'static str,
    /// Commands after the sale that lose data in Redis.
    breaks: &'static [&'static str],
    /// If this command returns 100 or more, the claim ends.
    check: &'static str,
    /// If this command returns 0, the claim ends: the user has already claimed, or nothing is left.
    join: &'static str,
    /// If this command returns more than 100, the claim ends.
    ticket: &'static str,
    admit: &'static str,
    /// Tickets whose message is lost.
    lost: Range<i64>,
    /// Tickets whose row is refused, and the statement that stores an event instead.
    failed: &'static [i64],
    event: &'static str,
    /// The statement that writes the row. Its only parameter is the user. If it signals an error,
    /// the event is stored.
    row: &'static str,
    /// The query that reads what is left after a row, and the command that the consumer runs in
    /// Redis once that is 0.
    left: &'static str,
    sold_out: &'static str,
    tables: &'static [&'static str],
    campaign: &'static str,
    /// Further campaigns of the file. `MODE` stands for their mode. With these, the first campaign
    /// only observes, and the team's own program issues the coupons that its passes find missing.
    more: &'static str,
    /// The campaigns whose repairs an operator confirms.
    repaired: &'static [&'static str],
}

/// The defaults of a system: no command, and a plain table of coupons.
const NONE: System = System {
    name: "",
    fault: "",
    opens: &[],
    script: "",
    breaks: &[],
    check: "",
    join: "",
    ticket: "",
    admit: "",
    lost: 0..0,
    failed: &[],
    event: "",
    row: "INSERT INTO coupon (user_id) VALUES (?)",
    left: "",
    sold_out: "",
    tables: &["CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40))"],
    campaign: "",
    more: "",
    repaired: &["demo"],
};

const EVENTS: &str = "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40), done INT DEFAULT 0)";

const SYSTEMS: [System; 9] = [
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
            failed = { table = 'failed', user = 'user_id', where = {}, done = { column = 'done', value = 1 } }
            stock = { table = 'stock', where = { id = 7 } }",
        ..NONE
    },
    System {
        name: "a script that takes from a stock, and a set",
        fault: "five messages are lost, and a failover of Redis forgets the last two claims",
        opens: &["SET sale:stock 100"],
        script: "if redis.call('SISMEMBER', 'sale:users', ARGV[1]) == 1 then return 0 end
            if tonumber(redis.call('GET', 'sale:stock')) <= 0 then return 0 end
            redis.call('SADD', 'sale:users', ARGV[1])
            return 100 - redis.call('DECR', 'sale:stock')",
        lost: 40..45,
        breaks: &["SPOP sale:users 2", "INCRBY sale:stock 2"],
        campaign: "users = { key = 'sale:users', type = 'set' }
            count = { key = 'sale:stock', means = 'left' }
            rows = { table = 'coupon', user = 'user_id', duplicates = 'reported' }",
        ..NONE
    },
    System {
        name: "a stock, a hash of requests, a place and a code in each row",
        fault: "a worker dies with eight requests, and the stock is three too high",
        opens: &["SET policy:stock 100"],
        script: "if redis.call('HEXISTS', 'policy:users', ARGV[1]) == 1 then return 0 end
            if tonumber(redis.call('GET', 'policy:stock')) <= 0 then return 0 end
            redis.call('DECR', 'policy:stock')
            local place = redis.call('INCR', 'policy:sequence')
            redis.call('HSET', 'policy:users', ARGV[1], 'request-' .. ARGV[1])
            redis.call('HSET', 'policy:requests', 'request-' .. ARGV[1], place)
            return place",
        lost: 61..69,
        breaks: &["INCRBY policy:stock 3"],
        row: "INSERT INTO coupon (user_id, sequence_no, code) VALUES (?, N, REPLACE(UUID(), '-', ''))",
        tables: &[
            "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) UNIQUE, \
            sequence_no INT NOT NULL, code CHAR(32) NOT NULL UNIQUE)",
        ],
        campaign: "users = { key = 'policy:users', type = 'hash', value = 'repaired' }
            count = { key = 'policy:stock', means = 'left' }
            [campaign.rows]
            table = 'coupon'
            user = 'user_id'
            insert = { sequence_no = 0, code = '{random:32}' }",
        ..NONE
    },
    System {
        name: "a set of users over two stocks, and a status",
        fault: "six messages are lost, and one of the stocks is two too high",
        opens: &["MSET stock:1 60 stock:2 40"],
        script: "if redis.call('SISMEMBER', 'event:3', ARGV[1]) == 1 then return 0 end
            local first = tonumber(redis.call('GET', 'stock:1'))
            local second = tonumber(redis.call('GET', 'stock:2'))
            if first + second <= 0 then return 0 end
            redis.call('SADD', 'event:3', ARGV[1])
            redis.call('DECR', first > 0 and 'stock:1' or 'stock:2')
            return 101 - first - second",
        lost: 58..64,
        breaks: &["INCRBY stock:2 2"],
        row: "INSERT INTO coupon (event_id, stock_id, user_id, status) \
            VALUES (3, IF(N <= 60, 1, 2), ?, IF(N < 20, 'USED', 'ISSUED'))",
        tables: &[
            "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, event_id INT, stock_id INT, \
            user_id VARCHAR(40), status VARCHAR(9), UNIQUE (event_id, user_id))",
        ],
        campaign: "users = { key = 'event:3', type = 'set' }
            rows = { table = 'coupon', user = 'user_id', where = { event_id = 3, status = ['ISSUED', 'USED'] } }",
        more: "[[campaign]]
            name = 'stock 1'
            mode = 'MODE'
            quantity = 60
            in_flight = '1s'
            count = { key = 'stock:1', means = 'left' }
            rows = { table = 'coupon', user = 'user_id', where = { stock_id = 1, status = ['ISSUED', 'USED'] } }
            [[campaign]]
            name = 'stock 2'
            mode = 'MODE'
            quantity = 40
            in_flight = '1s'
            count = { key = 'stock:2', means = 'left' }
            rows = { table = 'coupon', user = 'user_id', where = { stock_id = 2, status = ['ISSUED', 'USED'] } }",
        repaired: &["stock 1", "stock 2"],
        ..NONE
    },
    System {
        name: "a stock column that a consumer lowers, and a set of the coupons that are left",
        fault: "three inserts fail after the column was lowered, and the sold-out coupon is in the \
            set again",
        opens: &["SADD available 7"],
        join: "SISMEMBER available 7",
        event: "INSERT INTO failed (user_id) VALUES (?)",
        row: "CALL issue(?)",
        left: "SELECT remaining FROM stock WHERE id = 7",
        sold_out: "SREM available 7",
        breaks: &["SADD available 7"],
        tables: &[
            "CREATE TABLE stock (id INT PRIMARY KEY, total INT, remaining INT)",
            "INSERT INTO stock VALUES (7, 100, 100)",
            "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40), stock_id INT)",
            EVENTS,
            "CREATE PROCEDURE issue(IN winner VARCHAR(40))
            BEGIN
                UPDATE stock SET remaining = remaining - 1 WHERE id = 7 AND remaining > 0;
                IF ROW_COUNT() = 1 THEN
                    IF winner IN ('user-0010', 'user-0020', 'user-0030') THEN
                        SIGNAL SQLSTATE '45000';
                    END IF;
                    INSERT INTO coupon (user_id, stock_id) VALUES (winner, 7);
                END IF;
            END",
        ],
        campaign: "rows = { table = 'coupon', user = 'user_id', where = { stock_id = 7 }, duplicates = 'locked' }
            failed = { table = 'failed', user = 'user_id', where = {}, done = { column = 'done', value = 1 } }
            stock = { table = 'stock', where = { id = 7 }, left = 'remaining' }
            sale = { key = 'available', member = '7' }",
        ..NONE
    },
];

/// MySQL's error for a `SIGNAL`.
const SIGNALLED: u16 = 1644;

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
        let command = words.collect::<Vec<_>>().join(" ");
        Ok(Some(
            command_of(&command).query_async(&mut self.redis).await?,
        ))
    }

    /// Runs the system's script, and returns the ticket.
    async fn script(&mut self, script: &str, user: &str) -> Result<i64> {
        let mut asked = redis::cmd("EVAL");
        asked.arg(script).arg(0).arg(user);
        Ok(asked.query_async(&mut self.redis).await?)
    }

    async fn claim(mut self, system: &System, user: String) -> Result<()> {
        let user = user.as_str();
        if !system.script.is_empty() {
            return match self.script(system.script, user).await? {
                0 => Ok(()),
                ticket => self.issue(system, user, ticket).await,
            };
        }
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
        self.issue(system, user, ticket).await
    }

    /// Writes the row of a user or, if that fails, the event, unless the message is lost.
    async fn issue(&mut self, system: &System, user: &str, ticket: i64) -> Result<()> {
        if system.lost.contains(&ticket) {
            return Ok(());
        }
        let sql = if system.failed.contains(&ticket) {
            system.event.to_owned()
        } else {
            row(system, ticket)
        };
        let mut conn = self.pool.get_conn().await?;
        match conn.exec_drop(sql, (user,)).await {
            Err(mysql_async::Error::Server(error)) if error.code == SIGNALLED => {
                conn.exec_drop(system.event, (user,)).await?;
            }
            done => done?,
        }
        if !system.left.is_empty() && conn.query_first(system.left).await? == Some(0_i64) {
            self.redis(system.sold_out, user, ticket).await?;
        }
        Ok(())
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

fn command_of(words: &str) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    command.arg(words.split(' ').collect::<Vec<_>>());
    command
}

/// Returns the statement that writes a row.
fn row(system: &System, ticket: i64) -> String {
    let words = system.row.split_inclusive(['(', ' ', ',']);
    words
        .map(|word| match word.strip_prefix('N') {
            Some(after @ ("" | " " | ",")) => format!("{ticket}{after}"),
            _ => word.to_owned(),
        })
        .collect()
}

struct Servers {
    mysql: MysqlServer,
    redis: RedisServer,
    mail: MailSink,
    reconciler: firstcome_harness::System,
}

/// Runs all systems, one after the other.
pub async fn run() -> Result<()> {
    static ALL: [System; 9] = SYSTEMS;
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
        for command in system.opens {
            let _done: redis::Value = command_of(command)
                .query_async(&mut shop.redis.clone())
                .await?;
        }
        shop.rush(system, 0..PEOPLE).await?;
        for command in system.breaks {
            let _done: redis::Value = command_of(command)
                .query_async(&mut shop.redis.clone())
                .await?;
        }
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("shop.toml");
        let System { campaign, more, .. } = system;
        let write = |mode: &str| {
            let stores = format!("database = '{database}'\nredis = '{address}'\n");
            let more = more.replace("MODE", mode);
            let first = if more.is_empty() { mode } else { "observe" };
            let text =
                format!("name = 'demo'\nquantity = {QUANTITY}\nmode = '{first}'\nin_flight = '1s'");
            let text = format!("{stores}[[campaign]]\n{text}\n{campaign}\n{more}\n");
            std::fs::write(&file, text)
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
        if !system.more.is_empty() {
            self.issue_what_is_named(&shop, system, &file, &ours)
                .await?;
        }
        write("repair")?;
        if self.pass("repair", &file, &[], &ours)? == Some(1) {
            for campaign in system.repaired {
                let confirm = ["--campaign", campaign, "--confirm"];
                self.pass("confirm", &file, &confirm, &ours)?;
            }
        }
        // More users claim what is left after the repair.
        shop.rush(system, PEOPLE..PEOPLE + 50).await?;
        self.pass("look again", &file, &[], &ours)?;
        self.mail.clear();
        shop.pool.disconnect().await?;
        // The passes above print these users as text for people. The check below reads JSON.
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
        let examined = &run["drops"][0]["examined"];
        let [users, rows] = ["users", "rows"].map(|what| &examined[what]);
        match beyond.len() {
            0 => println!("   exactly {QUANTITY}; examined: {users} users in Redis, {rows} rows"),
            over => println!(
                "   oversold by {over}, each named above; examined: {users} users in Redis, \
                {rows} rows"
            ),
        }
        Ok(())
    }

    /// Issues the coupons that a pass found missing, as the team's own program would: only that
    /// program knows from which stock each one comes.
    async fn issue_what_is_named(
        &self,
        shop: &Shop,
        system: &System,
        file: &Path,
        ours: &str,
    ) -> Result<()> {
        let (_, run) = self.attach(file, &["--json", "--campaign", "demo"], ours)?;
        let run: Value = serde_json::from_str(&run)?;
        let findings = run["drops"][0]["findings"].as_array().context("no drop")?;
        let unissued = findings.iter().filter(|it| it["kind"] == "unissued");
        let users: Vec<&str> = unissued.filter_map(|it| it["user_id"].as_str()).collect();
        let lost: Vec<i64> = system.lost.clone().collect();
        ensure!(
            users.len() == lost.len(),
            "{} of {lost:?} are named",
            users.len()
        );
        println!("   their program issues the {} that are named", users.len());
        for (user, ticket) in users.into_iter().zip(lost) {
            let mut conn = shop.pool.get_conn().await?;
            conn.exec_drop(row(system, ticket), (user,)).await?;
        }
        Ok(())
    }

    /// Runs a pass, prints its output, and returns its exit code.
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
        let stderr = String::from_utf8_lossy(&done.stderr);
        ensure!(matches!(code, Some(0 | 1)), "{}: {stderr}", done.status);
        Ok((code, String::from_utf8(done.stdout)?))
    }
}
