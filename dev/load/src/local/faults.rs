//! The demo's faults: a killed process, a database that refuses the consumer's writes, and messages
//! that are not claims. None of them affects a promise.

use std::time::Duration;

use anyhow::{Context, Error, Result};
use chrono::Utc;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::{KafkaSettings, Security, Signing};
use firstcome_stack::MysqlServer;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::{Instant, sleep};

use crate::answer::PromisedSlot;
use crate::launch::{Installation, Service};
use crate::local::system::TOPIC;

/// When the consumer writes slots that are divisible by this number, MySQL refuses them.
pub const REFUSED_EVERY: u32 = 7;

const SEND_LIMIT: Duration = Duration::from_secs(10);
const TRIGGER: &str = "firstcome.demo_refuses";

/// Makes MySQL refuse every seventh slot that the consumer writes. Those claims go to the
/// dead-letter table, and only the reconciler can issue them.
pub async fn refuse_some_rows(mysql: &MysqlServer) -> Result<()> {
    let trigger = format!(
        "CREATE TRIGGER {TRIGGER} BEFORE INSERT ON firstcome.issued_coupons FOR EACH ROW
         BEGIN
             IF NEW.issued_by = 'consumer' AND NEW.slot MOD {REFUSED_EVERY} = 0 THEN
                 SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: refused by the demo, every {REFUSED_EVERY}th slot';
             END IF;
         END"
    );
    mysql.query(&trigger).await.map(drop)
}

/// Undoes [`refuse_some_rows`].
pub async fn refuse_no_more(mysql: &MysqlServer) -> Result<()> {
    mysql
        .query(&format!("DROP TRIGGER IF EXISTS {TRIGGER}"))
        .await
        .map(drop)
}

/// Writes messages to the topic that no API would write.
pub struct Forger {
    producer: FutureProducer,
    signing: Signing,
    key: String,
}

impl Forger {
    /// Creates a separate producer for messages with this coupon's key.
    pub fn new(installation: &Installation, coupon_id: i64) -> Result<Self> {
        let brokers = installation.setting("KAFKA_BROKERS").to_owned();
        let signing = Signing::new(Some(&installation.setting("KAFKA_SIGNING_KEY").into()))
            .map_err(Error::msg)?;
        let settings = KafkaSettings {
            brokers,
            topic: TOPIC.into(),
            group: String::new(),
            security: Security::default(),
            signing: signing.clone(),
        };
        Ok(Self {
            producer: settings.producer(SEND_LIMIT).create()?,
            signing,
            key: coupon_id.to_string(),
        })
    }

    /// Sends a message that is not a claim. Only an operator can resolve it.
    pub async fn unreadable(&self) -> Result<()> {
        self.send("this is no claim").await
    }

    /// Sends two copies of a real claim. The identical copy must change nothing. The other has an
    /// unknown version: it becomes a dead letter, and the reconciler recognises it as already
    /// issued.
    pub async fn copies(&self, coupon_id: i64, user_id: &str, promise: PromisedSlot) -> Result<()> {
        let claim = ClaimEvent {
            coupon_id: CouponId(coupon_id),
            drop_id: DropId(promise.drop_id),
            slot: promise.slot,
            user_id: user_id.parse()?,
            claimed_at: Utc::now(),
        };
        self.send(&claim.encode()).await?;
        self.send(&claim.encode().replace("\"v\":2", "\"v\":9"))
            .await
    }

    async fn send(&self, payload: &str) -> Result<()> {
        let record = FutureRecord::to(TOPIC)
            .key(&self.key)
            .payload(payload)
            .headers(self.signing.headers(TOPIC, payload.as_bytes()));
        self.producer
            .send(record, SEND_LIMIT)
            .await
            .map_err(|(error, _)| error)
            .context("Kafka accepted no message")?;
        Ok(())
    }
}

/// Returns the index of the consumer that has counted a message in this metric, and which therefore
/// reads the coupon's partition.
pub async fn reader_of(consumers: &[Service], metric: &str) -> Result<usize> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        for (at, consumer) in consumers.iter().enumerate() {
            // The metric is absent until the first message is counted.
            if sum(&consumer.metrics().await?, metric).is_some_and(|count| count > 0) {
                return Ok(at);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no consumer read the first message: none has the metric {metric}")
}

/// Sums a counter over its labels. Returns `None` if there is no such counter.
pub(crate) fn sum(metrics: &str, name: &str) -> Option<u64> {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
        .reduce(|sum, more| sum + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_a_metric_over_its_labels_and_ignores_longer_names() {
        let metrics = "# TYPE refused counter\nrefused{reason=\"a b\"} 2\nrefused{reason=\"c\"} 1\nrefused_more 9\n";
        assert_eq!(
            [sum(metrics, "refused"), sum("up 1", "refused")],
            [Some(3), None]
        );
    }
}
