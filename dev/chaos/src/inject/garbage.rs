//! Garbage that is written into a store. The product must remove it, or report it so that an
//! operator removes it as OPERATIONS describes. Afterwards everything must become exact.

use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_testkit::MadeCoupon;

use super::batches::is_cut_off;
use super::effect::Effect;
use super::pieces::key_of;
use crate::fault::{DropKey, Garbage};
use crate::place::GarbagePlace;
use crate::system::{SystemUnderTest, number};
use crate::wait::pause;

/// The reason in manually inserted dead letters.
const BY_HAND: &str = "garbage by hand";

/// Time limit until garbage is reported. Other faults may prevent passes for most of it.
const NAMED_WITHIN: Duration = Duration::from_secs(90);

/// Writes the garbage, and waits until it is gone.
pub(super) async fn put(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    garbage: Garbage,
    ms: u64,
) -> Result<Effect> {
    let mut placed = PlacedGarbage::new(system).await;
    let places = match garbage {
        Garbage::Messages => placed.messages(coupon).await,
        Garbage::DeadLetters => placed.dead_letters(coupon).await,
    };
    placed.note(&places);
    placed.until_gone(&places, ms).await
}

/// Removes garbage that another fault has restored after an operator removed it, for example when a
/// server took over with old data.
pub(crate) async fn remove_what_came_back(system: &SystemUnderTest) -> Result<()> {
    for (finding, place) in system.put_garbage() {
        let placed = PlacedGarbage {
            system,
            finding,
            put: true,
        };
        placed.until_gone(&[place], 0).await?;
    }
    Ok(())
}

pub(super) async fn wrong_type(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    key: DropKey,
    ms: u64,
) -> Result<Effect> {
    let mut placed = PlacedGarbage::new(system).await;
    let redis = system.redis();
    let name = key_of(&redis, coupon, key);
    // No key is a list.
    let (command, kind) = ("LPUSH", "list");
    for words in [&["DEL", &name][..], &[command, &name, GARBAGE]] {
        // The command may have run even if it failed.
        placed.put |= redis.try_command::<()>(words).await.is_ok();
    }
    let drop = coupon.drop;
    let places = [GarbagePlace::Type { name, kind, drop }];
    placed.note(&places);
    placed.until_gone(&places, ms).await
}

/// The value of a key of another type.
const GARBAGE: &str = "garbage";

/// Garbage that one fault has written.
pub(super) struct PlacedGarbage<'a> {
    system: &'a SystemUnderTest,
    /// The ID of the last finding before the garbage was written.
    finding: u64,
    put: bool,
}

impl<'a> PlacedGarbage<'a> {
    pub(super) async fn new(system: &'a SystemUnderTest) -> Self {
        let last = "SELECT COALESCE(MAX(id), 0) FROM reconcile_findings";
        Self {
            system,
            finding: number(system, last).await.unwrap_or(0),
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

    async fn messages(&mut self, coupon: &MadeCoupon) -> Vec<GarbagePlace> {
        let MadeCoupon { id, drop, .. } = coupon;
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
            places.push(GarbagePlace::message(partition, offset));
            self.put = true;
        }
        places
    }

    async fn dead_letters(&mut self, coupon: &MadeCoupon) -> Vec<GarbagePlace> {
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
                        Self::describe(place)
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

    async fn open_letters(&self, of: &str) -> Result<u64> {
        let open = format!("SELECT COUNT(*) - COUNT(resolved_at) FROM failed_claims WHERE {of}");
        number(self.system, &open).await
    }

    async fn is_there(&self, place: &GarbagePlace) -> Result<bool> {
        let redis = self.system.redis();
        Ok(match place {
            GarbagePlace::Type { name, kind, .. } => {
                redis.try_command::<String>(&["TYPE", name]).await? == *kind
                    && (*kind == "list"
                        || redis.try_command::<String>(&["GET", name]).await? == GARBAGE)
            }
            // The message may not have been read yet.
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
                // In this order, because a letter and the position behind it are written together.
                number(self.system, &unread).await? > 0 || self.open_letters(letter).await? > 0
            }
            GarbagePlace::Garbled(of) => {
                let resolved = format!(
                    "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(resolved_at) FROM failed_claims WHERE {of}"
                );
                number(self.system, &resolved).await? == 0
            }
        })
    }

    /// Whether a finding reports the garbage: by its dead letter, by the count of its kind, or by
    /// its drop, which then needs manual attention.
    async fn is_named(&self, place: &GarbagePlace) -> Result<bool> {
        let findings = "SELECT COUNT(*) FROM reconcile_findings f WHERE needs_person AND";
        let after = format!(
            "(id > {} OR run_id = (SELECT same_as FROM reconcile_runs ORDER BY id DESC LIMIT 1))",
            self.finding
        );
        let named = match place {
            // A drop that cannot be read is reported.
            GarbagePlace::Type { drop, .. } => {
                format!("{findings} drop_id = {drop} AND result = 'failed' AND {after}")
            }
            GarbagePlace::DeadLetters(of)
            | GarbagePlace::Garbled(of)
            | GarbagePlace::Message { letter: of, .. } => format!(
                "SELECT COUNT(*) > 0 AND COUNT(*) = COUNT(resolved_at IS NOT NULL OR EXISTS (SELECT 1
                 FROM reconcile_findings f WHERE f.kind = 'failed_claim' AND f.needs_person
                 AND (f.dead_letter = c.id OR f.detail REGEXP '^[0-9]+ more failed claims name ')) OR NULL)
                 FROM failed_claims c WHERE {of}"
            ),
        };
        Ok(number(self.system, &named).await? > 0)
    }

    async fn remove(&self, place: &GarbagePlace) -> Result<()> {
        let redis = self.system.redis();
        match place {
            GarbagePlace::Type { name, .. } => redis.try_command(&["DEL", name]).await?,
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

    fn describe(place: &GarbagePlace) -> String {
        match place {
            GarbagePlace::Type { name, .. } => format!("a key of another type, {name}"),
            GarbagePlace::DeadLetters(of)
            | GarbagePlace::Garbled(of)
            | GarbagePlace::Message { letter: of, .. } => format!("dead letters, {of}"),
        }
    }
}
