//! Losers, answered without a question to Redis each.
//!
//! Once a drop is sold out, this process holds a copy of everybody whom admission knows (as hashes), with the state that Redis was
//! in. Whoever is not in it is told `sold_out`, but only if Redis has just said that its state is still the same: since they
//! asked, or [`LASTS`] before at most. One question serves all who come in that time or wait for it. Nothing that changes who
//! holds a slot or may have one is told to anybody before that time has passed ([`TOLD_AFTER`]), so the answer is as true as
//! admission's own: a change that was acknowledged is seen by the next request. The question is admission's script, and
//! closed without the licence.
//!
//! Whoever is in the copy, and everybody as soon as anything differs, goes to admission as ever. A copy never says yes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firstcome_shared::domain::{DropId, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::Look;
use firstcome_shared::redis::keys::DropKeys;
use metrics::counter;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most people of a copy: 19 MB. A drop with more is asked about one by one.
const MOST_PEOPLE: usize = 1_000_000;

/// How long what Redis said of its state is taken for granted, counted from before it was asked.
pub(super) const LASTS: Duration = Duration::from_millis(1);

/// A yes, a place on the waiting list and an operator's change are told no sooner after Redis made them so. Longer than
/// [`LASTS`] by more than two hosts' clocks can differ over it.
pub(super) const TOLD_AFTER: Duration = Duration::from_micros(1_100);

/// Shortest pause between two copies of a drop.
const PAUSE: Duration = Duration::from_millis(100);

/// The drops known to be sold out.
pub(super) struct SoldOut {
    redis: Redis,
    drops: Mutex<HashMap<DropId, Known>>,
    hashing: RandomState,
}

enum Known {
    /// A copy is being made.
    Soon,
    /// Not before this instant.
    After(Instant),
    /// This one.
    Copy(Arc<Copy>),
}

impl SoldOut {
    /// Nothing is sold out yet.
    pub(super) fn new(redis: Redis) -> Self {
        Self { redis, drops: Mutex::default(), hashing: RandomState::new() }
    }

    /// Somebody who is to be told `sold_out`, if what the copy says holds still. `None`: ask admission.
    pub(super) fn asking(&self, copy: Arc<Copy>, user: &UserId) -> Option<Asking> {
        let known = copy.people.contains(&self.hashing.hash_one(user.as_str()));
        (!known).then_some(Asking(copy))
    }

    /// Whether they are to be told so. `false`: ask admission.
    pub(super) async fn holds(&self, asking: &Asking) -> bool {
        let holds = asking.0.holds_still(&self.redis).await;
        if !holds {
            self.forget(&asking.0);
        }
        holds
    }

    /// Admission told somebody `sold_out`: a copy is worth having.
    pub(super) fn heard(self: &Arc<Self>, drop: DropId, keys: &DropKeys) {
        {
            let mut drops = lock(&self.drops);
            match drops.get(&drop) {
                Some(Known::Soon | Known::Copy(_)) => return,
                Some(Known::After(at)) if *at > Instant::now() => return,
                _ => drops.insert(drop, Known::Soon),
            };
        }
        let (known, keys) = (Arc::clone(self), keys.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            // Reading everybody again and again would cost Redis more than it spares.
            let rest = || Known::After(Instant::now() + PAUSE.max(10 * begun.elapsed()));
            let copy = known.read(drop, keys).await;
            let now = copy.map_or_else(rest, |copy| Known::Copy(Arc::new(copy)));
            lock(&known.drops).insert(drop, now);
        });
    }

    /// Forgets the drops that are not among these.
    pub(super) fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        lock(&self.drops).retain(|drop, _| wanted(*drop));
    }

    /// The copy of a drop that was sold out when last looked at.
    pub(super) fn copy(&self, drop: DropId) -> Option<Arc<Copy>> {
        match lock(&self.drops).get(&drop) {
            Some(Known::Copy(copy)) => Some(Arc::clone(copy)),
            _ => None,
        }
    }

    fn forget(&self, copy: &Arc<Copy>) {
        let mut drops = lock(&self.drops);
        if matches!(drops.get(&copy.drop), Some(Known::Copy(kept)) if Arc::ptr_eq(kept, copy)) {
            drops.insert(copy.drop, Known::After(Instant::now() + PAUSE));
        }
    }

    /// Everybody, if Redis's state was the same before and after they were read.
    async fn read(&self, drop: DropId, keys: DropKeys) -> Option<Copy> {
        let Ok(Look::SoldOut(state)) = self.redis.look(&keys, drop).await else { return None };
        let mut people = HashSet::default();
        let all = self.redis.everybody(&keys, |user| {
            people.insert(self.hashing.hash_one(user));
            people.len() <= MOST_PEOPLE
        });
        all.await.ok()?;
        let whole = people.len() <= MOST_PEOPLE;
        let same = whole && matches!(self.redis.look(&keys, drop).await, Ok(Look::SoldOut(now)) if now == state);
        same.then(|| Copy {
            drop,
            keys,
            state,
            people,
            good_until: AtomicU64::new(0),
            gate: Mutex::default(),
            turned: Notify::new(),
        })
    }
}

/// One drop, sold out, and everybody whom admission knows.
pub(super) struct Copy {
    drop: DropId,
    keys: DropKeys,
    state: String,
    people: HashSet<u64, std::hash::BuildHasherDefault<AsIs>>,
    /// What Redis said last is taken for granted until then; see [`since_start`].
    good_until: AtomicU64,
    gate: Mutex<Gate>,
    turned: Notify,
}

/// Somebody who is not in a copy.
pub(super) struct Asking(Arc<Copy>);

impl Asking {
    /// Whether Redis said so just now, and nobody need be asked.
    pub(super) fn just_said(&self) -> bool {
        since_start(Instant::now()) < self.0.good_until.load(Ordering::Relaxed)
    }
}

/// Nanoseconds between the first use of this and an instant.
fn since_start(at: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(at.saturating_duration_since(*START).as_nanos()).unwrap_or(u64::MAX)
}

/// Questions to Redis, numbered from 1.
#[derive(Default)]
struct Gate {
    /// The last one that was begun.
    begun: u64,
    /// The last one that said: still the same.
    same: u64,
    /// The last one that somebody waits for.
    wanted: u64,
    /// Somebody asks.
    asking: bool,
    /// Something differs, or nobody knows: this copy is not used any more.
    over: bool,
}

impl Copy {
    /// Whether Redis's state is still the same, asked after this was called.
    async fn holds_still(self: &Arc<Self>, redis: &Redis) -> bool {
        let mine = {
            let mut gate = lock(&self.gate);
            gate.wanted = gate.begun + 1;
            if !gate.asking && !gate.over {
                gate.asking = true;
                let (copy, redis) = (Arc::clone(self), redis.clone());
                tokio::spawn(async move { copy.ask(&redis).await });
            }
            gate.wanted
        };
        loop {
            let turned = self.turned.notified();
            tokio::pin!(turned);
            turned.as_mut().enable();
            {
                let gate = lock(&self.gate);
                if gate.over {
                    return false;
                }
                if gate.same >= mine {
                    return true;
                }
            }
            turned.await;
        }
    }

    /// Asks for as long as somebody waits.
    async fn ask(&self, redis: &Redis) {
        let mut end = End { copy: self, over: true };
        loop {
            // Whoever is ready to ask as well goes along.
            tokio::task::yield_now().await;
            let number = {
                let mut gate = lock(&self.gate);
                if gate.wanted <= gate.begun {
                    gate.asking = false;
                    end.over = false;
                    return;
                }
                gate.begun += 1;
                gate.begun
            };
            let begun = Instant::now();
            let same = matches!(redis.look(&self.keys, self.drop).await, Ok(Look::SoldOut(now)) if now == self.state);
            counter!("firstcome_sold_out_looks_total").increment(1);
            if !same {
                return;
            }
            self.good_until.store(since_start(begun + LASTS), Ordering::Relaxed);
            lock(&self.gate).same = number;
            self.turned.notify_waiters();
        }
    }
}

/// Whoever waits is told when the asking ends, however it does.
struct End<'a> {
    copy: &'a Copy,
    over: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if self.over {
            lock(&self.copy.gate).over = true;
            self.copy.turned.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is hashed already.
#[derive(Default)]
struct AsIs(u64);

impl std::hash::Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never used: the keys are u64.
        self.0 = bytes.iter().fold(self.0, |all, byte| all.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
