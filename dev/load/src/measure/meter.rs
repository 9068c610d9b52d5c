//! What a piece of work cost the servers.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mysql_async::prelude::Queryable as _;
use serde::{Deserialize, Serialize};

use crate::world::{World, connection};

/// Counters of MySQL and Redis before and after.
pub struct Meter {
    mysql: mysql_async::Conn,
    redis: redis::aio::MultiplexedConnection,
    questions: u64,
    own: u64,
    cpu: [f64; 3],
}

/// What it came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Statements that clients sent to MySQL.
    pub mysql_statements: u64,
    /// CPU seconds of MySQL.
    pub mysql_cpu: f64,
    /// Commands that Redis ran, those inside scripts too.
    pub redis_commands: u64,
    /// The same by command.
    pub redis_by_command: BTreeMap<String, u64>,
    /// CPU seconds of Redis.
    pub redis_cpu: f64,
    /// CPU seconds of Kafka.
    pub kafka_cpu: f64,
}

impl Meter {
    pub async fn start(world: &World) -> Result<Self> {
        let mut mysql = connection(&world.stack.mysql.url()).await?;
        let mut redis = redis::Client::open(world.stack.redis.url())?.get_multiplexed_async_connection().await?;
        redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut redis).await?;
        let questions = questions(&mut mysql).await?;
        Ok(Self { mysql, redis, questions, own: 0, cpu: cpu(world) })
    }

    /// Statements so far, this meter's own left out.
    pub async fn statements(&mut self) -> Result<u64> {
        let now = questions(&mut self.mysql).await?;
        self.own += 1;
        Ok((now - self.questions).saturating_sub(self.own))
    }

    /// Statements that the measuring itself sent to MySQL on other connections, and that do not count.
    pub fn leave_out(&mut self, statements: u64) {
        self.own += statements;
    }

    /// What it came to.
    pub async fn stop(mut self, world: &World) -> Result<Cost> {
        let after = cpu(world);
        let mysql_statements = self.statements().await?;
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut self.redis).await?;
        let redis_by_command = by_command(&info);
        self.mysql.disconnect().await?;
        Ok(Cost {
            mysql_statements,
            mysql_cpu: after[0] - self.cpu[0],
            redis_commands: redis_by_command.values().sum(),
            redis_by_command,
            redis_cpu: after[1] - self.cpu[1],
            kafka_cpu: after[2] - self.cpu[2],
        })
    }
}

fn cpu(world: &World) -> [f64; 3] {
    let stack = &world.stack;
    [stack.mysql.pid(), stack.redis.pid(), stack.kafka.pid()].map(|pid| world.cpu(pid))
}

async fn questions(mysql: &mut mysql_async::Conn) -> Result<u64> {
    let row: Option<(String, String)> = mysql.query_first("SHOW GLOBAL STATUS LIKE 'Questions'").await?;
    Ok(row.context("MySQL does not count questions")?.1.parse()?)
}

/// Without the commands that this module sends.
fn by_command(info: &str) -> BTreeMap<String, u64> {
    let one = |line: &str| {
        let (name, rest) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (!matches!(name, "info" | "config|resetstat")).then(|| (name.to_owned(), calls))
    };
    info.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_without_the_meter_s_own() {
        let info =
            "# Commandstats\r\ncmdstat_evalsha:calls=3,usec=9,rejected_calls=0\r\ncmdstat_info:calls=1,usec=1\r\n";
        assert_eq!(by_command(info), BTreeMap::from([("evalsha".to_owned(), 3)]));
    }
}
