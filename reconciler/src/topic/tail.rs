//! Holds the topic's unread messages in memory: an arena of user IDs, and a table of fixed-size
//! entries sorted by drop and slot. A message takes 21 bytes plus its user ID. Above
//! [`MOST_BYTES`], the tail counts as unknown.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;

/// A message that the consumer has not processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    pub slot: Slot,
    pub user: UserId,
    /// When the user was admitted.
    pub claimed_at: DateTime<Utc>,
}

/// Maximum memory for unread messages, in bytes. This holds about 8 million messages.
pub(super) const MOST_BYTES: usize = 256 << 20;

/// Maximum number of messages for one slot that a pass processes. At most one of them is valid, and
/// the limit keeps a flood of them from affecting other slots.
const OF_A_SLOT: usize = 100;

/// Maximum number of messages read for slots outside the drop.
const BESIDE_AT_MOST: usize = 1_000;

/// The coupon and drop that a message names. If they do not belong together, the consumer turns the
/// message into a dead letter, so it does not count for the drop.
pub(crate) type TailDrop = (CouponId, DropId);

/// Approximate size of a drop's entry in the map, in bytes. Foreign messages may all name different
/// drops.
const DROP_BYTES: usize = 48;

/// One message. The time is stored as a byte array, so that an entry takes 20 bytes instead of 24.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The index of its drop in [`Messages::drops`].
    drop: u32,
    slot: Slot,
    micros: [u8; 8],
    /// The position of its user ID in [`Messages::ids`], which begins with a length byte.
    id: u32,
}

/// The slots of a drop that have messages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    pub(crate) any: bool,
    /// The highest of the drop's slots with a message.
    pub(crate) highest: Slot,
}

/// Messages by drop and slot. Messages for the same slot are in the order of the topic.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    drops: HashMap<TailDrop, u32>,
    ids: Vec<u8>,
    entries: Vec<Entry>,
}

/// The messages do not fit into memory.
#[derive(Debug, thiserror::Error)]
#[error("more messages are unread than fit in {} MB of memory", .0 >> 20)]
pub(crate) struct TooMany(usize);

/// Adds messages in the order of the topic.
pub(super) struct TailWriter {
    limit: usize,
    messages: Messages,
}

impl TailWriter {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            messages: Messages::default(),
        }
    }

    pub(super) fn push(&mut self, event: &ClaimEvent) -> Result<(), TooMany> {
        let of = &mut self.messages;
        let user = event.user_id.as_str().as_bytes();
        let bytes = of.drops.len() * DROP_BYTES
            + of.ids.len()
            + of.entries.len() * size_of::<Entry>()
            + user.len();
        let (Ok(id), Ok(number), Ok(length)) = (
            u32::try_from(of.ids.len()),
            u32::try_from(of.drops.len()),
            u8::try_from(user.len()),
        ) else {
            return Err(TooMany(self.limit));
        };
        if bytes > self.limit {
            return Err(TooMany(self.limit));
        }
        let drop = *of
            .drops
            .entry((event.coupon_id, event.drop_id))
            .or_insert(number);
        of.ids.push(length);
        of.ids.extend(user);
        of.entries.push(Entry {
            drop,
            slot: event.slot,
            micros: event.claimed_at.timestamp_micros().to_le_bytes(),
            id,
        });
        Ok(())
    }

    pub(super) fn finish(mut self) -> Messages {
        // IDs are stored in the order of the topic. A stable sort would need half as much memory
        // again.
        self.messages
            .entries
            .sort_unstable_by_key(|entry| (entry.drop, entry.slot, entry.id));
        self.messages
    }
}

impl Messages {
    /// Returns the messages of a drop for these slots, in order of slots: at most a hundred per
    /// slot and `most` in total.
    fn on_slots(&self, drop: TailDrop, slots: RangeInclusive<Slot>, most: usize) -> Vec<InFlight> {
        let (from, to) = slots.into_inner();
        let entries = self.of_drop(drop);
        let first = entries.partition_point(|entry| entry.slot < from);
        let mut slot = 0;
        let mut on_slot = 0;
        entries[first..]
            .iter()
            .take_while(|entry| entry.slot <= to)
            .filter(|entry| {
                on_slot = if entry.slot == slot { on_slot + 1 } else { 1 };
                slot = entry.slot;
                on_slot <= OF_A_SLOT
            })
            .take(most)
            .map(|entry| self.in_flight(entry))
            .collect()
    }

    fn of_drop(&self, drop: TailDrop) -> &[Entry] {
        let Some(drop) = self.drops.get(&drop) else {
            return &[];
        };
        let from = self.entries.partition_point(|entry| entry.drop < *drop);
        let to = self.entries.partition_point(|entry| entry.drop <= *drop);
        &self.entries[from..to]
    }

    /// Returns the drop's highest slot up to `limit` that has a message.
    fn highest(&self, drop: TailDrop, limit: Slot) -> Option<Slot> {
        let entries = self.of_drop(drop);
        let above = entries.partition_point(|entry| entry.slot <= limit);
        Some(entries[above.checked_sub(1)?].slot)
    }

    /// Returns which slots of a drop with this quantity have messages.
    pub(crate) fn extent(&self, drop: TailDrop, quantity: Slot) -> Extent {
        Extent {
            any: !self.of_drop(drop).is_empty(),
            highest: self.highest(drop, quantity).unwrap_or(0),
        }
    }

    /// Returns the messages of a drop for a range of slots. The last page also contains a few
    /// messages for slots outside the drop.
    pub(crate) fn page(
        &self,
        drop: TailDrop,
        quantity: Slot,
        slots: RangeInclusive<Slot>,
    ) -> Vec<InFlight> {
        let (from, to) = slots.into_inner();
        let mut found = self.on_slots(drop, from..=to.min(quantity), usize::MAX);
        if to > quantity {
            found.extend(self.on_slots(drop, from.max(quantity + 1)..=to, BESIDE_AT_MOST));
        }
        found
    }

    fn in_flight(&self, entry: &Entry) -> InFlight {
        let at = entry.id as usize;
        let length = usize::from(self.ids[at]);
        let id = &self.ids[at + 1..=at + length];
        InFlight {
            slot: entry.slot,
            user: UserId::from_store(String::from_utf8_lossy(id).into_owned()),
            claimed_at: DateTime::from_timestamp_micros(i64::from_le_bytes(entry.micros))
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(coupon: CouponId, drop: DropId, slot: Slot, user: &str) -> ClaimEvent {
        ClaimEvent {
            coupon_id: coupon,
            drop_id: drop,
            slot,
            user_id: user.parse().unwrap(),
            claimed_at: DateTime::from_timestamp_micros(i64::from(slot) * 1_001).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn page_returns_the_messages_of_its_slots(
            sent in prop::collection::vec((1..3_i64, 1..4_i64, 1..40_u32, "[a-z]{1,9}"), 0..600),
            (from, to) in (0..45_u32, 0..45_u32),
        ) {
            let mut writer = TailWriter::new(usize::MAX);
            for (coupon, drop, slot, user) in &sent {
                writer.push(&event(CouponId(*coupon), DropId(*drop), *slot, user)).unwrap();
            }
            let messages = writer.finish();
            for (coupon, drop) in (0..4).flat_map(|coupon| (0..5).map(move |drop| (coupon, drop))) {
                let mut own: Vec<_> = sent.iter().filter(|(of, at, ..)| (*of, *at) == (coupon, drop)).collect();
                own.sort_by_key(|(_, _, slot, _)| *slot);
                let expected: Vec<_> = own.iter().filter(|(_, _, slot, _)| (from..=to).contains(slot)).collect();
                let named = (CouponId(coupon), DropId(drop));
                let found = messages.on_slots(named, from..=to, usize::MAX);
                prop_assert_eq!(found.len(), expected.len());
                for (message, (_, _, slot, user)) in found.iter().zip(expected) {
                    prop_assert_eq!((message.slot, message.user.as_str()), (*slot, user.as_str()));
                    prop_assert_eq!(message.claimed_at.timestamp_micros(), i64::from(*slot) * 1_001);
                }
                let highest = own.iter().map(|(_, _, slot, _)| *slot).filter(|slot| *slot <= to).max();
                prop_assert_eq!(messages.highest(named, to), highest);
            }
        }
    }

    #[test]
    fn flood_of_messages_on_one_slot_does_not_hide_other_slots() {
        let mut writer = TailWriter::new(usize::MAX);
        let mut push = |slot, user: &str| {
            writer
                .push(&event(CouponId(1), DropId(1), slot, user))
                .unwrap();
        };
        (0..5_000).for_each(|n| push(1, &format!("u-{n}")));
        push(2, "second");
        (0..5_000).for_each(|n| push(10 + n, &format!("u-{n}")));
        let messages = writer.finish();
        let drop = (CouponId(1), DropId(1));
        let found = messages.on_slots(drop, 0..=9, usize::MAX);
        assert_eq!(
            (found.len(), found[0].user.as_str(), found[100].slot),
            (101, "u-0", 2)
        );
        let found = messages.on_slots(drop, 10..=Slot::MAX, 1_000);
        assert_eq!((found.len(), found[999].slot), (1_000, 1_009));
    }

    #[test]
    fn message_limit_applies_to_all_drops_together() {
        assert_eq!(size_of::<Entry>(), 20);
        let filled = |drop: fn(i64) -> i64| {
            let mut writer = TailWriter::new(100_000);
            (0..100_000)
                .take_while(|n| {
                    writer
                        .push(&event(CouponId(1), DropId(drop(*n)), 1, "u-1234567"))
                        .is_ok()
                })
                .count()
        };
        // 20 bytes for the entry, one for the length, and nine for the letters.
        let same = filled(|_| 1);
        let other = filled(|n| n);
        assert!((3_330..=3_333).contains(&same), "{same}");
        assert!((1_280..=1_283).contains(&other), "{other}");
    }
}
