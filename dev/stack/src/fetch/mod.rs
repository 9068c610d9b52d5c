//! Fetching what the machine lacks. Everything here blocks.

mod apt;
mod command;
mod kafka;
mod mysql;
mod redis;

use anyhow::{Context, Result};

pub(crate) use self::kafka::kafka;
pub(crate) use self::mysql::mysql;
pub(crate) use self::redis::redis;
use crate::progress;

/// Fetches everything that is missing and says on stderr what it does: Debian packages (`redis-server`, a Java runtime,
/// Maven; as root), MySQL and Kafka (into the cache folder; nothing of the machine changes). Does nothing the second time.
///
/// # Errors
/// With the output of the command that failed and what to do.
pub async fn setup() -> Result<()> {
    let redis = tokio::task::spawn_blocking(|| {
        redis().context("Redis cannot be set up").inspect(|()| progress::step("redis", "ready"))
    });
    let mysql = tokio::task::spawn_blocking(|| {
        let mysql = mysql().context("MySQL cannot be set up")?;
        mysql.data_template()?;
        progress::step("mysql", format!("ready ({})", mysql.version()));
        anyhow::Ok(())
    });
    let kafka = tokio::task::spawn_blocking(|| {
        kafka().and_then(|kafka| kafka.log_template()).context("Kafka cannot be set up")?;
        progress::step("kafka", format!("ready ({})", kafka::VERSION));
        anyhow::Ok(())
    });
    let (redis, mysql, kafka) = tokio::join!(redis, mysql, kafka);
    redis?.and(mysql?).and(kafka?)
}
