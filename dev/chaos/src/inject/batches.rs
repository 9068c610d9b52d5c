//! Batches of messages that the product never sends: compressed with another codec, forged, huge
//! once decompressed, or corrupted on the broker's disk.

use std::time::Instant;

use anyhow::Result;
use firstcome_testkit::MadeCoupon;

use super::effect::Effect;
use super::garbage::PlacedGarbage;
use crate::fault::{FaultyStore, ForeignBatch, ProcessRole};
use crate::place::GarbagePlace;
use crate::system::SystemUnderTest;
use crate::wait::pause;

const CODECS: [&str; 4] = ["gzip", "snappy", "lz4", "zstd"];

/// Size and number of the messages in an oversized batch: 18 MB that compress to 20 KB.
const LARGE: usize = 900_000;
const MANY: usize = 20;

/// The partition for all these batches.
const PARTITION: i32 = 0;

/// The end of a garbled message.
const GARBLED: &str = "is garbled";

/// Number of claims that a mirror of the topic sends again.
const MIRRORED: usize = 20;

/// Sends the batch, and waits until its effects are resolved or reported.
pub(super) async fn send(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    batch: ForeignBatch,
    ms: u64,
) -> Result<Effect> {
    let mut found = PlacedGarbage::new(system).await;
    let places = if batch == ForeignBatch::Garbled {
        garbled(system).await?
    } else {
        let messages = match batch {
            ForeignBatch::Mirrored => mirrored(system, coupon).await?,
            ForeignBatch::Oversized => vec![vec![b'a'; LARGE]; MANY],
            _ => forged(coupon),
        };
        let codec = if batch == ForeignBatch::Oversized {
            "gzip"
        } else {
            CODECS[rand::random_range(0..CODECS.len())]
        };
        if messages.is_empty() {
            return Ok(Effect::now(false, "no row yet"));
        }
        let _alone = system.servers.alone(FaultyStore::Kafka).await;
        let first = system
            .world
            .topic
            .unsigned()
            .produce_batch(PARTITION, codec, &messages)
            .await;
        places_of(first, messages.len())
    };
    found.was_put();
    found.note(&places);
    found.until_gone(&places, ms).await
}

/// Whether the broker has removed the garbled batch. After a crash it checks its log, and cuts off
/// the first batch with a wrong checksum and all batches behind it.
pub(super) async fn is_cut_off(system: &SystemUnderTest) -> Result<bool> {
    let servers = &system.servers;
    let _alone = servers.alone(FaultyStore::Kafka).await;
    servers
        .kafka
        .log_contains(system.world.topic.name(), PARTITION, GARBLED.as_bytes())
        .map(|is_there| !is_there)
}

fn places_of(first: i64, count: usize) -> Vec<GarbagePlace> {
    let offsets = (first..).take(count);
    let place = |offset| GarbagePlace::message(PARTITION, offset);
    offsets.map(place).collect()
}

/// Creates claims that have rows, with their times, as a mirror of another cluster would send them.
async fn mirrored(system: &SystemUnderTest, coupon: &MadeCoupon) -> Result<Vec<Vec<u8>>> {
    let rows = format!(
        "SELECT slot, user_id, DATE_FORMAT(claimed_at, '%Y-%m-%dT%H:%i:%s.%f') FROM issued_coupons
         WHERE drop_id = {} LIMIT {MIRRORED}",
        coupon.drop
    );
    let rows = system.world.sql.rows(&rows).await.unwrap_or_default();
    let message =
        |row: &Vec<String>| claim(coupon, &row[1], &row[0], &format!("{}Z", &row[2][..23]));
    Ok(rows.iter().map(message).collect())
}

/// Creates claims of unknown users, now and years ago.
fn forged(coupon: &MadeCoupon) -> Vec<Vec<u8>> {
    let text = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    let now = text(chrono::Utc::now());
    let instants = [now.as_str(), "2020-01-01T00:00:00.000Z"];
    let messages = instants
        .iter()
        .flat_map(|at| [1, 2, 20].map(|slot| (slot, *at)));
    messages
        .map(|(slot, at)| claim(coupon, &format!("forger-{slot}"), slot, at))
        .collect()
}

fn claim(coupon: &MadeCoupon, user: &str, slot: impl std::fmt::Display, at: &str) -> Vec<u8> {
    let MadeCoupon { id, drop, .. } = coupon;
    format!(r#"{{"v":2,"coupon_id":{id},"drop_id":{drop},"claims":[{{"slot":{slot},"user_id":"{user}","claimed_at":"{at}"}}]}}"#)
        .into()
}

/// Sends a batch while no consumer runs, and flips one of its bits on the broker's disk.
async fn garbled(system: &SystemUnderTest) -> Result<Vec<GarbagePlace>> {
    let servers = &system.servers;
    let _alone = servers.alone(FaultyStore::Kafka).await;
    let consumers: Vec<_> = system
        .supervisor
        .all()
        .iter()
        .filter(|process| process.role() == ProcessRole::Consumer)
        .collect();
    let mut busy = Vec::new();
    for consumer in &consumers {
        busy.push(consumer.busy.lock().await);
        consumer.kill().await;
    }
    let text = format!("{:?} {GARBLED}", Instant::now());
    let first = system
        .world
        .topic
        .produce_batch(PARTITION, "none", &[text.clone().into_bytes()])
        .await;
    let done = servers
        .kafka
        .garble(system.world.topic.name(), PARTITION, text.as_bytes());
    for consumer in &consumers {
        consumer.come_back(None);
    }
    done?;
    pause(100).await;
    Ok(vec![GarbagePlace::Garbled(format!(
        "source_partition = {PARTITION} AND source_offset = {first}"
    ))])
}
