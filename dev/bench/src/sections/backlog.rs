//! A backlog on the topic, and the time in which the consumer turns it into rows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, ensure};
use firstcome_load::launch::{Installation, InstallationCoupon, until};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::{KafkaSettings, Security, Signing};
use mysql_async::prelude::Queryable as _;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use crate::ceiling::person;

/// Partitions of the topic, as created by `migrate`.
const PARTITIONS: u32 = 12;

/// The number of claims that a busy API puts into one message.
const CLAIMS_A_MESSAGE: usize = 64;

pub(super) async fn publish(installation: &Installation, coupon: InstallationCoupon) -> Result<()> {
    let brokers = installation.setting("KAFKA_BROKERS").to_owned();
    let topic = installation.setting("KAFKA_TOPIC").to_owned();
    let settings = KafkaSettings {
        brokers,
        topic: topic.clone(),
        group: String::new(),
        security: Security::default(),
        signing: Signing::new(Some(&installation.setting("KAFKA_SIGNING_KEY").into()))
            .map_err(Error::msg)?,
    };
    let producer: FutureProducer = settings.producer(Duration::from_secs(30)).create()?;
    let mut waiting = Vec::new();
    let events: Vec<ClaimEvent> = (1..=coupon.quantity)
        .map(|slot| event(coupon, slot))
        .collect::<Result<_>>()?;
    for claims in events.chunks(CLAIMS_A_MESSAGE) {
        let first = &claims[0];
        let key = first.key();
        let payload = ClaimEvent::encode_batch(&claims.iter().collect::<Vec<_>>());
        let partition = i32::try_from(first.partition(PARTITIONS))?;
        let record = FutureRecord::to(&topic)
            .partition(partition)
            .key(&key)
            .payload(&payload)
            .headers(settings.signing.headers(&topic, payload.as_bytes()));
        waiting.push(producer.send_result(record).map_err(|(error, _)| error)?);
        if waiting.len() == 10_000 {
            for sent in waiting.drain(..) {
                sent.await?.map_err(|(error, _)| error)?;
            }
        }
    }
    producer.flush(Duration::from_secs(30))?;
    Ok(())
}

/// Returns rows per second from the first row to the last, without the consumer's startup.
pub(super) async fn consume(
    installation: &Installation,
    coupon: InstallationCoupon,
) -> Result<f64> {
    let mut conn = installation.mysql().await?;
    let count = format!(
        "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}",
        coupon.drop
    );
    // Rows of one partition arrive in order, so the last row of each partition shows that all
    // exist. MySQL finds these few rows by key.
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    for slot in 1..=coupon.quantity {
        last.insert(event(coupon, slot)?.partition(PARTITIONS), slot);
    }
    let slots: Vec<String> = last.values().map(ToString::to_string).collect();
    let ends = format!("{count} AND slot IN ({})", slots.join(","));
    let any = format!(
        "SELECT EXISTS(SELECT 1 FROM issued_coupons WHERE drop_id = {})",
        coupon.drop
    );
    let consumer = installation.consumer().await?;
    let mut first = None;
    until("every row", async || {
        if first.is_none() && conn.query_first(&any).await? == Some(1) {
            let already: u32 = conn.query_first(&count).await?.context("no count")?;
            first = Some((Instant::now(), already));
        }
        Ok(conn.query_first(&ends).await? == Some(last.len()))
    })
    .await?;
    let (begun, already) = first.context("no rows")?;
    let seconds = begun.elapsed().as_secs_f64();
    consumer.stop().await?;
    let count: u32 = conn.query_first(&count).await?.context("no count")?;
    ensure!(
        count == coupon.quantity,
        "{count} rows of {}",
        coupon.quantity
    );
    conn.disconnect().await?;
    Ok(f64::from(coupon.quantity - already) / seconds.max(1e-3))
}

/// Creates a message for a slot without a claim.
fn event(coupon: InstallationCoupon, slot: u32) -> Result<ClaimEvent> {
    let coupon_id = CouponId(coupon.id);
    let drop_id = DropId(coupon.drop);
    Ok(ClaimEvent {
        coupon_id,
        drop_id,
        slot,
        user_id: person(slot).parse()?,
        claimed_at: chrono::Utc::now(),
    })
}
