//! Ten coupon systems of others. A crowd rushes each, its own fault breaks it, and the attached
//! reconciler names what is wrong and, after a confirmation, writes the rows that were lost.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use firstcome_stack::{MysqlServer, RedisServer, StackOptions};
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::terminal::step;

const QUANTITY: i64 = 100;
const PEOPLE: u32 = 1_000;

/// Concurrent claims.
const CROWD: usize = 64;

/// A system. In its steps, `U` is the user.
struct System {
    name: &'static str,
    fault: &'static str,
    tables: &'static [&'static str],
    opens: &'static [&'static str],
    /// The script of its API: `ARGV[1]` is the user. Returns the ticket; 0: not admitted.
    script: &'static str,
    /// The statements of its consumer.
    rows: &'static [&'static str],
    /// Tickets whose message is lost.
    lost: &'static [i64],
    /// The statement for a lost message, if it becomes a failed event.
    event: &'static str,
    /// What else breaks after the sale.
    breaks: &'static [&'static str],
    file: &'static str,
    /// Returns one number, which is 100 in the end.
    exact: &'static str,
}

const COUPON: &str =
    "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) UNIQUE)";

const UP: &str = "if redis.call('SADD', 'users', ARGV[1]) == 0 then return 0 end
    local n = redis.call('INCR', 'count')
    if n > 100 then redis.call('SREM', 'users', ARGV[1]); redis.call('DECR', 'count'); return 0 end
    return n";

const DOWN: &str = "if redis.call('SISMEMBER', 'users', ARGV[1]) == 1 then return 0 end
    if tonumber(redis.call('GET', 'stock')) <= 0 then return 0 end
    redis.call('SADD', 'users', ARGV[1])
    return 100 - redis.call('DECR', 'stock')";

const NONE: System = System {
    name: "",
    fault: "",
    tables: &[COUPON],
    opens: &["SET stock 100"],
    script: DOWN,
    rows: &["INSERT INTO coupon (user_id) VALUES ('U')"],
    lost: &[],
    event: "",
    breaks: &[],
    file: "",
    exact: "SELECT COUNT(*) FROM coupon",
};

const SYSTEMS: [System; 10] = [
    System {
        name: "a counter that counts up, and a set",
        fault: "three messages are lost",
        opens: &[],
        script: UP,
        lost: &[20, 50, 70],
        file: r#"[[campaign]]
name = "Coupon"
quantity = 100
promised = { set = "users" }
issued = "SELECT user_id FROM coupon"
count = { key = "count", counts = "up" }
queue = []
in_flight = "1s"
mode = "repair"
issue = ["INSERT INTO coupon (user_id) VALUES (:user)"]
check = []"#,
        ..NONE
    },
    System {
        name: "a script that takes from a stock, and a set",
        fault: "a failover of Redis forgets the last two claims",
        breaks: &["SPOP users 2", "INCRBY stock 2"],
        file: r#"[[campaign]]
name = "Coupon"
quantity = 100
promised = { set = "users" }
issued = "SELECT user_id FROM coupon"
count = { key = "stock", counts = "down" }
in_flight = "1s""#,
        ..NONE
    },
    System {
        name: "a stream between the answer and the row",
        fault: "a worker acknowledges eight entries, and dies",
        opens: &["SET stock 100", "XGROUP CREATE orders g1 $ MKSTREAM"],
        lost: &[41, 42, 43, 44, 45, 46, 47, 48],
        file: r#"[[campaign]]
name = "Voucher"
quantity = 100
promised = { set = "users" }
issued = "SELECT user_id FROM coupon"
count = { key = "stock", counts = "down" }
queue = [{ stream = "orders", group = "g1" }]
in_flight = "1s"
mode = "repair"
issue = ["INSERT INTO coupon (user_id) VALUES (:user)"]
check = []"#,
        ..NONE
    },
    System {
        name: "reservations with a status, whose users stay in the set",
        fault: "five are cancelled, which is right, and two messages are lost",
        tables: &[
            "CREATE TABLE reservation (user_id VARCHAR(40) UNIQUE, status VARCHAR(9) DEFAULT 'PAID')",
        ],
        rows: &["INSERT INTO reservation (user_id) VALUES ('U')"],
        lost: &[60, 61],
        breaks: &[
            "UPDATE reservation SET status = 'CANCELED' LIMIT 5",
            "INCRBY stock 5",
        ],
        file: r#"[[campaign]]
name = "Concert"
quantity = 100
promised = { set = "users" }
issued = "SELECT user_id, status <> 'CANCELED' FROM reservation"
count = { key = "stock", counts = "down" }
queue = []
in_flight = "1s"
mode = "repair"
issue = ["INSERT INTO reservation (user_id) VALUES (:user)"]
check = []"#,
        exact: "SELECT COUNT(*) FROM reservation",
        ..NONE
    },
    System {
        name: "a column beside the rows",
        fault: "four messages are lost",
        tables: &[
            COUPON,
            "CREATE TABLE event (id INT PRIMARY KEY, name VARCHAR(20), total INT, issued INT)",
            "INSERT INTO event VALUES (7, 'Winter', 100, 0)",
        ],
        rows: &[
            "INSERT INTO coupon (user_id) VALUES ('U')",
            "UPDATE event SET issued = issued + 1",
        ],
        lost: &[10, 30, 50, 90],
        file: r#"[[campaign]]
name = "Events"
quantity = 100
promised = { set = "users" }
issued = "SELECT user_id FROM coupon"
queue = []
in_flight = "1s"
mode = "repair"
issue = ["INSERT INTO coupon (user_id) VALUES (:user)", "UPDATE event SET issued = issued + 1"]
check = ["SELECT id FROM event WHERE issued <> (SELECT COUNT(*) FROM coupon)"]"#,
        exact: "SELECT issued FROM event",
        ..NONE
    },
    System {
        name: "a table of failed events",
        fault: "three inserts fail",
        tables: &[
            COUPON,
            "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40), done INT DEFAULT 0)",
        ],
        lost: &[20, 50, 70],
        event: "INSERT INTO failed (user_id) VALUES ('U')",
        file: r#"[[campaign]]
name = "Coupon"
quantity = 100
promised = { set = "users" }
issued = "SELECT user_id FROM coupon"
failed = "SELECT id, user_id FROM failed WHERE done = 0"
queue = []
in_flight = "1s"
mode = "repair"
resolve = "UPDATE failed SET done = 1 WHERE id = :failed"
issue = ["INSERT INTO coupon (user_id) VALUES (:user)"]
check = []"#,
        ..NONE
    },
    System {
        name: "logins in Redis, numbers in rows, and no unique key",
        fault: "two messages are lost",
        tables: &[
            "CREATE TABLE member (id INT AUTO_INCREMENT PRIMARY KEY, login VARCHAR(40) UNIQUE)",
            "CREATE TABLE coupon (member_id INT, event_id INT)",
        ],
        rows: &[
            "INSERT IGNORE INTO member (login) VALUES ('U')",
            "INSERT INTO coupon SELECT id, 7 FROM member WHERE login = 'U'",
        ],
        lost: &[33, 66],
        event: "INSERT IGNORE INTO member (login) VALUES ('U')",
        file: r#"[[campaign]]
name = "Coupon 7"
quantity = 100
promised = { set = "users" }
issued = "SELECT m.login FROM coupon c JOIN member m ON m.id = c.member_id WHERE c.event_id = 7"
queue = []
in_flight = "1s"
mode = "repair"
issue = ["INSERT INTO coupon SELECT id, 7 FROM member WHERE login = :user"]
check = []"#,
        ..NONE
    },
    System {
        name: "a key a user",
        fault: "five messages are lost",
        script: "if redis.call('EXISTS', 'issued:' .. ARGV[1]) == 1 then return 0 end
            if tonumber(redis.call('GET', 'stock')) <= 0 then return 0 end
            redis.call('SET', 'issued:' .. ARGV[1], 1, 'EX', 3600)
            return 100 - redis.call('DECR', 'stock')",
        lost: &[5, 6, 7, 8, 9],
        file: r#"[[campaign]]
name = "Coupon"
quantity = 100
promised = { keys = "issued:{user}" }
issued = "SELECT user_id FROM coupon"
count = { key = "stock", counts = "down" }
queue = []
in_flight = "1s"
mode = "repair"
issue = ["INSERT INTO coupon (user_id) VALUES (:user)"]
check = []"#,
        ..NONE
    },
    System {
        name: "a counter alone",
        fault: "an API takes three and dies: the sale ends at 97",
        opens: &["SET stock 97"],
        breaks: &[],
        file: r#"[[campaign]]
name = "Coupon"
quantity = 100
issued = "SELECT user_id FROM coupon"
count = { key = "stock", counts = "down" }
in_flight = "1s""#,
        script: "if tonumber(redis.call('GET', 'stock')) <= 0 then return 0 end
            return 98 - redis.call('DECR', 'stock')",
        exact: "SELECT COUNT(*) + 3 FROM coupon",
        ..NONE
    },
    System {
        name: "orders that use a coupon, and no Redis",
        fault: "one coupon is used twice",
        tables: &[
            COUPON,
            "CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, coupon_id INT)",
        ],
        breaks: &["INSERT INTO orders (coupon_id) VALUES (7), (8), (7)"],
        file: r#"[[check]]
name = "used twice"
sql = "SELECT coupon_id FROM orders GROUP BY coupon_id HAVING COUNT(*) > 1"
to_do = "Cancel the second order.""#,
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
    /// Runs a statement, or a command of Redis.
    async fn run(&mut self, step: &str) -> Result<()> {
        const SQL: [&str; 4] = ["CREATE", "INSERT", "UPDATE", "DELETE"];
        if SQL.iter().any(|word| step.starts_with(word)) {
            return Ok(self.pool.get_conn().await?.query_drop(step).await?);
        }
        let mut command = redis::Cmd::new();
        command.arg(step.split(' ').collect::<Vec<_>>());
        let _done: redis::Value = command.query_async(&mut self.redis).await?;
        Ok(())
    }

    async fn claim(mut self, system: &System, user: String) -> Result<()> {
        let mut admit = redis::cmd("EVAL");
        admit.arg(system.script).arg(0).arg(&user);
        let ticket: i64 = admit.query_async(&mut self.redis).await?;
        let steps = match ticket {
            0 => &[],
            lost if system.lost.contains(&lost) => std::slice::from_ref(&system.event),
            _ => system.rows,
        };
        for step in steps.iter().filter(|step| !step.is_empty()) {
            self.run(&step.replace("'U'", &format!("'{user}'"))).await?;
        }
        Ok(())
    }

    /// Lets the crowd claim.
    async fn rush(&self, system: &'static System) -> Result<()> {
        let mut claims = JoinSet::new();
        for user in 0..PEOPLE {
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
    reconciler: firstcome_harness::System,
}

/// Runs all systems, one after the other.
pub async fn run() -> Result<()> {
    static ALL: [System; 10] = SYSTEMS;
    step("starting MySQL and Redis");
    let (mysql, redis) = tokio::try_join!(
        MysqlServer::start(StackOptions::without_fsync().mysql),
        RedisServer::start(StackOptions::default().redis),
    )?;
    let reconciler =
        firstcome_harness::System::new(None, None, [("RUST_LOG", "error".to_owned())])?;
    let servers = Servers {
        mysql,
        redis,
        reconciler,
    };
    for (number, system) in ALL.iter().enumerate() {
        let System { name, fault, .. } = system;
        println!("\n== {}. {name}\n   fault: {fault}", number + 1);
        servers.show(number, system).await?;
    }
    Ok(())
}

impl Servers {
    async fn show(&self, number: usize, system: &'static System) -> Result<()> {
        let name = format!("shop_{number}");
        self.mysql.query(&format!("CREATE DATABASE {name}")).await?;
        let database = self.mysql.database_url(&name);
        let address = format!("{}/{number}", self.redis.url());
        let redis = redis::Client::open(address.as_str())?;
        let mut shop = Shop {
            pool: Pool::from_url(database.as_str())?,
            redis: redis.get_multiplexed_async_connection().await?,
        };
        for step in system.tables.iter().chain(system.opens) {
            shop.run(step).await?;
        }
        shop.rush(system).await?;
        for step in system.breaks {
            shop.run(step).await?;
        }
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("shop.toml");
        let text = format!(
            "database = \"$SHOP\"\nredis = \"$REDIS\"\n{}\n",
            system.file
        );
        std::fs::write(&file, &text)?;
        text.lines().for_each(|line| println!("   | {line}"));
        let attached = Attached {
            servers: self,
            file: &file,
            stores: [("SHOP", &database), ("REDIS", &address)],
        };
        let printed = attached.pass("attach shop.toml --once", &[])?;
        if system.file.contains("mode = \"repair\"") {
            let plan = folder.path().join("plan.json");
            std::fs::write(&plan, attached.run(&["--json"])?)?;
            let plan = plan.to_str().context("a path that is no text")?;
            attached.pass("… --once --confirm plan.json", &["--confirm", plan])?;
        }
        self.run_printed(number, &printed)?;
        attached.pass("look again", &[])?;
        let rows = self
            .mysql
            .query(&system.exact.replace("FROM ", &format!("FROM {name}.")))
            .await?;
        let total: i64 = rows[0][0].parse()?;
        ensure!(total == QUANTITY, "{total} instead of {QUANTITY}");
        println!("   exactly {QUANTITY}");
        shop.pool.disconnect().await?;
        Ok(())
    }

    /// Runs the printed commands of Redis, as a person would.
    fn run_printed(&self, number: usize, printed: &str) -> Result<()> {
        for line in printed.lines() {
            let command = line
                .split_once("nothing changed: ")
                .map_or(line, |(_, after)| after);
            if !["SADD ", "EVAL "]
                .iter()
                .any(|word| command.starts_with(word))
            {
                continue;
            }
            println!("   -- redis-cli: {command}");
            let words = format!("redis-cli -p {} -n {number} {command}", self.redis.port());
            let mut redis_cli = Command::new("sh");
            redis_cli.args(["-c", &words]).stdout(Stdio::null());
            ensure!(redis_cli.status()?.success(), "{command}");
        }
        Ok(())
    }
}

/// The reconciler over one file.
struct Attached<'a> {
    servers: &'a Servers,
    file: &'a Path,
    stores: [(&'a str, &'a str); 2],
}

impl Attached<'_> {
    /// Runs `--once`, prints its output, and returns it.
    fn pass(&self, what: &str, args: &[&str]) -> Result<String> {
        let text = self.run(&[&["--full-ids"], args].concat())?;
        println!("   -- {what}");
        text.lines().for_each(|line| println!("      {line}"));
        Ok(text)
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let file = self.file.to_str().context("a path that is no text")?;
        let all = [&["attach", file, "--once"], args].concat();
        let reconciler = &self.servers.reconciler;
        let done = reconciler
            .command("firstcome-reconciler", &all, &self.stores)?
            .output()?;
        let stderr = String::from_utf8_lossy(&done.stderr);
        ensure!(
            matches!(done.status.code(), Some(0 | 1)),
            "{}: {stderr}",
            done.status
        );
        Ok(String::from_utf8(done.stdout)?)
    }
}
