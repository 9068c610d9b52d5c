//! Losers, answered without a question to Redis each.
//!
//! Once a drop is sold out, this process holds a copy of everybody whom admission knows (as hashes), with the state that Redis was
//! in. Whoever is not in it is told `sold_out`, but only if Redis has just said that its state is still the same: since they
//! asked, or [`LASTS`] before at most. One question serves all who come in that time or wait for it. Nothing that changes who
//! holds a slot or may have one is told to anybody before that time has passed ([`TOLD_AFTER`]), so the answer is as true as
//! admission's own: a change that was acknowledged is seen by the next request. Whoever is admitted before anybody was told
//! `sold_out` is in every copy, and told at once: admission notes when that was, and a look means nothing before. The question
//! is admission's script, and closed without the licence.
//!
//! Whoever is in the copy, and everybody as soon as anything differs, goes to admission as ever. A copy never says yes.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use firstcome_shared::domain::{DropId, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Look, TOLD_AFTER};
use firstcome_shared::redis::keys::DropKeys;
use metrics::counter;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most people of a copy: 4 MB. A drop with more is asked about one by one.
const MOST_PEOPLE: usize = 1_000_000;

/// How long what Redis said of its state is taken for granted, counted from before it was asked.
pub(super) const LASTS: Duration = Duration::from_millis(10);

/// From so much of that on it is asked anew, so that nobody has to wait where Redis or this process is slow for an instant.
const RENEWED_AFTER: Duration = Duration::from_millis(3);

/// Two hosts' clocks can differ by less than this over that time.
const MARGIN: Duration = Duration::from_micros(100);

const _: () = assert!(LASTS.as_micros() + MARGIN.as_micros() <= TOLD_AFTER.as_micros());

/// Shortest pause between two copies of a drop.
const PAUSE: Duration = Duration::from_millis(100);

/// The drops known to be sold out.
pub(super) struct SoldOut {
    redis: Redis,
    drops: Mutex<HashMap<DropId, Known>>,
    /// Those of them that there is a copy of; read for each claim, so without a lock.
    copies: ArcSwap<HashMap<DropId, Arc<Copy>>>,
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
        Self { redis, drops: Mutex::default(), copies: ArcSwap::default(), hashing: RandomState::new() }
    }

    /// What is known of a person's claim on this drop that began at `begun`. `None`: ask admission. Who it is from is asked for
    /// only where there is a copy.
    pub(super) fn of(&self, drop: DropId, begun: Instant, user: impl FnOnce() -> Option<UserId>) -> Option<Loser> {
        let copies = self.copies.load();
        let copy = copies.get(&drop)?;
        if copy.people.may_hold(self.hash(user()?.as_str())) {
            return None;
        }
        Some(if copy.just_said(begun, &self.redis) { Loser::Told } else { Loser::Asking(Asking(Arc::clone(copy))) })
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
            known.change(|drops| drops.insert(drop, now));
        });
    }

    /// Forgets the drops that are not among these.
    pub(super) fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        self.change(|drops| drops.retain(|drop, _| wanted(*drop)));
    }

    #[allow(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    fn hash(&self, user: &str) -> u32 {
        self.hashing.hash_one(user) as u32
    }

    fn forget(&self, copy: &Arc<Copy>) {
        self.change(|drops| {
            if matches!(drops.get(&copy.drop), Some(Known::Copy(kept)) if Arc::ptr_eq(kept, copy)) {
                drops.insert(copy.drop, Known::After(Instant::now() + PAUSE));
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<DropId, Known>) -> T) {
        let mut drops = lock(&self.drops);
        change(&mut drops);
        let copy = |(drop, known): (&DropId, &Known)| match known {
            Known::Copy(copy) => Some((*drop, Arc::clone(copy))),
            _ => None,
        };
        self.copies.store(Arc::new(drops.iter().filter_map(copy).collect()));
    }

    /// Everybody, if Redis's state was the same before and after they were read.
    async fn read(&self, drop: DropId, keys: DropKeys) -> Option<Copy> {
        let Ok(Look::SoldOut(state)) = self.redis.look(&keys, drop).await else { return None };
        let mut people = Vec::new();
        // Who holds a slot comes a second time, as a claimant of the coupon.
        let all = self.redis.everybody(&keys, |user| {
            people.push(self.hash(user));
            people.len() <= 2 * MOST_PEOPLE
        });
        all.await.ok()?;
        let people = People::new(people);
        let whole = people.0.len() <= MOST_PEOPLE;
        let same = whole && matches!(self.redis.look(&keys, drop).await, Ok(Look::SoldOut(now)) if now == state);
        same.then(|| Copy::new(drop, keys, state, people))
    }
}

/// People by a hash of their id, in order. That two share one does no harm: who is in a copy is asked about.
#[derive(Default)]
struct People(Vec<u32>);

impl People {
    fn new(mut hashes: Vec<u32>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        hashes.shrink_to_fit();
        Self(hashes)
    }

    fn may_hold(&self, hash: u32) -> bool {
        self.0.binary_search(&hash).is_ok()
    }
}

/// One drop, sold out, and everybody whom admission knows.
pub(super) struct Copy {
    drop: DropId,
    keys: DropKeys,
    state: String,
    people: People,
    /// What Redis said last is taken for granted until then; see [`since_start`].
    good_until: AtomicU64,
    /// From then on somebody asks anew, so that nobody has to wait; [`NEVER`] once somebody does.
    renewed_from: AtomicU64,
    gate: Mutex<Gate>,
    turned: Notify,
}

/// Somebody who is not in a copy.
pub(super) enum Loser {
    /// Redis said just now that nothing has changed: they are told.
    Told,
    /// Redis is asked first.
    Asking(Asking),
}

/// Somebody who is to be told `sold_out`, if what the copy says holds still.
pub(super) struct Asking(Arc<Copy>);

/// Later than any instant of [`since_start`].
const NEVER: u64 = u64::MAX;

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
    /// Nothing is taken for granted before a first look.
    fn new(drop: DropId, keys: DropKeys, state: String, people: People) -> Self {
        let (good_until, renewed_from) = (AtomicU64::new(0), AtomicU64::new(NEVER));
        Self { drop, keys, state, people, good_until, renewed_from, gate: Mutex::default(), turned: Notify::new() }
    }

    /// Whether Redis had just said so when the request began, and nobody need be asked. The first who comes after [`RENEWED_AFTER`]
    /// has it asked anew, and does not wait for it.
    fn just_said(self: &Arc<Self>, begun: Instant, redis: &Redis) -> bool {
        let begun = since_start(begun);
        if begun >= self.good_until.load(Ordering::Relaxed) {
            return false;
        }
        let from = &self.renewed_from;
        if begun >= from.load(Ordering::Relaxed) && from.swap(NEVER, Ordering::Relaxed) != NEVER {
            self.want(redis);
        }
        true
    }

    /// Has Redis asked once more; gives the number of that question.
    fn want(self: &Arc<Self>, redis: &Redis) -> u64 {
        let mut gate = lock(&self.gate);
        gate.wanted = gate.begun + 1;
        if !gate.asking && !gate.over {
            gate.asking = true;
            let (copy, redis) = (Arc::clone(self), redis.clone());
            tokio::spawn(async move { copy.ask(&redis).await });
        }
        gate.wanted
    }

    /// Redis, asked at this instant, said that nothing has changed.
    fn looked(&self, at: Instant) {
        self.good_until.store(since_start(at + LASTS), Ordering::Relaxed);
        self.renewed_from.store(since_start(at + RENEWED_AFTER), Ordering::Relaxed);
    }

    /// Whether Redis's state is still the same, asked after this was called.
    async fn holds_still(self: &Arc<Self>, redis: &Redis) -> bool {
        let mine = self.want(redis);
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
            self.looked(begun);
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
            self.copy.good_until.store(0, Ordering::Relaxed);
            lock(&self.copy.gate).over = true;
            self.copy.turned.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::CouponId;
    use firstcome_shared::redis::RedisSettings;

    use super::*;

    /// Nobody listens there.
    fn away() -> Redis {
        let settings =
            RedisSettings { url: "redis://127.0.0.1:1".to_owned().into(), prefix: "fc".into(), timeout: LASTS };
        Redis::new(&settings).unwrap()
    }

    #[tokio::test]
    async fn one_who_comes_late_has_it_asked_anew_without_waiting_and_a_failure_ends_the_copy_at_once() {
        const MOMENT: Duration = Duration::from_micros(1);
        let (redis, looked) = (away(), Instant::now() + Duration::from_secs(1));
        let after = |time| looked + time;
        let keys = redis.keys(CouponId(1), DropId(1));
        let copy = Arc::new(Copy::new(DropId(1), keys, String::new(), People::default()));
        copy.looked(looked);
        let wanted = || lock(&copy.gate).wanted;

        assert!(copy.just_said(after(RENEWED_AFTER.saturating_sub(MOMENT)), &redis));
        assert_eq!(wanted(), 0, "soon after a look nobody asks again");
        assert!(!copy.just_said(after(LASTS), &redis), "what is as old as that is not taken for granted");
        assert_eq!(wanted(), 0);
        for time in [RENEWED_AFTER, RENEWED_AFTER + MOMENT, LASTS.saturating_sub(MOMENT)] {
            assert!(copy.just_said(after(time), &redis));
            assert_eq!((wanted(), copy.renewed_from.load(Ordering::Relaxed)), (1, NEVER), "one asks for all");
        }
        assert!(!copy.holds_still(&redis).await);
        assert!(!copy.just_said(looked, &redis));
    }
}
