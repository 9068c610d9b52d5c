//! Measures how much some work costs the servers, from their counters before and after it.

use std::collections::BTreeMap;

use anyhow::Result;
use firstcome_stack::Stack;
use serde::{Deserialize, Serialize};

use super::{Database, cpu_seconds};

pub struct Meter {
    mysql: Database,
    redis: redis::aio::MultiplexedConnection,
    cpu: [f64; 3],
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Number of statements that clients sent.
    pub mysql_statements: u64,
    pub mysql_cpu: f64,
    /// Number of commands that Redis ran, including those inside scripts.
    pub redis_commands: u64,
    /// Number of commands by name.
    pub redis_by_command: BTreeMap<String, u64>,
    pub redis_cpu: f64,
    pub kafka_cpu: f64,
}

impl Meter {
    pub async fn start(stack: &Stack) -> Result<Self> {
        let mut redis = redis::Client::open(stack.redis.url())?
            .get_multiplexed_async_connection()
            .await?;
        redis::cmd("CONFIG")
            .arg("RESETSTAT")
            .query_async::<()>(&mut redis)
            .await?;
        let mysql = Database::open(&stack.mysql.url()).await?;
        Ok(Self {
            mysql,
            redis,
            cpu: server_cpu(stack),
        })
    }

    /// Counts the statements that clients have sent to MySQL so far, without those of this
    /// meter.
    pub async fn statements(&mut self) -> Result<u64> {
        self.mysql.statements().await
    }

    /// Excludes statements that the measurement sent on another connection.
    pub fn leave_out(&mut self, statements: u64) {
        self.mysql.leave_out(statements);
    }

    pub async fn stop(mut self, stack: &Stack) -> Result<Cost> {
        let after = server_cpu(stack);
        let mysql_statements = self.statements().await?;
        let info: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut self.redis)
            .await?;
        let redis_by_command = by_command(&info);
        self.mysql.conn.disconnect().await?;
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

/// Returns the CPU seconds of MySQL, Redis and Kafka so far. 0 for a server that is down.
pub fn server_cpu(stack: &Stack) -> [f64; 3] {
    [stack.mysql.pid(), stack.redis.pid(), stack.kafka.pid()]
        .map(|pid| pid.and_then(|pid| cpu_seconds(pid).ok()).unwrap_or(0.0))
}

/// Counts calls by command, without those that this module sends.
fn by_command(info: &str) -> BTreeMap<String, u64> {
    let one = |line: &str| {
        let (name, rest) = line
            .trim()
            .strip_prefix("cmdstat_")?
            .split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (!matches!(name, "info" | "config|resetstat")).then(|| (name.to_owned(), calls))
    };
    info.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_commands_that_the_meter_sends() {
        let info = "# Commandstats\r\ncmdstat_evalsha:calls=3,usec=9,rejected_calls=0\r\ncmdstat_info:calls=1,usec=1\r\n";
        assert_eq!(
            by_command(info),
            BTreeMap::from([("evalsha".to_owned(), 3)])
        );
    }
}
