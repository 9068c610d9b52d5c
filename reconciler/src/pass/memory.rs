//! State that a process keeps in memory between its passes. Losing it costs time, but no promise.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::kafka::TopicError;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::gate::Fence;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::repeated::Repeated;
use crate::collect::DropHeader;
use crate::plan::Plan;
use crate::record::How;
use crate::report::{Examined, Run, Trigger};
use crate::topic::{TopicReader, Unread};

/// Maximum number of runs kept for recording. This covers an hour without MySQL at two passes a
/// minute.
const UNRECORDED_AT_MOST: usize = 120;

/// How long a result about the topic's settings is valid. Less than the time between passes, so
/// that two daemons report the same.
const TOPIC_AGAIN_AFTER: Duration = Duration::from_secs(20);

/// State that one pass leaves for the next.
#[derive(Default)]
pub struct Memory {
    /// Shared by the daemon's passes and its reopenings.
    pub losses: LossClock,
    /// Shared with the terminal.
    pub progress: Arc<Progress>,
    /// The position of each partition with unread messages, and since when it has been there.
    consumer: HashMap<i32, (i64, Instant)>,
    /// Runs that could not be recorded yet because MySQL was unavailable, and how each was
    /// requested.
    pub(super) unrecorded: Vec<(Run, How)>,
    pub(super) repeated: Repeated,
    /// Drops that need not be read completely again.
    pub(super) verified: Verified,
    topic: TopicSettings,
    /// Coupons that had fewer claimants than holders, with their number of claimants at that time.
    /// A restoration reads all rows, so it is not repeated if it did not increase this number.
    pub(super) too_few_claimants: HashMap<CouponId, u64>,
}

/// Resolves to the fault in the topic's settings, once Kafka has responded.
pub(super) type TopicAnswer = AbortOnDropHandle<Result<Option<String>, TopicError>>;

/// The known state of the topic's settings.
struct TopicSettings {
    asked_at: Instant,
    /// The fault in the settings, if any.
    wrong: Option<String>,
}

impl Default for TopicSettings {
    /// The initial state has no fault, because start-up has just checked the settings.
    fn default() -> Self {
        Self {
            asked_at: Instant::now(),
            wrong: None,
        }
    }
}

/// The progress of a pass, for the terminal and the API.
#[derive(Debug, Default)]
pub struct Progress {
    /// Number of drops in this round.
    pub drops: AtomicU64,
    pub drops_done: AtomicU64,
    /// Number of users and rows compared.
    pub compared: AtomicU64,
    /// The last run that took the lock and was recorded as begun.
    begun: watch::Sender<Option<String>>,
}

impl Progress {
    pub(super) fn begins(&self, run_id: &str) {
        for number in [&self.drops, &self.drops_done, &self.compared] {
            number.store(0, Relaxed);
        }
        self.begun.send_replace(Some(run_id.to_owned()));
    }

    /// Waits until this run has the lock and is recorded, so that the API can return it.
    pub async fn until_begun(&self, run_id: &str) {
        if self
            .begun
            .subscribe()
            .wait_for(|begun| begun.as_deref() == Some(run_id))
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Begins a round over this number of drops.
    pub(super) fn begin(&self, drops: usize) {
        self.drops.store(drops as u64, Relaxed);
        self.drops_done.store(0, Relaxed);
    }
}

impl Memory {
    /// Returns the partitions with unread messages whose position has not changed for longer than
    /// `limit`, and the longest of these times.
    pub(super) fn stuck_partitions(
        &mut self,
        partitions: &[Unread],
        limit: Duration,
        now: Instant,
    ) -> (Vec<Unread>, Duration) {
        let before = std::mem::take(&mut self.consumer);
        let mut stuck = Vec::new();
        let mut longest = Duration::ZERO;
        for at in partitions.iter().filter(|at| at.from < at.end) {
            let known = before
                .get(&at.partition)
                .filter(|(from, _)| *from == at.from);
            let since = known.map_or(now, |(_, since)| *since);
            self.consumer.insert(at.partition, (at.from, since));
            if now - since > limit {
                stuck.push(*at);
                longest = longest.max(now - since);
            }
        }
        (stuck, longest)
    }

    /// Requests the topic's settings concurrently with the pass, because this needs new connections
    /// and takes as long as a short pass. Returns `None` while the last result is valid.
    pub(super) fn ask_topic(&self, topic: &TopicReader, trigger: Trigger) -> Option<TopicAnswer> {
        let asks =
            trigger == Trigger::Endpoint || self.topic.asked_at.elapsed() > TOPIC_AGAIN_AFTER;
        let topic = topic.clone();
        asks.then(|| {
            AbortOnDropHandle::new(tokio::spawn(async move { topic.unsafe_settings().await }))
        })
    }

    /// Returns the fault in the topic's settings, from this answer or the last one.
    pub(super) async fn unsafe_topic(&mut self, answer: Option<TopicAnswer>) -> Option<String> {
        if let Some(answer) = answer {
            match answer.await {
                Ok(Ok(wrong)) => {
                    self.topic = TopicSettings {
                        asked_at: Instant::now(),
                        wrong,
                    }
                }
                // The read of the unread messages reports an unavailable Kafka as well.
                Ok(Err(error)) => tracing::warn!(%error, "the topic's settings were not looked at"),
                Err(error) => tracing::warn!(%error, "the topic's settings were not looked at"),
            }
        }
        self.topic.wrong.clone()
    }

    pub(super) fn keep_unrecorded(&mut self, run: Run, how: How) {
        if self.unrecorded.len() < UNRECORDED_AT_MOST {
            self.unrecorded.push((run, how));
        }
    }
}

/// Margin in addition to the deadlines. Covers the inaccuracy of timers and the time until a
/// message or row arrives.
pub(super) const MARGIN: Duration = Duration::from_millis(250);

/// When this process first found coupons closed in their current eras. Admissions from before an
/// era may still be in flight: to the topic until the publishing deadline, then to the dead-letter
/// table until its deadline.
#[derive(Clone, Default)]
pub struct LossClock(Arc<Mutex<HashMap<CouponId, (Fence, Instant)>>>);

impl LossClock {
    /// Records that a coupon is closed in this era. Returns when this was first recorded.
    pub(super) fn note(&self, coupon: CouponId, fence: &Fence) -> Instant {
        let mut known = self.0.lock();
        let now = || (fence.clone(), Instant::now());
        let noted = known.entry(coupon).or_insert_with(now);
        if noted.0 != *fence {
            *noted = now();
        }
        noted.1
    }

    /// Returns the remaining time until no claim from before this era can be in flight.
    pub(super) fn wait_needed(
        &self,
        coupon: CouponId,
        fence: &Fence,
        longest_in_flight: Duration,
    ) -> Duration {
        let since = self.note(coupon, fence);
        (since + longest_in_flight + MARGIN).saturating_duration_since(Instant::now())
    }
}

/// Number of pages from which a drop counts as large. Reading a smaller drop takes no longer than
/// counting its rows.
const LARGE: i64 = 10;

/// Time after which a drop is read completely even if its numbers have not changed.
const AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// Large drops that were compared completely and are exact. A scheduled pass does not read such a
/// drop again as long as its numbers do not change: counter, users, free slots, waiting list,
/// settings and rows. Otherwise, a sold-out coupon without an end would be read completely twice a
/// minute, forever.
///
/// This is safe because every admission, return, promotion and repair changes a number in Redis or
/// the number of rows, and because a pass reads the whole drop if it has claims in flight or dead
/// letters. Only a manual edit can change the drop and keep all numbers. Requested and deep passes
/// read everything. A scheduled pass does so after [`AGAIN_AFTER`].
#[derive(Default)]
pub(super) struct Verified(Mutex<HashMap<DropId, Known>>);

struct Known {
    seen: Seen,
    plan: Plan,
    at: Instant,
}

/// Numbers and settings of a drop. Every change of the drop changes at least one of them or the
/// number of its rows.
#[derive(PartialEq)]
struct Seen {
    fence: Option<Fence>,
    count: Option<i64>,
    numbers: [u64; 3],
    upper: i64,
    quantity: u32,
    revision: u64,
}

impl Seen {
    fn of(header: &DropHeader) -> Self {
        let facts = &header.facts;
        Self {
            fence: header.fence.clone(),
            count: facts.count,
            numbers: [facts.users, facts.free, facts.waiting],
            upper: header.upper(),
            quantity: facts.drop.quantity,
            revision: facts.coupon.revision,
        }
    }
}

impl Verified {
    /// Stores the result of a complete comparison.
    pub(super) fn note(&self, header: &DropHeader, plan: &Plan, page_slots: i64) {
        let mut known = self.0.lock();
        known.remove(&header.drop_id());
        if is_large(header, page_slots)
            && plan.exact
            && plan.items.is_empty()
            && plan.young == 0
            && header.is_quiet()
        {
            // Drops that passes no longer examine expire.
            known.retain(|_, known| known.at.elapsed() < AGAIN_AFTER);
            let known_now = Known {
                seen: Seen::of(header),
                plan: plan.clone(),
                at: Instant::now(),
            };
            known.insert(header.drop_id(), known_now);
        }
    }

    /// The next pass reads the drop completely.
    pub(super) fn forget(&self, drop: DropId) {
        self.0.lock().remove(&drop);
    }

    /// Returns the plan of a drop that need not be read completely, after counting its rows.
    pub(super) async fn unchanged(
        &self,
        header: &DropHeader,
        db: &Db,
    ) -> Result<Option<Plan>, DbError> {
        let facts = &header.facts;
        let may_skip = !facts.gate_closed
            && !facts.is_closed()
            && facts.meta_matches == Some(true)
            && !facts.allow_list_differs
            && facts.revocations.half.is_empty()
            && !header.has_claimants_astray()
            && header.is_quiet();
        let Some(plan) = self.plan(header).filter(|_| may_skip) else {
            return Ok(None);
        };
        let rows = db.count_rows(header.drop_id(), header.upper()).await?;
        let examined = Examined {
            rows,
            ..Examined::default()
        };
        Ok((rows == plan.numbers.rows).then_some(Plan { examined, ..plan }))
    }

    fn plan(&self, header: &DropHeader) -> Option<Plan> {
        let known = self.0.lock();
        let known = known.get(&header.drop_id())?;
        (known.at.elapsed() < AGAIN_AFTER && known.seen == Seen::of(header))
            .then(|| known.plan.clone())
    }
}

fn is_large(header: &DropHeader, page_slots: i64) -> bool {
    header.upper() >= LARGE * page_slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalled_partition_is_found_while_other_partitions_progress() {
        let mut memory = Memory::default();
        let limit = Duration::from_secs(60);
        let began = Instant::now();
        let at = |partition, from| Unread {
            partition,
            from,
            end: 1_000,
        };
        for minute in 0..3 {
            let now = began + limit * minute;
            let moving = (0..11).map(|partition| at(partition, 10 * i64::from(minute)));
            let all: Vec<Unread> = moving
                .chain([
                    at(11, 7),
                    Unread {
                        end: 5,
                        ..at(12, 5)
                    },
                ])
                .collect();
            let (stuck, longest) = memory.stuck_partitions(&all, limit, now);
            let expected = if minute < 2 { vec![] } else { vec![at(11, 7)] };
            assert_eq!(stuck, expected, "minute {minute}, for {longest:?}");
        }
    }
}
