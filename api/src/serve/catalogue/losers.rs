//! Losers from memory: while Redis leases a sold-out drop to this process, users who hold none of
//! its slots usually get `sold_out` without a call to Redis (docs/decisions/0010-micro-batches.md).
//! The script that gives slots grants the lease and gives none until it ends, so that the answers
//! are as true as Redis's own.
//!
//! A lease counts only with the drop's holders of the same era and version. Every holder is among
//! them, and Redis answers their claims. Claims renew the lease: the first one that finds it half
//! over goes to Redis.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, CandidateIds, LeaseReply};
use firstcome_shared::redis::holders::SLOTS_OF_PAGE;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::tuning::Tuning;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A lease ends this much earlier here than in Redis, which counts whole milliseconds by another
/// clock. That clock may be slewed by 8.3 % (chrony's default), 17 ms of 200.
const MARGIN: Duration = Duration::from_millis(20);

/// Number of losers within [`MOMENT`] at which a drop is leased.
static CROWD: LazyLock<u32> = LazyLock::new(|| Tuning::CrowdOfLosers.or(64));

/// Time in which losers are counted.
const MOMENT: Duration = Duration::from_millis(100);

/// If a drop has given out more slots than this, its holders are not kept in memory.
const MOST_HOLDERS: Slot = 200_000;

/// Maximum number of holders in memory, of all drops: 64 MiB.
const MOST_IN_MEMORY: usize = 8 << 20;

/// After holders were read, they are not read again for this many times the duration of that read,
/// because each admission makes them outdated.
const PAUSES: u32 = 50;

/// A drop with too many holders is not leased for this long.
const TOO_MANY_FOR: Duration = Duration::from_secs(60);

/// Holders are forgotten if no lease has used them for this long.
const IDLE: Duration = Duration::from_secs(60);

static MEMORY: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(MOST_IN_MEMORY)));

static FROM_MEMORY: LazyLock<Counter> =
    LazyLock::new(|| metrics::counter!("firstcome_claims_from_memory_total"));

/// The state of one drop.
#[derive(Debug, Default)]
pub(crate) struct Losers {
    /// Whether the drop's own holders alone decide who is a loser: a user may hold one coupon in
    /// each drop, or there is only one drop.
    may_lease: bool,
    answering: ArcSwapOption<Answering>,
    /// Answers from memory since the last call.
    answered: AtomicU32,
    memory: Mutex<LoserMemory>,
}

/// A lease with the holders of its version.
#[derive(Debug)]
struct Answering {
    /// The lease is for claims with these candidates, among which the script would choose.
    candidates: CandidateIds,
    ends_at: Instant,
    renewed_from: Instant,
    is_renewing: AtomicBool,
    holders: Arc<Holders>,
}

#[derive(Debug)]
struct Holders {
    version: Version,
    hashing: RandomState,
    /// Sorted. Redis also answers a user whose hash equals that of a holder.
    hashes: Box<[u64]>,
    _memory: OwnedSemaphorePermit,
}

/// The era, and the version of the holders in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    era: u64,
    holders: i64,
}

#[derive(Debug, Default)]
struct LoserMemory {
    /// The losers counted since the time `since`.
    losers: u32,
    since: Option<Instant>,
    is_crowded: bool,
    holders: Option<Arc<Holders>>,
    is_reading: bool,
    not_read_before: Option<Instant>,
    /// The drop has too many holders, and is not leased until then.
    not_leased_before: Option<Instant>,
}

/// A call that asked for a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseCall {
    pub(crate) candidates: CandidateIds,
    pub(crate) era: u64,
    pub(crate) asked_at: Instant,
}

impl Losers {
    pub(crate) fn new(may_lease: bool) -> Self {
        Self {
            may_lease,
            ..Self::default()
        }
    }

    /// Whether the user gets `sold_out` without a call to Redis.
    pub(crate) fn include(&self, candidates: CandidateIds, user: &UserId, now: Instant) -> bool {
        let answering = self.answering.load();
        let Some(answering) = answering.as_deref() else {
            return false;
        };
        if answering.candidates != candidates
            || now >= answering.ends_at
            || answering.holders.may_have(user.as_str().as_bytes())
            || (now >= answering.renewed_from && answering.begins_to_renew())
        {
            return false;
        }
        self.answered.fetch_add(1, Relaxed);
        FROM_MEMORY.increment(1);
        true
    }

    /// Whether the next call should ask for a lease.
    pub(crate) fn want_lease(&self, now: Instant) -> bool {
        if !self.may_lease {
            return false;
        }
        let memory = self.memory.lock();
        let is_too_large = memory.not_leased_before.is_some_and(|at| now < at);
        memory.is_crowded && !is_too_large
    }

    /// Counts the losers of a call.
    pub(crate) fn count(&self, replies: &[Option<Admission>], now: Instant) {
        if !self.may_lease {
            return;
        }
        let mut losers = self.answered.swap(0, Relaxed);
        for reply in replies.iter().flatten() {
            losers += u32::from(*reply == Admission::SoldOut);
        }
        self.memory.lock().count(losers, now);
    }

    /// Begins to answer under a lease if the holders of its version are known. Otherwise returns
    /// true if they should be read now.
    pub(crate) fn begin(&self, call: LeaseCall, lease: LeaseReply, now: Instant) -> bool {
        if lease.drop != call.candidates.0 {
            return false;
        }
        let version = Version {
            era: call.era,
            holders: lease.version,
        };
        let mut memory = self.memory.lock();
        if let Some(holders) = &memory.holders
            && holders.version == version
        {
            self.answering.store(Some(Arc::new(Answering {
                candidates: call.candidates,
                ends_at: call.asked_at + lease.left.saturating_sub(MARGIN),
                renewed_from: call.asked_at + lease.left / 2 + MARGIN,
                is_renewing: AtomicBool::new(false),
                holders: Arc::clone(holders),
            })));
            return false;
        }
        let may_read = memory.not_read_before.is_none_or(|at| now >= at);
        let reads = may_read && !memory.is_reading;
        memory.is_reading |= reads;
        reads
    }

    /// Reads the holders, for the next lease.
    pub(crate) async fn read_holders(&self, redis: &Redis, keys: &DropKeys, era: u64) {
        let begun_at = Instant::now();
        let read = read_holders(redis, keys, era).await;
        self.end_read(read, begun_at, Instant::now());
    }

    fn end_read(&self, read: HoldersRead, begun_at: Instant, now: Instant) {
        let mut memory = self.memory.lock();
        memory.is_reading = false;
        memory.not_read_before = Some(now + (now - begun_at) * PAUSES);
        memory.holders = match read {
            HoldersRead::All(holders) => Some(Arc::new(holders)),
            HoldersRead::Changed => None,
            HoldersRead::TooMany => {
                memory.not_leased_before = Some(now + TOO_MANY_FOR);
                None
            }
        };
    }

    /// Frees the memory of the holders, unless a lease has used them within [`IDLE`].
    pub(crate) fn forget_if_idle(&self) {
        let answering = self.answering.load();
        let is_used = answering
            .as_deref()
            .is_some_and(|answering| answering.ends_at.elapsed() < IDLE);
        if !is_used {
            self.answering.store(None);
            self.memory.lock().holders = None;
        }
    }
}

impl Answering {
    /// Whether this claim is the first one that finds the lease half over.
    fn begins_to_renew(&self) -> bool {
        !self.is_renewing.load(Relaxed) && !self.is_renewing.swap(true, Relaxed)
    }
}

impl Holders {
    /// Returns `None` if there are too many holders in memory.
    fn new(version: Version, hashing: RandomState, mut hashes: Vec<u64>) -> Option<Self> {
        let size = u32::try_from(hashes.len()).ok()?;
        let memory = Arc::clone(&MEMORY).try_acquire_many_owned(size).ok()?;
        hashes.sort_unstable();
        Some(Self {
            version,
            hashing,
            hashes: hashes.into(),
            _memory: memory,
        })
    }

    fn may_have(&self, user: &[u8]) -> bool {
        self.hashes
            .binary_search(&self.hashing.hash_one(user))
            .is_ok()
    }
}

impl LoserMemory {
    fn count(&mut self, losers: u32, now: Instant) {
        self.losers = self.losers.saturating_add(losers);
        let since = *self.since.get_or_insert(now);
        let passed = now.duration_since(since);
        if passed < MOMENT {
            self.is_crowded |= self.losers >= *CROWD;
        } else {
            let rate = f64::from(self.losers) / passed.as_secs_f64();
            self.is_crowded = rate >= f64::from(*CROWD) / MOMENT.as_secs_f64();
            self.losers = 0;
            self.since = Some(now);
        }
    }
}

/// The result of reading all holders.
enum HoldersRead {
    All(Holders),
    /// A slot was given or the coupon was closed meanwhile, or Redis fails.
    Changed,
    TooMany,
}

async fn read_holders(redis: &Redis, keys: &DropKeys, era: u64) -> HoldersRead {
    let hashing = RandomState::new();
    let mut hashes = Vec::new();
    let mut version = None;
    let mut after = 0;
    let mut count = 1;
    while after < count {
        let page = match redis.holders_page(keys, era, after).await {
            Ok(Some(page)) => page,
            Ok(None) => return HoldersRead::Changed,
            Err(error) => {
                tracing::debug!(%error, drop = %keys.drop, "holders could not be read");
                return HoldersRead::Changed;
            }
        };
        count = page.count;
        if count > MOST_HOLDERS {
            return HoldersRead::TooMany;
        }
        if *version.get_or_insert(page.version) != page.version {
            return HoldersRead::Changed;
        }
        hashes.extend(page.users.iter().map(|user| hashing.hash_one(&**user)));
        after += SLOTS_OF_PAGE;
    }
    let version = Version {
        era,
        holders: version.unwrap_or_default(),
    };
    Holders::new(version, hashing, hashes).map_or(HoldersRead::TooMany, HoldersRead::All)
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::DropId;

    use super::*;

    const DROP: CandidateIds = (DropId(1), None);

    const VERSION: Version = Version { era: 3, holders: 5 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn user(name: &str) -> UserId {
        name.parse().unwrap()
    }

    /// Creates the losers of a drop whose only holder is `a`.
    fn losers() -> Losers {
        let losers = Losers::new(true);
        let hashing = RandomState::new();
        let hashes = vec![hashing.hash_one("a".as_bytes())];
        let holders = Holders::new(VERSION, hashing, hashes).unwrap();
        losers.memory.lock().holders = Some(Arc::new(holders));
        losers
    }

    fn call(asked_at: Instant) -> LeaseCall {
        LeaseCall {
            candidates: DROP,
            era: VERSION.era,
            asked_at,
        }
    }

    fn lease(left: u64) -> LeaseReply {
        LeaseReply {
            drop: DROP.0,
            left: ms(left),
            version: VERSION.holders,
        }
    }

    #[test]
    fn drop_with_too_many_holders_is_not_leased_for_a_minute() {
        let losers = losers();
        let now = Instant::now();
        losers.memory.lock().is_crowded = true;
        assert!(losers.want_lease(now));
        losers.end_read(HoldersRead::TooMany, now, now);
        assert!(!losers.want_lease(now));
        assert!(!losers.want_lease(now + TOO_MANY_FOR - ms(1)));
        assert!(losers.want_lease(now + TOO_MANY_FOR));
    }

    #[test]
    fn lease_ends_earlier_than_in_redis_and_holders_never_count_as_losers() {
        for left in [0, 5, 50, 200] {
            let losers = losers();
            let asked_at = Instant::now();
            assert!(!losers.begin(call(asked_at), lease(left), asked_at));
            let first = losers.include(DROP, &user("b"), asked_at);
            assert_eq!(first, left > 20, "{left}");
            for at in 0..=300 {
                let at_ms = asked_at + ms(at);
                // One claim goes to Redis when the lease is half over.
                losers.include(DROP, &user("b"), at_ms);
                assert!(!losers.include(DROP, &user("a"), at_ms), "{left} {at}");
                let is_loser = losers.include(DROP, &user("b"), at_ms);
                assert_eq!(is_loser, at + 20 < left, "{left} {at}");
                let next = (DROP.0, Some(DropId(2)));
                assert!(!losers.include(next, &user("b"), at_ms), "{left} {at}");
            }
        }
    }

    #[test]
    fn one_claim_renews_a_lease_that_is_half_over() {
        let losers = losers();
        let asked_at = Instant::now();
        losers.begin(call(asked_at), lease(200), asked_at);
        let at = |at| losers.include(DROP, &user("b"), asked_at + ms(at));
        let answers = [0, 119, 120, 120, 179, 180].map(at);
        assert_eq!(answers, [true, true, false, true, true, false]);
        losers.begin(call(asked_at + ms(120)), lease(200), asked_at);
        assert_eq!([190, 239, 300].map(at), [true, true, false]);
    }

    #[test]
    fn holders_of_another_era_or_version_are_read_again_but_not_for_another_drop() {
        let now = Instant::now();
        let other_era = LeaseCall {
            era: 4,
            ..call(now)
        };
        let given = LeaseReply {
            version: 6,
            ..lease(200)
        };
        for (call, lease) in [(other_era, lease(200)), (call(now), given)] {
            let losers = losers();
            let reads = [(); 2].map(|()| losers.begin(call, lease, now));
            assert_eq!(reads, [true, false]);
            assert!(!losers.include(DROP, &user("b"), now));
        }
        let of_next = LeaseReply {
            drop: DropId(2),
            ..lease(200)
        };
        let losers = losers();
        assert!(!losers.begin(call(now), of_next, now));
        assert!(
            !losers.include(DROP, &user("b"), now),
            "Redis chose another drop"
        );
    }

    #[test]
    fn lease_is_wanted_while_there_is_a_crowd_of_losers() {
        let many = |many| vec![Some(Admission::SoldOut); many];
        let losers = losers();
        let begun = Instant::now();
        for (at, count, is_wanted) in [
            (0, 63, false),
            (50, 1, true),
            (99, 0, true),
            (300, 64, false),
            (350, 64, true),
            (500, 128, true),
            (5_000, 1_000, false),
        ] {
            losers.count(&many(count), begun + ms(at));
            assert_eq!(losers.want_lease(Instant::now()), is_wanted, "at {at} ms");
        }
        let of_many_drops = Losers::new(false);
        of_many_drops.count(&many(1_000), begun);
        assert!(!of_many_drops.want_lease(Instant::now()));
    }

    #[test]
    fn drop_that_is_answered_from_memory_asks_for_another_lease() {
        let losers = losers();
        let begun = Instant::now();
        losers.count(&[], begun);
        losers.begin(call(begun), lease(200), begun);
        for _ in 0..100 {
            assert!(losers.include(DROP, &user("b"), begun));
        }
        losers.count(&[], begun + ms(110));
        assert!(losers.want_lease(Instant::now()));
    }
}
