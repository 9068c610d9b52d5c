//! Garbage that is written into a store. The product must remove it, or report it so that an
//! operator removes it as OPERATIONS describes. Afterwards everything must become exact.

use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_testkit::{MadeCoupon, PrefixedKeys};

use super::batches::is_cut_off;
use super::effect::Effect;
use super::pieces::key_of;
use crate::fault::{DropKey, Junk};
use crate::place::GarbagePlace;
use crate::system::{SystemUnderTest, number};
use crate::wait::pause;

/// Users with valid IDs whom no claim has admitted. Redis has a promise to them, so they may get a
/// coupon.
pub(crate) const ODD_PEOPLE: [&str; 4] =
    ["odd-fraction", "odd-negative", "odd-huge", "odd-infinite"];
const ODD_SCORES: [&str; 4] = ["3.5", "-7", "1e300", "inf"];

/// Invalid user IDs: outside the contract, not ASCII, not UTF-8.
const NAMES: [&[u8]; 3] = [b"odd person", "jos\u{e9}".as_bytes(), b"\xff\xfe\x00"];

const NOT_FREE: [(&str, &str); 4] = [
    ("2", "x"),
    ("2.5", "2.5"),
    ("-3", "-3"),
    ("1e15", "1000000000000000"),
];

/// The reason in manually inserted dead letters.
const BY_HAND: &str = "junk by hand";

/// Time limit until garbage is reported. Other faults may prevent passes for most of it.
const NAMED_WITHIN: Duration = Duration::from_secs(90);

/// Writes the garbage, and waits until it is gone.
pub(super) async fn put(system: &SystemUnderTest, junk: Junk, ms: u64) -> Result<Effect> {
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let mut found = PlacedGarbage::new(system, coupon).await;
    let places = match junk {
        Junk::Scores => found.scores().await,
        Junk::Names => found.names().await,
        Junk::Free => found.free().await,
        Junk::Messages => found.messages().await,
        Junk::DeadLetters => found.dead_letters().await,
    };
    found.note(&places);
    found.until_gone(&places, ms).await
}

/// Removes garbage that another fault has restored after an operator removed it, for example when a
/// server took over with old data.
pub(crate) async fn remove_what_came_back(system: &SystemUnderTest) -> Result<()> {
    let Some(coupon) = system.coupons().first() else {
        return Ok(());
    };
    for (finding, place) in system.put_garbage() {
        PlacedGarbage {
            system,
            coupon,
            finding,
            put: true,
        }
        .until_gone(&[place], 0)
        .await?;
    }
    Ok(())
}

pub(super) async fn wrong_type(system: &SystemUnderTest, key: DropKey, ms: u64) -> Result<Effect> {
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let mut found = PlacedGarbage::new(system, coupon).await;
    let redis = system.redis();
    let name = key_of(&redis, coupon, key);
    // A counter already is a string.
    let command = if key == DropKey::Count {
        "LPUSH"
    } else {
        "SET"
    };
    found.redis(&[b"DEL", name.as_bytes()]).await;
    found
        .redis(&[command.as_bytes(), name.as_bytes(), b"junk"])
        .await;
    let kind = if key == DropKey::Count {
        "list"
    } else {
        "string"
    };
    let places = [GarbagePlace::Type { name, kind }];
    found.note(&places);
    found.until_gone(&places, ms).await
}

/// Garbage that one fault has written.
pub(super) struct PlacedGarbage<'a> {
    system: &'a SystemUnderTest,
    coupon: &'a MadeCoupon,
    /// The ID of the last finding before the garbage was written.
    finding: u64,
    put: bool,
}

impl<'a> PlacedGarbage<'a> {
    pub(super) async fn new(system: &'a SystemUnderTest, coupon: &'a MadeCoupon) -> Self {
        let finding = number(
            system,
            "SELECT COALESCE(MAX(id), 0) FROM reconcile_findings",
        )
        .await
        .unwrap_or(0);
        Self {
            system,
            coupon,
            finding,
            put: false,
        }
    }

    /// Records that the garbage was written.
    pub(super) fn was_put(&mut self) {
        self.put = true;
    }

    pub(super) fn note(&self, places: &[GarbagePlace]) {
        self.system
            .note_garbage(places.iter().map(|place| (self.finding, place.clone())));
    }

    /// Sends a command to the master. It may have run even if it failed.
    async fn redis(&mut self, words: &[&[u8]]) {
        self.put |= command(&self.system.redis(), words).await.is_ok();
    }

    fn key(&self, name: &str) -> String {
        self.system
            .redis()
            .of_drop(self.coupon.id, self.coupon.drop, name)
    }

    async fn scores(&mut self) -> Vec<GarbagePlace> {
        let key = self.key("users");
        for (score, name) in ODD_SCORES.iter().zip(ODD_PEOPLE) {
            self.redis(&[b"ZADD", key.as_bytes(), score.as_bytes(), name.as_bytes()])
                .await;
        }
        ODD_PEOPLE
            .into_iter()
            .map(|name| GarbagePlace::Score {
                key: key.clone(),
                name,
            })
            .collect()
    }

    /// Puts invalid user IDs on the next slots, as if the script had admitted them, and at the head
    /// of the waiting list.
    async fn names(&mut self) -> Vec<GarbagePlace> {
        const ADMIT: &str = "local count = tonumber(redis.call('GET', KEYS[1]) or '')
             if not count or count >= tonumber(redis.call('HGET', KEYS[3], 'quantity') or '0') then return end
             redis.call('ZADD', KEYS[2], count + 1, ARGV[1])
             redis.call('SET', KEYS[1], count + 1)";
        let [count, users, meta, waiting] =
            ["count", "users", "meta", "waiting"].map(|name| self.key(name));
        let keys = [count.as_bytes(), users.as_bytes(), meta.as_bytes()];
        for name in [NAMES[0], NAMES[1]] {
            let [count, users, meta] = keys;
            self.redis(&[b"EVAL", ADMIT.as_bytes(), b"3", count, users, meta, name])
                .await;
        }
        self.redis(&[b"ZADD", waiting.as_bytes(), b"-5", NAMES[2]])
            .await;
        let both = [users, waiting];
        let places = both.iter().flat_map(|key| {
            NAMES.map(|name| GarbagePlace::Member {
                key: key.clone(),
                name: name.to_vec(),
            })
        });
        places.collect()
    }

    async fn free(&mut self) -> Vec<GarbagePlace> {
        let key = self.key("free");
        for (score, name) in NOT_FREE {
            self.redis(&[b"ZADD", key.as_bytes(), score.as_bytes(), name.as_bytes()])
                .await;
        }
        NOT_FREE
            .map(|(_, name)| GarbagePlace::Member {
                key: key.clone(),
                name: name.into(),
            })
            .into()
    }

    async fn messages(&mut self) -> Vec<GarbagePlace> {
        let MadeCoupon { id, drop, .. } = self.coupon;
        let claim = |coupon: i64, drop: i64, slot: i64, user: &str| {
            format!(
                r#"{{"v":2,"coupon_id":{coupon},"drop_id":{drop},"claims":[{{"slot":{slot},"user_id":"{user}","claimed_at":"2026-01-01T00:00:00.000Z"}}]}}"#
            )
        };
        let messages = [
            b"\xff\x00 not JSON".to_vec(),
            Vec::new(),
            claim(*id, *drop, i64::from(u32::MAX), "odd-slot").into(),
            claim(*id, *drop, i64::MAX, "odd-far").into(),
            claim(*id, i64::MAX, 1, "odd-drop").into(),
            claim(i64::MAX, *drop, 1, "odd-coupon").into(),
            claim(*id, *drop, 1, "odd person").into(),
        ];
        let mut places = Vec::new();
        for message in messages {
            let (partition, offset) = self.system.world.topic.produce(None, "odd", &message).await;
            places.push(GarbagePlace::DeadLetters(format!(
                "source_partition = {partition} AND source_offset = {offset}"
            )));
            self.put = true;
        }
        places
    }

    async fn dead_letters(&mut self) -> Vec<GarbagePlace> {
        let MadeCoupon { id, drop, .. } = self.coupon;
        let letters = format!(
            "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason, payload) VALUES
             (NULL, NULL, NULL, NULL, '{BY_HAND}', 0xff00), ({id}, {drop}, 9223372036854775807, 'odd-far', '{BY_HAND}', NULL),
             ({id}, {drop}, -5, 'odd-below', '{BY_HAND}', NULL), ({id}, 9223372036854775807, 1, 'odd-drop', '{BY_HAND}', NULL),
             (-1, {drop}, 1, 'odd-coupon', '{BY_HAND}', NULL), ({id}, {drop}, 1, NULL, '{BY_HAND}', NULL),
             ({id}, {drop}, 1, 'odd person', '{BY_HAND}', NULL)"
        );
        // Another fault may make MySQL slow or unavailable.
        for _ in 0..20 {
            self.put = self.system.world.sql.rows(&letters).await.is_ok();
            if self.put {
                break;
            }
            pause(500).await;
        }
        vec![GarbagePlace::DeadLetters(format!("reason = '{BY_HAND}'"))]
    }

    /// Waits until the product has removed or reported each piece, and removes the pieces that it
    /// has reported.
    pub(super) async fn until_gone(&self, places: &[GarbagePlace], ms: u64) -> Result<Effect> {
        let begun = Instant::now();
        pause(ms).await;
        let mut removed = 0;
        let may_be_there =
            |place: &&GarbagePlace| self.put || !matches!(place, GarbagePlace::DeadLetters(_));
        for place in places.iter().filter(may_be_there) {
            while self.is_there(place).await.unwrap_or(true) {
                if self.is_named(place).await.unwrap_or(false) {
                    removed += u32::from(self.remove(place).await.is_ok());
                } else if begun.elapsed() > NAMED_WITHIN {
                    self.system.object(format!(
                        "garbage was neither removed nor reported: {}",
                        self.said(place)
                    ));
                    break;
                }
                pause(200).await;
            }
        }
        let note = format!("{removed} of {} removed by an operator", places.len());
        Ok(Effect::of(
            begun..Instant::now(),
            self.put || removed > 0,
            note,
        ))
    }

    async fn is_there(&self, place: &GarbagePlace) -> Result<bool> {
        let redis = self.system.redis();
        Ok(match place {
            // An invalid member of the waiting list is harmless while the drop is full.
            GarbagePlace::Member { key, name } => {
                score(&redis, key, name).await?.is_some()
                    && !(key.ends_with(":waiting") && self.is_full().await?)
            }
            GarbagePlace::Score { key, name } => {
                let score = score(&redis, key, name.as_bytes()).await?;
                score.is_some_and(|score| score.fract() != 0.0 || !(1.0..1e9).contains(&score))
            }
            GarbagePlace::Type { name, kind } => {
                redis.try_command::<String>(&["TYPE", name]).await? == *kind
                    && (*kind == "list"
                        || redis.try_command::<String>(&["GET", name]).await? == "junk")
            }
            // The message may not have been read yet.
            GarbagePlace::Garbled(_) if is_cut_off(self.system).await? => false,
            GarbagePlace::DeadLetters(of) | GarbagePlace::Garbled(of) => {
                let resolved = format!(
                    "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(resolved_at) FROM failed_claims WHERE {of}"
                );
                number(self.system, &resolved).await? == 0
            }
        })
    }

    async fn is_full(&self) -> Result<bool> {
        let redis = self.system.redis();
        let users = self.key("users");
        let meta = self.key("meta");
        let quantity: Option<u64> = redis.try_command(&["HGET", &meta, "quantity"]).await?;
        let held: u64 = redis.try_command(&["ZCARD", &users]).await?;
        Ok(quantity.is_some_and(|quantity| held >= quantity))
    }

    /// Whether a finding reports the garbage: by its dead letter, by the count of its kind, or by
    /// its drop, which then needs manual attention.
    async fn is_named(&self, place: &GarbagePlace) -> Result<bool> {
        let findings = "SELECT COUNT(*) FROM reconcile_findings f WHERE needs_person AND";
        let after = format!(
            "(id > {} OR seen_to IS NULL AND seen_from IS NOT NULL)",
            self.finding
        );
        let named = match place {
            GarbagePlace::DeadLetters(of) | GarbagePlace::Garbled(of) => format!(
                "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(resolved_at IS NOT NULL OR EXISTS (SELECT 1
                 FROM reconcile_findings f WHERE f.kind = 'failed_claim' AND f.needs_person
                 AND (f.dead_letter = c.id OR f.detail REGEXP '^[0-9]+ failed claims name ')) OR NULL)
                 FROM failed_claims c WHERE {of}"
            ),
            // An invalid user ID has a separate finding. Anything unreadable is reported with its
            // drop.
            _ => format!(
                "{findings} drop_id = {} AND (result = 'failed' OR kind = 'unissued') AND {after}",
                self.coupon.drop
            ),
        };
        Ok(number(self.system, &named).await? > 0)
    }

    async fn remove(&self, place: &GarbagePlace) -> Result<()> {
        let redis = self.system.redis();
        match place {
            GarbagePlace::Member { key, name } => {
                command(&redis, &[b"ZREM", key.as_bytes(), name.as_slice()]).await?;
                let claimants = redis.claimants(self.coupon.id);
                command(&redis, &[b"HDEL", claimants.as_bytes(), name.as_slice()]).await?;
            }
            GarbagePlace::Score { key, name } => {
                command(&redis, &[b"ZREM", key.as_bytes(), name.as_bytes()]).await?;
            }
            GarbagePlace::Type { name, .. } => command(&redis, &[b"DEL", name.as_bytes()]).await?,
            GarbagePlace::DeadLetters(of) | GarbagePlace::Garbled(of) => {
                let discard = format!(
                    "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand'
                     WHERE {of} AND resolved_at IS NULL"
                );
                self.system.world.sql.rows(&discard).await?;
            }
        }
        Ok(())
    }

    fn said(&self, place: &GarbagePlace) -> String {
        let drop = self.coupon.drop;
        match place {
            GarbagePlace::Member { key, name } => {
                format!("{} in {key} of drop {drop}", String::from_utf8_lossy(name))
            }
            GarbagePlace::Score { key, name } => format!("{name} in {key}"),
            GarbagePlace::Type { name, .. } => format!("a key of another type, {name}"),
            GarbagePlace::DeadLetters(of) | GarbagePlace::Garbled(of) => {
                format!("dead letters, {of}")
            }
        }
    }
}

async fn command(redis: &PrefixedKeys, words: &[&[u8]]) -> Result<()> {
    Ok(redis.try_command(words).await?)
}

async fn score(redis: &PrefixedKeys, key: &str, name: &[u8]) -> Result<Option<f64>> {
    let words: [&[u8]; 3] = [b"ZSCORE", key.as_bytes(), name];
    Ok(redis.try_command(&words).await?)
}
