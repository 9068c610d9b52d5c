//! Garbage that is written into a store. The product must remove it, or report it so that an
//! operator removes it as OPERATIONS describes. Afterwards everything must become exact.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_harness::MadeCoupon;

use super::redis::key_of;
use crate::effect::Effect;
use crate::fault::{FaultyStore, Garbage, GarbagePlace, ProcessRole};
use crate::system::SystemUnderTest;
use crate::wait::pause;

/// The reason in manually inserted dead letters.
const BY_HAND: &str = "garbage by hand";

/// Time limit until garbage is reported. Other faults may prevent passes for most of it.
const NAMED_WITHIN: Duration = Duration::from_secs(90);

/// The partition for batches.
const PARTITION: i32 = 0;

/// The end of a garbled message.
const GARBLED: &str = "is garbled";

fn message((partition, offset): (i32, i64)) -> GarbagePlace {
    GarbagePlace::Message {
        letter: format!("source_partition = {partition} AND source_offset = {offset}"),
        partition,
        offset,
    }
}

/// Writes the garbage, and waits until it is removed or the time limit is over.
pub(super) async fn put(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    garbage: Garbage,
    ms: u64,
) -> Result<Effect> {
    let mut placed = PlacedGarbage::new(system).await;
    let places = match garbage {
        Garbage::Messages => {
            let mut places = Vec::new();
            for message in odd_messages(coupon) {
                places.push(system.world.topic.produce(None, "odd", &message).await);
            }
            places.into_iter().map(message).collect()
        }
        Garbage::DeadLetters => dead_letters(system, coupon).await,
        Garbage::Forged => {
            let codec = ["gzip", "snappy", "lz4", "zstd"][rand::random_range(0..4)];
            foreign_batch(system, codec, &forged(coupon)).await
        }
        // 18 MB that compress to 20 KB; with other codecs, Kafka or its client may refuse them.
        Garbage::Oversized => foreign_batch(system, "gzip", &vec![vec![b'a'; 900_000]; 20]).await,
        Garbage::Garbled => garbled(system).await?,
    };
    placed.put = !places.is_empty();
    placed.until_gone(places, ms).await
}

/// Replaces a key with a list, and waits until the list is removed or the time limit is over.
pub(super) async fn wrong_type(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    key: &str,
    ms: u64,
) -> Result<Effect> {
    let mut placed = PlacedGarbage::new(system).await;
    let redis = system.redis();
    let name = key_of(&redis, coupon, key);
    for words in [&["DEL", &name][..], &["LPUSH", &name, "garbage"]] {
        // One success is enough: a command that reported an error may have run as well.
        placed.put |= redis.try_command::<()>(words).await.is_ok();
    }
    let drop = coupon.drop;
    let places = vec![GarbagePlace::List { name, drop }];
    placed.until_gone(places, ms).await
}

/// Removes garbage that was removed before and that another fault has restored, for example when a
/// server took over with old data.
pub(crate) async fn remove_what_came_back(system: &SystemUnderTest) -> Result<()> {
    let all = std::mem::take(&mut *system.garbage.lock());
    for (finding, place) in all {
        let placed = PlacedGarbage {
            system,
            finding,
            put: true,
        };
        placed.until_gone(vec![place], 0).await?;
    }
    Ok(())
}

fn claim(coupon: i64, drop: i64, slot: i64, user: &str, at: &str) -> Vec<u8> {
    format!(r#"{{"v":2,"coupon_id":{coupon},"drop_id":{drop},"claims":[{{"slot":{slot},"user_id":"{user}","claimed_at":"{at}"}}]}}"#)
        .into()
}

fn odd_messages(coupon: &MadeCoupon) -> [Vec<u8>; 7] {
    let MadeCoupon { id, drop, .. } = *coupon;
    let at = "2026-01-01T00:00:00.000Z";
    [
        b"\xff\x00 not JSON".to_vec(),
        Vec::new(),
        claim(id, drop, i64::from(u32::MAX), "odd-slot", at),
        claim(id, drop, i64::MAX, "odd-far", at),
        claim(id, i64::MAX, 1, "odd-drop", at),
        claim(i64::MAX, drop, 1, "odd-coupon", at),
        claim(id, drop, 1, "odd person", at),
    ]
}

/// Creates claims of a user who never claimed, for several slots, made now and years ago.
fn forged(coupon: &MadeCoupon) -> Vec<Vec<u8>> {
    let now = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S.000Z")
        .to_string();
    let at = |at: &str| [1, 2, 20].map(|slot| claim(coupon.id, coupon.drop, slot, "forger", at));
    [at(&now), at("2020-01-01T00:00:00.000Z")].concat()
}

/// Sends a batch that is compressed and not signed.
async fn foreign_batch(
    system: &SystemUnderTest,
    codec: &str,
    messages: &[Vec<u8>],
) -> Vec<GarbagePlace> {
    let _alone = system.servers.alone(FaultyStore::Kafka).await;
    let topic = system.world.topic.unsigned();
    let first = topic.produce_batch(PARTITION, codec, messages).await;
    let offsets = (first..).take(messages.len());
    offsets.map(|offset| message((PARTITION, offset))).collect()
}

async fn dead_letters(system: &SystemUnderTest, coupon: &MadeCoupon) -> Vec<GarbagePlace> {
    let MadeCoupon { id, drop, .. } = coupon;
    let letters = format!(
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason, payload) VALUES
         (NULL, NULL, NULL, NULL, '{BY_HAND}', 0xff00), ({id}, {drop}, 9223372036854775807, 'odd-far', '{BY_HAND}', NULL),
         ({id}, {drop}, -5, 'odd-below', '{BY_HAND}', NULL), ({id}, 9223372036854775807, 1, 'odd-drop', '{BY_HAND}', NULL),
         (-1, {drop}, 1, 'odd-coupon', '{BY_HAND}', NULL), ({id}, {drop}, 1, NULL, '{BY_HAND}', NULL),
         ({id}, {drop}, 1, 'odd person', '{BY_HAND}', NULL)"
    );
    // Another fault may make MySQL slow or unavailable.
    for _ in 0..20 {
        if system.world.sql.rows(&letters).await.is_ok() {
            return vec![GarbagePlace::DeadLetters(format!("reason = '{BY_HAND}'"))];
        }
        pause(500).await;
    }
    Vec::new()
}

/// Sends a batch while no consumer runs, and flips one of its bits on the broker's disk.
async fn garbled(system: &SystemUnderTest) -> Result<Vec<GarbagePlace>> {
    let servers = &system.servers;
    let _alone = servers.alone(FaultyStore::Kafka).await;
    let consumers = system.supervisor.of_role(ProcessRole::Consumer);
    let mut busy = Vec::new();
    for consumer in &consumers {
        busy.push(consumer.busy.lock().await);
        consumer.kill().await;
    }
    let text = format!("{:?} {GARBLED}", Instant::now()).into_bytes();
    let topic = &system.world.topic;
    let first = topic
        .produce_batch(PARTITION, "none", std::slice::from_ref(&text))
        .await;
    let done = servers.kafka.garble(topic.name(), PARTITION, &text);
    for consumer in &consumers {
        consumer.come_back(None);
    }
    done?;
    pause(100).await;
    // One dead letter covers all consecutive batches that cannot be read.
    let last = "SUBSTRING_INDEX(SUBSTRING_INDEX(error, ' of partition', 1), ' to ', -1)";
    Ok(vec![GarbagePlace::Garbled(format!(
        "reason = 'unreadable' AND source_partition = {PARTITION} AND source_offset <= {first} AND {last} + 0 >= {first}"
    ))])
}

/// Whether the broker has removed the garbled batch. After a crash it checks its log, and cuts off
/// the first batch with a wrong checksum and all batches behind it.
async fn is_cut_off(system: &SystemUnderTest) -> Result<bool> {
    let kafka = &system.servers.kafka;
    let _alone = system.servers.alone(FaultyStore::Kafka).await;
    let topic = system.world.topic.name();
    Ok(!kafka.log_contains(topic, PARTITION, GARBLED.as_bytes())?)
}

/// Garbage that one fault has written.
struct PlacedGarbage<'a> {
    system: &'a SystemUnderTest,
    /// The ID of the last finding before the garbage was written.
    finding: u64,
    put: bool,
}

impl<'a> PlacedGarbage<'a> {
    async fn new(system: &'a SystemUnderTest) -> Self {
        let last = "SELECT COALESCE(MAX(id), 0) FROM reconcile_findings";
        Self {
            system,
            finding: system.number(last).await.unwrap_or(0),
            put: false,
        }
    }

    /// Waits until the product has removed or reported each piece, and removes the pieces that it
    /// has reported. Remembers each piece that is gone, because another fault may restore it. A
    /// piece that is not gone in time is a failure, unless its message may be lost or skipped.
    async fn until_gone(&self, places: Vec<GarbagePlace>, ms: u64) -> Result<Effect> {
        let begun = Instant::now();
        pause(ms).await;
        let mut removed = 0;
        'places: for place in &places {
            while self.is_there(place).await.unwrap_or(true) {
                let is_named = self.is_named(place).await.unwrap_or(false);
                removed += u32::from(is_named && self.remove(place).await.is_ok());
                // A message may be lost with its topic, or skipped by a position beyond it.
                let is_of_topic = matches!(
                    place,
                    GarbagePlace::Message { .. } | GarbagePlace::Garbled(_)
                );
                let is_lost = is_of_topic && self.system.messages_skipped.load(Ordering::Relaxed);
                let late = begun.elapsed();
                if late > NAMED_WITHIN * 2 || late > NAMED_WITHIN && (is_lost || !is_named) {
                    if !is_lost {
                        self.system
                            .object(format!("garbage not removed or reported: {place:?}"));
                    }
                    continue 'places;
                }
                pause(200).await;
            }
            let gone = (self.finding, place.clone());
            self.system.garbage.lock().push(gone);
        }
        let note = format!("{removed} of {} removed by an operator", places.len());
        let during = begun..Instant::now();
        Ok(Effect::lasting(during, self.put || removed > 0, note))
    }

    async fn open_letters(&self, of: &str) -> Result<u64> {
        let open = format!("SELECT COUNT(*) - COUNT(resolved_at) FROM failed_claims WHERE {of}");
        self.system.number(&open).await
    }

    async fn is_there(&self, place: &GarbagePlace) -> Result<bool> {
        Ok(match place {
            GarbagePlace::List { name, .. } => {
                let redis = self.system.redis();
                redis.try_command::<String>(&["TYPE", name]).await? == "list"
            }
            // The broker may have removed the batch before a consumer read it.
            GarbagePlace::Garbled(_) if is_cut_off(self.system).await? => false,
            // They may have vanished with an older copy of MySQL.
            GarbagePlace::DeadLetters(of) => self.open_letters(of).await? > 0,
            GarbagePlace::Message {
                letter,
                partition,
                offset,
            } => {
                let unread = format!(
                    "SELECT COUNT(*) = 0 FROM topic_positions
                     WHERE partition_id = {partition} AND next_offset > {offset}"
                );
                // In this order, because a dead letter and the position after it are written
                // together.
                self.system.number(&unread).await? > 0 || self.open_letters(letter).await? > 0
            }
            GarbagePlace::Garbled(of) => {
                let resolved = "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(resolved_at) FROM failed_claims WHERE";
                self.system.number(&format!("{resolved} {of}")).await? == 0
            }
        })
    }

    /// Whether findings report the garbage: a list by its drop, and dead letters one by one or by a
    /// count of further ones. Resolved dead letters need no finding.
    async fn is_named(&self, place: &GarbagePlace) -> Result<bool> {
        let named = match place {
            // A drop that cannot be read is reported.
            GarbagePlace::List { drop, .. } => format!(
                "SELECT COUNT(*) FROM reconcile_findings f WHERE needs_person AND drop_id = {drop} AND result = 'failed'
                 AND (id > {} OR run_id = (SELECT same_as FROM reconcile_runs ORDER BY id DESC LIMIT 1))",
                self.finding
            ),
            GarbagePlace::DeadLetters(of)
            | GarbagePlace::Garbled(of)
            | GarbagePlace::Message { letter: of, .. } => format!(
                "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(resolved_at IS NOT NULL OR EXISTS (SELECT 1
                 FROM reconcile_findings f WHERE f.kind = 'failed_claim' AND f.needs_person
                 AND (f.dead_letter = c.id OR f.detail REGEXP '^[0-9]+ more failed claims name ')) OR NULL)
                 FROM failed_claims c WHERE {of}"
            ),
        };
        Ok(self.system.number(&named).await? > 0)
    }

    async fn remove(&self, place: &GarbagePlace) -> Result<()> {
        match place {
            GarbagePlace::List { name, .. } => {
                let redis = self.system.redis();
                redis.try_command::<()>(&["DEL", name]).await?;
            }
            GarbagePlace::DeadLetters(of)
            | GarbagePlace::Garbled(of)
            | GarbagePlace::Message { letter: of, .. } => {
                let discard = format!(
                    "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand'
                     WHERE {of} AND resolved_at IS NULL"
                );
                self.system.world.sql.rows(&discard).await?;
            }
        }
        Ok(())
    }
}
