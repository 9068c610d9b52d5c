//! Fetches programs that the machine lacks. Everything here blocks.

mod apt;
mod browser;
mod command;
mod kafka;
mod mysql;
mod prometheus;
mod redis;

use anyhow::{Result, bail};
use tokio::task::spawn_blocking;

pub(crate) use self::browser::{axe, browser};
pub(crate) use self::kafka::{KAFKA_PASSWORD, KAFKA_USER, kafka, properties as kafka_properties};
pub(crate) use self::mysql::{mysql, to_command};
pub(crate) use self::prometheus::prometheus;
pub(crate) use self::redis::redis;
use crate::progress;

/// Fetches everything that is missing and reports its steps on stderr: Debian packages
/// (`redis-server`, `prometheus`, a Java runtime, Maven, Chromium; needs root), and MySQL, Kafka
/// and axe (into the cache folder, without changing the machine). Does nothing the second time.
pub async fn setup() -> Result<()> {
    let redis = spawn_blocking(|| redis().map(|()| progress::step("redis", "ready")));
    let watchers = spawn_blocking(|| {
        prometheus()?;
        progress::step("prometheus", "ready");
        Ok(())
    });
    let mysql = spawn_blocking(|| {
        let mysql = mysql()?;
        mysql.data_template()?;
        progress::step("mysql", format!("ready ({})", mysql.version()));
        Ok(())
    });
    let kafka = spawn_blocking(|| {
        kafka()?.classes()?;
        progress::step("kafka", format!("ready ({})", kafka::VERSION));
        Ok(())
    });
    let browser = spawn_blocking(|| {
        browser()?;
        axe()?;
        progress::step("browser", "ready");
        Ok(())
    });
    let (redis, watchers, mysql, kafka, browser) =
        tokio::try_join!(redis, watchers, mysql, kafka, browser)?;
    let all = [
        ("Redis", redis),
        ("Prometheus", watchers),
        ("MySQL", mysql),
        ("Kafka", kafka),
        ("the browser", browser),
    ];
    let failed: Vec<_> = all
        .into_iter()
        .filter_map(|(name, result)| Some(format!("{name} is not ready: {:#}", result.err()?)))
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        bail!(failed.join("\n"))
    }
}
