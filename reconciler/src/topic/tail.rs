//! The topic's unread messages, sorted by coupon, drop and slot. A few stay in memory; more are
//! written to a file without a name as *sorted runs*, of which a page of slots reads its part. So
//! memory stays flat, however long the consumer stood still (docs/PERFORMANCE.md has the figures).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;

/// A message that the consumer has not dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    pub slot: Slot,
    pub user: UserId,
    /// When they were admitted.
    pub claimed_at: DateTime<Utc>,
}

/// Bytes of messages in memory, from which on they go into the file.
pub(super) const IN_MEMORY: usize = 8 << 20;

/// Messages of a block: what is read at a time. Its first message is noted in memory.
const BLOCK: usize = 128;

/// Messages on one slot that a pass decides on. At most one of them holds it, so a flood of them
/// keeps no other slot's back.
const OF_A_SLOT: usize = 100;

/// Most messages read on slots that are none of a drop's.
const BESIDE_AT_MOST: usize = 1_000;

/// A drop as a message names it. One that names a drop with another coupon than its own is none of
/// the drop's: the consumer makes a dead letter of it.
pub(crate) type TailDrop = (CouponId, DropId);

/// What sorts messages.
type MessageKey = (TailDrop, Slot);

/// Bytes of a key in a block: two numbers of eight, and one of four.
const KEY_BYTES: usize = 20;

/// Takes in messages in the order of the topic.
pub(super) struct TailWriter {
    limit: usize,
    /// Key, and where in `bytes` the rest stands.
    keys: Vec<(MessageKey, u32)>,
    bytes: Vec<u8>,
    messages: Messages,
}

/// Where messages of a drop are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    pub(crate) any: bool,
    /// The highest of the drop's slots with one.
    pub(crate) highest: Slot,
}

/// Messages by coupon, drop and slot; on one slot in the order of the topic.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    file: Option<File>,
    end: u64,
    runs: Vec<SortedRun>,
}

/// Sorted messages, in blocks.
#[derive(Debug)]
struct SortedRun {
    /// The first message of each block, and where the block begins.
    blocks: Vec<(MessageKey, u64)>,
    end: u64,
    /// The blocks, where they are not in the file.
    bytes: Option<Vec<u8>>,
}

impl TailWriter {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            keys: Vec::new(),
            bytes: Vec::new(),
            messages: Messages::default(),
        }
    }

    pub(super) fn push(&mut self, event: &ClaimEvent) -> io::Result<()> {
        let at = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.keys
            .push((((event.coupon_id, event.drop_id), event.slot), at));
        self.bytes
            .extend(event.claimed_at.timestamp_micros().to_le_bytes());
        // A user id has 64 letters at most.
        let user = event.user_id.as_str().as_bytes();
        self.bytes.push(u8::try_from(user.len()).unwrap_or(u8::MAX));
        self.bytes.extend(user);
        if self.keys.len() * size_of::<(MessageKey, u32)>() + self.bytes.len() >= self.limit {
            self.spill()?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Messages {
        if !self.keys.is_empty() {
            let run = self.run(0);
            self.messages.runs.push(run);
        }
        self.messages
    }

    fn spill(&mut self) -> io::Result<()> {
        let mut run = self.run(self.messages.end);
        let file = match &mut self.messages.file {
            Some(file) => file,
            none => none.insert(unnamed()?),
        };
        file.write_all(&run.bytes.take().unwrap_or_default())?;
        self.messages.end = run.end;
        self.messages.runs.push(run);
        Ok(())
    }

    /// What is in memory as a run that begins at `begin`.
    fn run(&mut self, begin: u64) -> SortedRun {
        let (mut keys, messages) = (
            std::mem::take(&mut self.keys),
            std::mem::take(&mut self.bytes),
        );
        keys.sort_by_key(|(key, _)| *key);
        let mut bytes = Vec::with_capacity(messages.len() + keys.len() * KEY_BYTES);
        let mut blocks = Vec::with_capacity(keys.len().div_ceil(BLOCK));
        for block in keys.chunks(BLOCK) {
            blocks.push((block[0].0, begin + bytes.len() as u64));
            for (((coupon, drop), slot), at) in block {
                let rest = &messages[*at as usize..];
                bytes.extend(coupon.0.to_le_bytes());
                bytes.extend(drop.0.to_le_bytes());
                bytes.extend(slot.to_le_bytes());
                bytes.extend(&rest[..9 + usize::from(rest[8])]);
            }
        }
        SortedRun {
            blocks,
            end: begin + bytes.len() as u64,
            bytes: Some(bytes),
        }
    }
}

/// A file that goes with its last handle, however the process ends.
fn unnamed() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("firstcome-unread-{}", uuid::Uuid::now_v7()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Says at start where a long tail could not be kept: it comes when consumers stand still, and
/// then every pass would fail.
pub(crate) fn warn_unless_writable() {
    if let Err(error) = unnamed() {
        let folder = std::env::temp_dir();
        tracing::warn!(%error, folder = %folder.display(), "no file can be written: set TMPDIR to a folder with room");
    }
}

impl Messages {
    /// The messages of a drop on the slots `from..=to`, in order of slots: a hundred of each slot,
    /// `most` in all.
    fn on_slots(
        &self,
        drop: TailDrop,
        (from, to): (Slot, Slot),
        most: usize,
    ) -> io::Result<Vec<InFlight>> {
        let (mut found, mut seen) = (Vec::new(), HashMap::new());
        for run in &self.runs {
            let mut left = most;
            run.visit(self.file.as_ref(), ((drop, from), (drop, to)), |message| {
                let on_slot = seen.entry(message.key.1).or_insert(0);
                *on_slot += 1;
                if *on_slot <= OF_A_SLOT {
                    left -= 1;
                    found.push(message.in_flight());
                }
                left > 0
            })?;
        }
        found.sort_by_key(|message| message.slot);
        found.truncate(most);
        Ok(found)
    }

    /// The highest slot with a message of a drop, up to `limit`; `None` without any.
    fn highest(&self, drop: TailDrop, limit: Slot) -> io::Result<Option<Slot>> {
        let mut highest = None;
        for run in &self.runs {
            // Where this block has none of the drop's, none before it has.
            let Some(at) = run
                .blocks
                .partition_point(|(key, _)| *key <= (drop, limit))
                .checked_sub(1)
            else {
                continue;
            };
            let block = run.block(self.file.as_ref(), at)?;
            let own = messages(&block)
                .map(|message| message.key)
                .filter(|key| key.0 == drop && key.1 <= limit);
            highest = highest.max(own.map(|(_, slot)| slot).max());
        }
        Ok(highest)
    }

    /// Where messages of these drops, each with its quantity, are.
    pub(crate) async fn extents(
        self: &Arc<Self>,
        drops: Vec<(TailDrop, Slot)>,
    ) -> io::Result<Vec<Extent>> {
        self.ask(move |messages| {
            let extent = |(drop, quantity)| {
                let any = messages.highest(drop, Slot::MAX)?.is_some();
                Ok(Extent {
                    any,
                    highest: if any {
                        messages.highest(drop, quantity)?.unwrap_or(0)
                    } else {
                        0
                    },
                })
            };
            drops.into_iter().map(extent).collect()
        })
        .await
    }

    /// The messages of a drop of `quantity` slots from one slot to another or the end; of those on
    /// slots that are none of the drop's a few.
    pub(crate) async fn page(
        self: &Arc<Self>,
        (drop, quantity): (TailDrop, Slot),
        (from, to): (Slot, Option<Slot>),
    ) -> io::Result<Vec<InFlight>> {
        self.ask(move |messages| {
            let to = to.unwrap_or(Slot::MAX);
            let mut found = messages.on_slots(drop, (from, to.min(quantity)), usize::MAX)?;
            if to > quantity {
                found.extend(messages.on_slots(
                    drop,
                    (from.max(quantity + 1), to),
                    BESIDE_AT_MOST,
                )?);
            }
            Ok(found)
        })
        .await
    }

    /// Reads, where it may wait for a disk on a thread of its own.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.file.is_none() {
            return read(self);
        }
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || read(&this))
            .await
            .map_err(io::Error::other)?
    }
}

impl SortedRun {
    /// Hands the messages between two keys to `take` in order, as long as it says so.
    fn visit(
        &self,
        file: Option<&File>,
        (from, to): (MessageKey, MessageKey),
        mut take: impl FnMut(Message<'_>) -> bool,
    ) -> io::Result<()> {
        // The block before may end with the first of them.
        let first = self
            .blocks
            .partition_point(|(key, _)| *key < from)
            .saturating_sub(1);
        let last = self.blocks.partition_point(|(key, _)| *key <= to);
        for at in first..last {
            let block = self.block(file, at)?;
            let mut wanted = messages(&block).filter(|message| (from..=to).contains(&message.key));
            if !wanted.all(&mut take) {
                break;
            }
        }
        Ok(())
    }

    fn block(&self, file: Option<&File>, at: usize) -> io::Result<Cow<'_, [u8]>> {
        let (begin, end) = (
            self.blocks[at].1,
            self.blocks.get(at + 1).map_or(self.end, |(_, next)| *next),
        );
        let size = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        Ok(match (&self.bytes, file) {
            (Some(bytes), _) => bytes[size(begin)?..size(end)?].into(),
            (None, Some(file)) => {
                let mut block = vec![0; size(end - begin)?];
                file.read_exact_at(&mut block, begin)?;
                block.into()
            }
            (None, None) => Cow::default(),
        })
    }
}

/// A message as it stands in a block.
struct Message<'b> {
    key: MessageKey,
    micros: i64,
    user: &'b [u8],
}

impl Message<'_> {
    fn in_flight(&self) -> InFlight {
        InFlight {
            slot: self.key.1,
            user: UserId::from_store(String::from_utf8_lossy(self.user).into_owned()),
            claimed_at: DateTime::from_timestamp_micros(self.micros).unwrap_or_default(),
        }
    }
}

fn messages(mut block: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (coupon, rest) = block.split_first_chunk()?;
        let (drop, rest) = rest.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (micros, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let (user, rest) = rest.split_at_checked(usize::from(*length))?;
        block = rest;
        let drop = (
            CouponId(i64::from_le_bytes(*coupon)),
            DropId(i64::from_le_bytes(*drop)),
        );
        let key = (drop, Slot::from_le_bytes(*slot));
        Some(Message {
            key,
            micros: i64::from_le_bytes(*micros),
            user,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_page_finds_the_messages_of_its_slots_in_memory_and_in_the_file(
            sent in prop::collection::vec((1..3_i64, 1..4_i64, 1..40_u32, "[a-z]{1,9}"), 0..600),
            limit in prop::sample::select(vec![300, 4_000, usize::MAX]),
            (from, to) in (0..45_u32, 0..45_u32),
        ) {
            let mut writer = TailWriter::new(limit);
            for (coupon, drop, slot, user) in &sent {
                let claimed_at = DateTime::<Utc>::from_timestamp_micros(i64::from(*slot) * 1_001).unwrap();
                let user_id = user.parse().unwrap();
                let (coupon_id, drop_id) = (CouponId(*coupon), DropId(*drop));
                let event = ClaimEvent { coupon_id, drop_id, slot: *slot, user_id, claimed_at };
                writer.push(&event).unwrap();
            }
            let messages = writer.finish();
            for (coupon, drop) in (0..4).flat_map(|coupon| (0..5).map(move |drop| (coupon, drop))) {
                let mut own: Vec<_> = sent.iter().filter(|(of, at, ..)| (*of, *at) == (coupon, drop)).collect();
                own.sort_by_key(|(_, _, slot, _)| *slot);
                let expected: Vec<_> = own.iter().filter(|(_, _, slot, _)| (from..=to).contains(slot)).collect();
                let named = (CouponId(coupon), DropId(drop));
                let found = messages.on_slots(named, (from, to), usize::MAX).unwrap();
                prop_assert_eq!(found.len(), expected.len());
                for (message, (_, _, slot, user)) in found.iter().zip(expected) {
                    prop_assert_eq!((message.slot, message.user.as_str()), (*slot, user.as_str()));
                    prop_assert_eq!(message.claimed_at.timestamp_micros(), i64::from(*slot) * 1_001);
                }
                let highest = own.iter().map(|(_, _, slot, _)| *slot).filter(|slot| *slot <= to).max();
                prop_assert_eq!(messages.highest(named, to).unwrap(), highest);
            }
        }
    }

    #[test]
    fn a_flood_on_one_slot_keeps_no_other_slot_back() {
        let mut writer = TailWriter::new(10_000);
        let mut push = |slot, user: String| {
            let (drop_id, claimed_at) = (DropId(1), DateTime::UNIX_EPOCH);
            writer
                .push(&ClaimEvent {
                    coupon_id: CouponId(1),
                    drop_id,
                    slot,
                    user_id: user.parse().unwrap(),
                    claimed_at,
                })
                .unwrap();
        };
        (0..5_000).for_each(|n| push(1, format!("u-{n}")));
        push(2, "second".into());
        (0..5_000).for_each(|n| push(10 + n, format!("u-{n}")));
        let messages = writer.finish();
        let drop = (CouponId(1), DropId(1));
        let found = messages.on_slots(drop, (0, 9), usize::MAX).unwrap();
        assert_eq!(
            (found.len(), found[0].user.as_str(), found[100].slot),
            (101, "u-0", 2)
        );
        let found = messages.on_slots(drop, (10, Slot::MAX), 1_000).unwrap();
        assert_eq!((found.len(), found[999].slot), (1_000, 1_009));
    }
}
