//! Ten coupon systems of others. A crowd rushes each, its own fault breaks it, and the attached
//! reconciler names what is wrong and, after a confirmation, writes the rows that were lost.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use firstcome_shops::{QUANTITY, System, for_user, postgres, published, shapes, tickets};
use firstcome_stack::{MysqlServer, RedisServer, StackOptions};
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::terminal::step;

const PEOPLE: u32 = 1_000;

/// Concurrent claims.
const CROWD: usize = 64;

/// Which system is shown, by the beginning of its name, and how it breaks.
struct Shown {
    system: &'static str,
    fault: &'static str,
    /// Winners whose message is lost.
    lost: u32,
    /// How many of its own faults happen.
    breaks: usize,
}

const fn shown(system: &'static str, fault: &'static str, lost: u32, breaks: usize) -> Shown {
    Shown {
        system,
        fault,
        lost,
        breaks,
    }
}

const SHOWN: [Shown; 10] = [
    shown("Soundbar91/", "three messages are lost", 3, 0),
    shown(
        "wonzzu/",
        "a failover of Redis forgets a user and a seat",
        0,
        2,
    ),
    shown("nmin11/", "two messages are lost", 2, 0),
    shown(
        "fcfs-ticket",
        "a payment fails, which is right, and a row is lost",
        1,
        1,
    ),
    shown("ecommerce-server", "four messages are lost", 4, 0),
    shown("HealthPower", "two messages are lost", 2, 0),
    shown("dlghddud/", "five messages are lost", 5, 0),
    shown("Dev-sungmin/", "the counter leaks", 0, 1),
    shown("ThoughtsBeta/", "an order is lost", 1, 0),
    shown("members in quotes", "a user is lost, and a row", 1, 1),
];

/// The stores of one system.
#[derive(Clone)]
struct Shop {
    system: System,
    pool: Pool,
    redis: MultiplexedConnection,
    /// Winners so far. Each system has another gate; that is not what is shown here.
    winners: Arc<Mutex<Vec<u32>>>,
}

impl Shop {
    /// Runs statements, and commands of Redis.
    async fn run<T: AsRef<str>>(&mut self, steps: &[T]) -> Result<()> {
        for step in steps {
            let step = step.as_ref().replace('@', "");
            if firstcome_shops::is_statement(&step) {
                self.pool.get_conn().await?.query_drop(step).await?;
                continue;
            }
            let mut command = redis::Cmd::new();
            command.arg(step.split(' ').collect::<Vec<_>>());
            let _done: redis::Value = command.query_async(&mut self.redis).await?;
        }
        Ok(())
    }

    async fn claim(mut self, user: u32, lost: u32) -> Result<()> {
        let place = {
            let mut winners = self.winners.lock().await;
            if winners.len() >= QUANTITY as usize {
                return Ok(());
            }
            winners.push(user);
            winners.len()
        };
        self.run(&for_user(self.system.admits, user)).await?;
        if place > lost as usize {
            self.issue(user).await?;
        }
        Ok(())
    }

    async fn issue(&mut self, user: u32) -> Result<()> {
        self.run(&for_user(self.system.issues, user)).await
    }

    /// Lets the crowd claim.
    async fn rush(&self, lost: u32) -> Result<()> {
        let mut claims = JoinSet::new();
        for user in 1..=PEOPLE {
            if claims.len() >= CROWD {
                claims.join_next().await.context("no claim")???;
            }
            claims.spawn(self.clone().claim(user, lost));
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
    for (number, shown) in SHOWN.iter().enumerate() {
        let all = [
            published::SYSTEMS,
            tickets::SYSTEMS,
            shapes::SYSTEMS,
            postgres::SYSTEMS,
        ];
        let mut all = all.concat().into_iter();
        let system = all.find(|system| system.name.starts_with(shown.system));
        let system = system.with_context(|| format!("no system {}", shown.system))?;
        println!(
            "\n== {}. {}\n   fault: {}",
            number + 1,
            system.name,
            shown.fault
        );
        servers.show(number, system, shown).await?;
    }
    Ok(())
}

impl Servers {
    async fn show(&self, number: usize, system: System, shown: &Shown) -> Result<()> {
        let name = format!("shop_{number}");
        self.mysql.query(&format!("CREATE DATABASE {name}")).await?;
        let database = self.mysql.database_url(&name);
        let address = format!("{}/{number}", self.redis.url());
        let redis = redis::Client::open(address.as_str())?;
        let mut shop = Shop {
            system,
            pool: Pool::from_url(database.as_str())?,
            redis: redis.get_multiplexed_async_connection().await?,
            winners: Arc::default(),
        };
        shop.run(system.opens).await?;
        shop.rush(shown.lost).await?;
        let winners = shop.winners.lock().await.clone();
        let winner = *winners.last().context("no winner")?;
        for fault in &system.faults[..shown.breaks] {
            shop.run(&for_user(fault.steps, winner)).await?;
        }
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("shop.toml");
        let text = format!(
            "database = \"$SHOP\"\nredis = \"$REDIS\"\n{}\n",
            system
                .file
                .replace('@', "")
                .replace("[[campaign]]", "[[campaign]]\nin_flight = '1s'")
        );
        std::fs::write(&file, &text)?;
        text.lines().for_each(|line| println!("   | {line}"));
        let attached = Attached {
            servers: self,
            file: &file,
            stores: [("SHOP", &database), ("REDIS", &address)],
        };
        let printed = attached.pass("attach shop.toml --once", &[])?;
        if system.file.contains("mode = 'repair'") {
            let plan = folder.path().join("plan.json");
            std::fs::write(&plan, attached.run(&["--json"])?.printed)?;
            let plan = plan.to_str().context("a path that is no text")?;
            attached.pass("… --once --confirm plan.json", &["--confirm", plan])?;
        } else if shown.lost > 0 {
            println!("   -- their own program writes the rows");
            for user in &winners[..shown.lost as usize] {
                shop.issue(*user).await?;
            }
        }
        self.run_printed(number, &printed.printed)?;
        let last = attached.pass("look again", &[])?;
        ensure!(last.code == Some(0), "something is left to do");
        println!("   exact");
        shop.pool.disconnect().await?;
        Ok(())
    }

    /// Runs the printed commands of Redis, as a person would.
    fn run_printed(&self, number: usize, printed: &str) -> Result<()> {
        for command in printed.lines().filter_map(firstcome_shops::command) {
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

struct Ended {
    printed: String,
    code: Option<i32>,
}

impl Attached<'_> {
    /// Runs `--once`, prints its output, and returns it.
    fn pass(&self, what: &str, args: &[&str]) -> Result<Ended> {
        let ended = self.run(&[&["--full-ids"], args].concat())?;
        println!("   -- {what}");
        ended
            .printed
            .lines()
            .for_each(|line| println!("      {line}"));
        Ok(ended)
    }

    fn run(&self, args: &[&str]) -> Result<Ended> {
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
        Ok(Ended {
            printed: String::from_utf8(done.stdout)?,
            code: done.status.code(),
        })
    }
}
