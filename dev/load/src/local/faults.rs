//! The demo's faults besides a killed process: a database that refuses the consumer's writes, and a
//! message that is not a claim. None of them may break a promise.

use std::time::Duration;

use anyhow::{Context, Error, Result};
use firstcome_harness::System;
use firstcome_shared::kafka::{KafkaSettings, Security, Signing};
use firstcome_stack::MysqlServer;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::local::system::TOPIC;

/// When the consumer writes slots that are divisible by this number, MySQL refuses them.
pub const REFUSED_EVERY: u32 = 7;

const SEND_LIMIT: Duration = Duration::from_secs(10);
/// MySQL's error for a row that violates a CHECK.
const CHECK: u16 = 3819;
const TRIGGER: &str = "firstcome.demo_refuses";

/// Makes MySQL refuse every seventh slot that the consumer writes. Those claims go to the
/// dead-letter table, and only the reconciler can issue them.
pub async fn refuse_some_rows(mysql: &MysqlServer) -> Result<()> {
    let trigger = format!(
        "CREATE TRIGGER {TRIGGER} BEFORE INSERT ON firstcome.issued_coupons FOR EACH ROW
         BEGIN
             IF NEW.issued_by = 'consumer' AND NEW.slot MOD {REFUSED_EVERY} = 0 THEN
                 SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {CHECK}, MESSAGE_TEXT = 'refused by the demo, every {REFUSED_EVERY}th slot';
             END IF;
         END"
    );
    mysql.query(&trigger).await.map(drop)
}

/// Undoes [`refuse_some_rows`].
pub async fn refuse_no_more(mysql: &MysqlServer) -> Result<()> {
    mysql
        .query(&format!("DROP TRIGGER {TRIGGER}"))
        .await
        .map(drop)
}

/// Sends a signed message that is not a claim. Only an operator can resolve it.
pub async fn send_garbage(system: &System) -> Result<()> {
    let key = system.setting("KAFKA_SIGNING_KEY").into();
    let settings = KafkaSettings {
        brokers: system.setting("KAFKA_BROKERS"),
        topic: TOPIC.into(),
        group: String::new(),
        security: Security::default(),
        signing: Signing::new(&key).map_err(Error::msg)?,
    };
    let producer: FutureProducer = settings.producer(SEND_LIMIT).create()?;
    let payload = "this is no claim";
    let headers = settings.signing.headers(TOPIC, payload.as_bytes());
    let record = FutureRecord::<str, str>::to(TOPIC)
        .payload(payload)
        .headers(headers);
    let sent = producer.send(record, SEND_LIMIT).await;
    sent.map_err(|(error, _)| error)
        .context("Kafka accepted no message")?;
    Ok(())
}
