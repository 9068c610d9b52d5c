//! Rows a second of the consumer, beside multi-row inserts straight into the same table.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use firstcome_rush::live::step;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::KafkaSettings;
use mysql_async::prelude::Queryable as _;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use super::median;
use crate::ceiling::{insert_rows_by, person};
use crate::cli::Size;
use crate::report::{Figure, Target};
use crate::world::{Coupon, Site, World, until};

const PART: &str = "consumer";

/// Each of the two is measured so often, in turns, so that what else the machine does hits both.
const TURNS: usize = 3;
/// Rows in a statement that the straight inserts are tried with; they are measured with what is best for them here.
const SIZES: [u32; 4] = [500, 1_000, 2_000, 5_000];

/// Measures it.
///
/// # Errors
/// When something does not start or can't be asked.
pub async fn measure(world: &World, size: &Size) -> Result<Vec<Figure>> {
    let site = Site::make(world, "consumer").await?;
    let (reconciler, api) = tokio::try_join!(site.reconciler(), site.api())?;
    let mut coupons = Vec::new();
    for _ in 0..=2 * TURNS {
        coupons.push(site.coupon(&api, size.winners).await?);
    }
    api.stop().await?;
    reconciler.stop().await?;
    let rows = best_size(&site, coupons.pop().context("no coupon")?).await?;
    let (mut straight, mut consumer) = (Vec::new(), Vec::new());
    for (turn, pair) in coupons.chunks_exact(2).enumerate() {
        step(format!("{} rows straight and by the consumer, turn {} of {TURNS}", size.winners, turn + 1));
        publish(&site, pair[1]).await?;
        let seconds = insert_rows_by(&site, pair[0], 1, size.winners, rows).await?.as_secs_f64();
        straight.push(f64::from(size.winners) / seconds);
        consumer.push(consume(&site, pair[1]).await?);
    }
    let what = "consumer rows ÷ straight multi-row inserts";
    Ok(vec![
        Figure::ratio(PART, what, ("consumer/s", median(consumer)), ("straight/s", median(straight)))
            .target(Target::AtLeast(0.7))
            .with("rows", size.winners.into())
            .with("rows a straight statement", rows.into()),
    ])
}

/// How many rows in a statement suit straight inserts best, on this machine.
async fn best_size(site: &Site<'_>, coupon: Coupon) -> Result<u32> {
    let share = coupon.quantity / u32::try_from(SIZES.len())?;
    let (mut best, mut from) = ((Duration::MAX, SIZES[0]), 1);
    for rows in SIZES {
        let took = insert_rows_by(site, coupon, from, from + share - 1, rows).await?;
        best = best.min((took, rows));
        from += share;
    }
    Ok(best.1)
}

/// A message for every slot.
async fn publish(site: &Site<'_>, coupon: Coupon) -> Result<()> {
    let (brokers, topic) = (site.setting("KAFKA_BROKERS").to_owned(), site.setting("KAFKA_TOPIC").to_owned());
    let settings = KafkaSettings { brokers, topic: topic.clone(), group: String::new() };
    let producer: FutureProducer = settings.producer(Duration::from_secs(30)).create()?;
    let mut waiting = Vec::new();
    for slot in 1..=coupon.quantity {
        let (coupon_id, drop_id) = (CouponId(coupon.id), DropId(coupon.drop));
        let event = ClaimEvent { coupon_id, drop_id, slot, user_id: person(slot).parse()?, claimed_at: Utc::now() };
        let (key, payload) = (event.key(), event.encode());
        let record = FutureRecord::to(&topic).key(&key).payload(&payload);
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

/// From the first row seen to the last, without the consumer's start.
async fn consume(site: &Site<'_>, coupon: Coupon) -> Result<f64> {
    let mut conn = site.mysql().await?;
    // A single key, so a single partition: rows come in order, and the highest slot tells how many there are.
    let sql = format!("SELECT COALESCE(MAX(slot), 0) FROM issued_coupons WHERE drop_id = {}", coupon.drop);
    let consumer = site.consumer().await?;
    let mut first = None;
    until("every row", async || {
        let slot: u32 = conn.query_first(&sql).await?.context("no slot")?;
        if slot > 0 && first.is_none() {
            first = Some((Instant::now(), slot));
        }
        Ok(slot == coupon.quantity)
    })
    .await?;
    let (begun, already) = first.context("no rows")?;
    let seconds = begun.elapsed().as_secs_f64();
    consumer.stop().await?;
    let count: u32 = conn
        .query_first(format!("SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}", coupon.drop))
        .await?
        .context("no count")?;
    ensure!(count == coupon.quantity, "{count} rows of {}", coupon.quantity);
    conn.disconnect().await?;
    Ok(f64::from(coupon.quantity - already) / seconds.max(1e-3))
}
