//! Healthy traffic is never judged dirty: random interleavings of everything that users, operators,
//! consumers and other passes do, with reads of MySQL that take long. Each of M, R, the parts of M'
//! and R' is taken at another moment of the interleaving.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::model::Revocations;
use strum::VariantArray as _;

use super::super::*;
use super::{loaded, revocation};

/// Legitimate transient states. Each of them must be met by some of the schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::VariantArray)]
enum Met {
    YoungAdmission,
    DueAdmission,
    RowWithoutUser,
    OtherUserOnSlot,
    SameSlotAgain,
    AboveQuantityOfM,
    SecondDropOfCoupon,
    RevokedBehind,
    NotLoadedYet,
    SealedMeanwhile,
    OtherGate,
}

const USERS: u64 = 6;
const DROPS: usize = 2;
const DEADLINE_MS: i64 = 12;
const OVERDUE_MS: i64 = 60;

/// A small random number generator, so that a seed gives the same schedule on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

type User = u64;

fn name(user: User) -> UserId {
    format!("u-{user}").parse().unwrap()
}

fn row(slot: Slot, (user, at_ms): (User, i64)) -> Row {
    Row {
        slot,
        user: name(user),
        at_ms: Some(at_ms),
    }
}

#[derive(Clone, Default)]
struct RedisDrop {
    is_loaded: bool,
    quantity: Slot,
    count: Slot,
    users: BTreeMap<User, Slot>,
    free: BTreeSet<Slot>,
    times: BTreeMap<Slot, i64>,
    waiting: Vec<User>,
    is_open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct MysqlDrop {
    quantity: Slot,
    is_sealed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Claimed {
    drop: usize,
    slot: Slot,
    user: User,
    at_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Revoked {
    user: User,
    drop: usize,
    may_claim_again: bool,
    again_from: Option<i64>,
}

/// Work that takes several steps. Any other work may run between two of them.
#[derive(Clone, Copy)]
enum Saga {
    /// Writes a row, as the consumer, the fallback and the reconciler do. True means that the claim
    /// is not on the topic, so that no pass waits for it.
    Store(Claimed, bool),
    /// Releases a revoked claim in Redis. `End` then ends the revocation in MySQL, and `NoteEnd` in
    /// Redis.
    Release(usize),
    End(usize, i64),
    NoteEnd(usize),
    RaiseRedis(usize, Slot),
    LowerMysql(usize, Slot),
    Load(usize),
    ExpireSealed(usize),
}

struct World {
    dice: Dice,
    now: i64,
    once_per: OncePer,
    gate: u64,
    redis: [RedisDrop; DROPS],
    claimants: BTreeMap<User, (usize, Slot)>,
    /// By user and, if one per drop is allowed, drop: the revocation, with its end as Redis knows
    /// it.
    bans: BTreeMap<(User, usize), (usize, Option<i64>)>,
    mysql: [MysqlDrop; DROPS],
    rows: BTreeMap<(usize, Slot), (User, i64)>,
    revocations: Vec<Revoked>,
    sagas: Vec<Saga>,
    met: BTreeSet<Met>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut redis = [RedisDrop::default(), RedisDrop::default()];
        redis[0] = RedisDrop {
            is_loaded: true,
            quantity: 3,
            is_open: true,
            ..RedisDrop::default()
        };
        let of_drop = MysqlDrop {
            quantity: 3,
            is_sealed: false,
        };
        Self {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now: 1_000,
            once_per: if seed.is_multiple_of(2) {
                OncePer::Drop
            } else {
                OncePer::Coupon
            },
            gate: 1,
            redis,
            claimants: BTreeMap::new(),
            bans: BTreeMap::new(),
            mysql: [of_drop; DROPS],
            rows: BTreeMap::new(),
            revocations: Vec::new(),
            sagas: vec![Saga::Load(1)],
            met: BTreeSet::new(),
        }
    }

    fn scope(&self, user: User, drop: usize) -> (User, usize) {
        let of_drop = usize::from(self.once_per == OncePer::Drop);
        (user, of_drop * drop)
    }

    fn is_banned(&self, user: User, drop: usize) -> bool {
        let ban = self.bans.get(&self.scope(user, drop));
        ban.is_some_and(|(_, end)| end.is_none_or(|end| self.now <= end))
    }

    fn voids(&self, claimed: Claimed) -> bool {
        self.revocations.iter().any(|it| {
            it.user == claimed.user
                && (self.once_per == OncePer::Coupon || it.drop == claimed.drop)
                && it.again_from.is_none_or(|end| claimed.at_ms <= end)
        })
    }

    /// claim.lua
    fn claim(&mut self, user: User) {
        let Some(drop) =
            (0..DROPS).find(|drop| self.redis[*drop].is_loaded && self.redis[*drop].is_open)
        else {
            return;
        };
        let holds_elsewhere =
            self.once_per == OncePer::Coupon && self.claimants.contains_key(&user);
        if self.redis[drop].users.contains_key(&user)
            || holds_elsewhere
            || self.is_banned(user, drop)
        {
            return;
        }
        if !self.redis[drop].waiting.is_empty() || !self.give(drop, user) {
            if !self.redis[drop].waiting.contains(&user) {
                self.redis[drop].waiting.push(user);
            }
            return;
        }
        self.admitted(drop, user);
    }

    fn give(&mut self, drop: usize, user: User) -> bool {
        let now = self.now;
        let of_drop = &mut self.redis[drop];
        let slot = match of_drop.free.first().copied() {
            Some(slot) => slot,
            None if of_drop.count < of_drop.quantity => of_drop.count + 1,
            None => return false,
        };
        of_drop.free.remove(&slot);
        of_drop.count = of_drop.count.max(slot);
        of_drop.users.insert(user, slot);
        of_drop.times.insert(slot, now);
        if self.once_per == OncePer::Coupon {
            self.claimants.insert(user, (drop, slot));
        }
        true
    }

    /// The second store: the topic and its consumer, or the fallback, or neither.
    fn admitted(&mut self, drop: usize, user: User) {
        let slot = self.redis[drop].users[&user];
        let claimed = Claimed {
            drop,
            slot,
            user,
            at_ms: self.now,
        };
        let place = self.dice.below(8);
        if place > 0 {
            self.sagas.push(Saga::Store(claimed, place == 1));
        }
    }

    /// promote.lua
    fn promote(&mut self, drop: usize) {
        while let Some(user) = self.redis[drop].waiting.first().copied() {
            let holds = self.redis[drop].users.contains_key(&user)
                || self.once_per == OncePer::Coupon && self.claimants.contains_key(&user);
            if holds || self.is_banned(user, drop) {
                self.redis[drop].waiting.remove(0);
            } else if self.give(drop, user) {
                self.redis[drop].waiting.remove(0);
                self.admitted(drop, user);
            } else {
                return;
            }
        }
    }

    /// A transaction that inserts the row, and takes it out again if a revocation voids the claim.
    fn store(&mut self, claimed: Claimed) {
        let Claimed {
            drop,
            slot,
            user,
            at_ms,
        } = claimed;
        let has_row = self.rows.iter().any(|((of, _), (whose, _))| {
            *whose == user && (self.once_per == OncePer::Coupon || *of == drop)
        });
        let fits = slot <= self.mysql[drop].quantity && !self.mysql[drop].is_sealed;
        let is_taken = self.rows.contains_key(&(drop, slot)) || has_row;
        if !is_taken && fits && !self.voids(claimed) {
            self.rows.insert((drop, slot), (user, at_ms));
        }
    }

    /// A return or revocation: MySQL first.
    fn revoke(&mut self, user: User, may_claim_again: bool) {
        let found = (0..DROPS).find(|drop| self.redis[*drop].users.contains_key(&user));
        let Some(drop) = found else { return };
        let is_open = |it: &Revoked| it.user == user && it.drop == drop && it.again_from.is_none();
        if self.revocations.iter().any(is_open) {
            return;
        }
        self.revocations.push(Revoked {
            user,
            drop,
            may_claim_again,
            again_from: None,
        });
        let all = self.once_per == OncePer::Coupon;
        self.rows
            .retain(|(of, _), (whose, _)| *whose != user || (!all && *of != drop));
        self.sagas.push(Saga::Release(self.revocations.len() - 1));
    }

    /// revoke.lua
    fn release(&mut self, at: usize) -> i64 {
        let Revoked {
            user,
            drop,
            again_from,
            ..
        } = self.revocations[at];
        let ban = self.bans.entry(self.scope(user, drop)).or_default();
        if ban.0 <= at {
            *ban = (at, again_from);
        }
        let over = ban.1;
        let of_drop = &mut self.redis[drop];
        let mut until = self.now;
        if let Some(slot) = of_drop.users.get(&user).copied() {
            let given = of_drop.times[&slot];
            until = until.max(given);
            if over.is_none_or(|over| given <= over) {
                of_drop.users.remove(&user);
                of_drop.times.remove(&slot);
                of_drop.free.insert(slot);
                self.claimants.remove(&user);
            }
        }
        until
    }

    fn advance(&mut self, saga: Saga) {
        match saga {
            Saga::Store(claimed, _) => self.store(claimed),
            Saga::Release(at) => {
                let until = self.release(at);
                if self.revocations[at].may_claim_again {
                    self.sagas.push(Saga::End(at, until));
                }
            }
            Saga::End(at, until) => {
                self.revocations[at].again_from = Some(until);
                self.sagas.push(Saga::NoteEnd(at));
            }
            Saga::NoteEnd(at) => {
                self.release(at);
            }
            Saga::RaiseRedis(drop, quantity) => self.redis[drop].quantity = quantity,
            Saga::LowerMysql(drop, quantity) => self.mysql[drop].quantity = quantity,
            Saga::Load(drop) => {
                self.redis[drop].is_loaded = true;
                self.redis[drop].quantity = self.mysql[drop].quantity;
            }
            Saga::ExpireSealed(drop) => self.redis[drop] = RedisDrop::default(),
        }
    }

    /// Makes a random step of a user, an operator or a process.
    fn step(&mut self) {
        self.now += 1 + i64::try_from(self.dice.below(4)).unwrap();
        let user = self.dice.below(USERS);
        let drop = self.dice.index(DROPS);
        match self.dice.below(24) {
            0..=6 => self.claim(user),
            7..=9 => self.revoke(user, true),
            10 => self.revoke(user, self.dice.0.is_multiple_of(3)),
            11 => self.promote(drop),
            12 | 17 if self.is_settled(drop) && self.mysql[drop].quantity < 16 => {
                self.mysql[drop].quantity += 1;
                let raised = self.mysql[drop].quantity;
                if self.dice.below(2) == 0 {
                    self.sagas.push(Saga::RaiseRedis(drop, raised));
                } else {
                    // Nothing else happens in between, and a claim follows.
                    self.advance(Saga::RaiseRedis(drop, raised));
                    self.claim(user);
                }
            }
            13 if self.is_settled(drop) && self.redis[drop].is_loaded => {
                let lowered = self.redis[drop].quantity.saturating_sub(1).max(1);
                if lowered >= self.redis[drop].count {
                    self.redis[drop].quantity = lowered;
                    self.sagas.push(Saga::LowerMysql(drop, lowered));
                }
            }
            14 if self.dice.below(6) == 0 => self.next_day(),
            15 if self.dice.below(3) == 0 => self.seal(),
            16 if self.dice.below(40) == 0 => self.gate += 1,
            _ if !self.sagas.is_empty() => {
                let at = self.dice.index(self.sagas.len());
                let saga = self.sagas.swap_remove(at);
                self.advance(saga);
            }
            _ => {}
        }
    }

    /// Whether no change of the drop is under way, and it is not sealed. Operators' changes of a
    /// coupon are serial, by its revision.
    fn is_settled(&self, drop: usize) -> bool {
        let changes = |saga: &Saga| matches!(saga, Saga::RaiseRedis(of, _) | Saga::LowerMysql(of, _) | Saga::Load(of) if *of == drop);
        !self.sagas.iter().any(changes) && !self.mysql[drop].is_sealed
    }

    /// The first drop closes, the second one opens.
    fn next_day(&mut self) {
        if self.redis[0].is_open && self.redis[1].is_loaded {
            self.redis[0].is_open = false;
            self.redis[1].is_open = true;
        }
    }

    /// Sealing counts rows under the drop's lock, after everything in flight has arrived.
    fn seal(&mut self) {
        let stored =
            |user: User, slot: Slot| self.rows.get(&(0, slot)).map(|row| row.0) == Some(user);
        let is_exact = self.redis[0]
            .users
            .iter()
            .all(|(user, slot)| stored(*user, *slot))
            && self.rows.keys().filter(|(of, _)| *of == 0).count() == self.redis[0].users.len();
        let in_flight = |saga: &Saga| match saga {
            Saga::Store(claimed, _) => claimed.drop == 0,
            Saga::Release(at) | Saga::End(at, _) | Saga::NoteEnd(at) => {
                self.revocations[*at].drop == 0
            }
            _ => false,
        };
        let is_closed = self.redis[0].is_loaded && !self.redis[0].is_open && self.redis[1].is_open;
        if is_closed && is_exact && self.is_settled(0) && !self.sagas.iter().any(in_flight) {
            self.mysql[0].is_sealed = true;
            self.sagas.push(Saga::ExpireSealed(0));
        }
    }

    fn rows_of(&self, drop: usize) -> Vec<Row> {
        let own = self.rows.iter().filter(|((of, _), _)| *of == drop);
        own.map(|((_, slot), claim)| row(*slot, *claim)).collect()
    }

    fn page_of(&self, drop: usize) -> RedisPage {
        let of_drop = &self.redis[drop];
        let holder = |(user, slot): (&User, &Slot)| Holder {
            slot: (*slot).into(),
            user: name(*user),
            at_ms: None,
        };
        RedisPage {
            from: 1,
            count: Some(of_drop.count.into()),
            users: of_drop.users.iter().map(holder).collect(),
            free: of_drop.free.iter().map(|slot| i64::from(*slot)).collect(),
            ..RedisPage::default()
        }
    }

    fn rows_of_users(
        &self,
        drop: usize,
        users: &BTreeSet<UserId>,
    ) -> HashMap<UserId, Vec<(DropId, Row)>> {
        let mut found: HashMap<UserId, Vec<(DropId, Row)>> = HashMap::new();
        for ((of, slot), claim) in &self.rows {
            let row = row(*slot, *claim);
            if users.contains(&row.user) && (self.once_per == OncePer::Coupon || *of == drop) {
                let of_user = found.entry(row.user.clone()).or_default();
                of_user.push((drop_id(*of), row));
            }
        }
        found
    }

    fn revocations_of(&self, drop: usize) -> Revocations {
        let all = (0..).zip(&self.revocations).map(|(id, it)| {
            let user = name(it.user);
            revocation(id, drop_id(it.drop).0, user.as_str(), it.again_from)
        });
        Revocations::new(all.collect(), self.once_per, drop_id(drop))
    }
}

fn drop_id(drop: usize) -> DropId {
    DropId(i64::try_from(drop).unwrap() + 1)
}

fn other_steps(world: &mut World) {
    for _ in 0..world.dice.below(9) {
        world.step();
    }
}

/// A pass over one drop, with other steps between its reads. Without the second read, it judges by
/// what M showed.
fn pass(world: &mut World, drop: usize, has_second_read: bool) -> Option<Judgement> {
    let clock_ms = world.now;
    let is_sealed: [bool; DROPS] = std::array::from_fn(|drop| world.mysql[drop].is_sealed);
    let is_waited_for = |saga: &Saga| matches!(saga, Saga::Store(_, false));
    let is_read = !world.sagas.iter().any(is_waited_for);
    other_steps(world);
    // M, and the catalogue.
    if world.mysql[drop].is_sealed {
        return None;
    }
    let (rows, quantity) = (world.rows_of(drop), world.mysql[drop].quantity);
    other_steps(world);
    // R: the page in Redis.
    let (gate, page, keys) = (world.gate, world.page_of(drop), world.redis[drop].clone());
    let claimants = world.claimants.len();
    let users = sum(is_sealed, false, |drop| world.redis[drop].users.len());
    other_steps(world);
    // What `claimants::lacks_claimants` reads of a coupon that allows one claim in total.
    let of_sealed = sum(is_sealed, true, |drop| world.rows_of(drop).len());
    assert!(world.once_per == OncePer::Drop || claimants >= users + of_sealed);
    let mysql = MysqlPage {
        rows,
        letters: Vec::new(),
    };
    let doubts = doubts(&mysql, &page, quantity);
    let mut again = Recheck {
        quantity,
        rows: mysql.rows.clone(),
        ..Recheck::default()
    };
    let mut is_sealed = false;
    if has_second_read {
        for part in 0..4 {
            match part {
                0 => again.rows = world.rows_of(drop),
                1 => again.rows_of_users = world.rows_of_users(drop, &doubts.users),
                2 => again.revocations = world.revocations_of(drop),
                _ => {
                    (again.quantity, is_sealed) =
                        (world.mysql[drop].quantity, world.mysql[drop].is_sealed);
                }
            }
            other_steps(world);
        }
    }
    again.rows.retain(|row| doubts.slots.contains(&row.slot));
    let now = world.page_of(drop);
    let times = &world.redis[drop].times;
    again.holders = now
        .users
        .into_iter()
        .filter(|it| doubts.slots.contains(&Slot::try_from(it.slot).unwrap()))
        .map(|it| Holder {
            at_ms: times.get(&Slot::try_from(it.slot).unwrap()).copied(),
            ..it
        })
        .collect();
    note_transients(world, &mysql, &page, &again, quantity);
    if world.gate != gate {
        world.met.insert(Met::OtherGate);
        return None;
    }
    if is_sealed {
        world.met.insert(Met::SealedMeanwhile);
        return None;
    }
    let seen = if keys.is_loaded {
        let (users, free) = (keys.users.len() as u64, keys.free.len() as u64);
        loaded(Some(keys.count.into()), users, free)
    } else {
        LoadedDrop::default()
    };
    let is_new = !keys.is_open && mysql.rows.is_empty();
    match judge_whole(&seen, is_new) {
        WholeDrop::Whole => {}
        WholeDrop::NotLoaded => {
            world.met.insert(Met::NotLoadedYet);
            return None;
        }
        WholeDrop::Dirty(dirt) => {
            return Some(Judgement {
                dirt: vec![dirt],
                ..Judgement::default()
            });
        }
    }
    let moment = Moment {
        drop: drop_id(drop),
        is_closed: false,
        clock_ms,
        is_read,
        deadline_ms: DEADLINE_MS,
        overdue_ms: OVERDUE_MS,
        is_unattended: true,
    };
    Some(judge(&moment, &mysql, &page, &again))
}

/// Sums up a number over the drops that were sealed (or, if `of` is false, unsealed) when the pass
/// began.
fn sum(is_sealed: [bool; DROPS], of: bool, number: impl Fn(usize) -> usize) -> usize {
    let drops = (0..DROPS).filter(|drop| is_sealed[*drop] == of);
    drops.map(number).sum()
}

/// Records which transient states this page has met.
fn note_transients(
    world: &mut World,
    mysql: &MysqlPage,
    page: &RedisPage,
    again: &Recheck,
    quantity: Slot,
) {
    let on_slot = |slot: Slot| {
        page.users
            .iter()
            .find(|it| it.slot == i64::from(slot))
            .map(|it| &it.user)
    };
    for row in &mysql.rows {
        let later = again.rows.iter().find(|it| it.slot == row.slot);
        match on_slot(row.slot) {
            None => drop(world.met.insert(Met::RowWithoutUser)),
            Some(user) if *user != row.user => drop(world.met.insert(Met::OtherUserOnSlot)),
            Some(_) => {}
        }
        if later.is_some_and(|it| it.user == row.user && it.at_ms != row.at_ms) {
            world.met.insert(Met::SameSlotAgain);
        }
    }
    for holder in &page.users {
        if holder.slot > quantity.into() {
            world.met.insert(Met::AboveQuantityOfM);
        }
        let elsewhere = again.rows_of_users.get(&holder.user);
        let returned = |it: &Revoked| name(it.user) == holder.user && it.drop == 0;
        if world.once_per == OncePer::Coupon
            && elsewhere.is_none()
            && world.revocations.iter().any(returned)
            && world.redis[1].is_open
        {
            world.met.insert(Met::SecondDropOfCoupon);
        }
        if again.revocations.voids(&holder.user, None) {
            world.met.insert(Met::RevokedBehind);
        }
    }
}

/// Runs one schedule. Returns what was judged dirty.
fn run(seed: u64, has_second_read: bool, met: &mut BTreeMap<Met, u64>) -> Vec<(usize, Dirt)> {
    let mut world = World::new(seed);
    let mut dirt = Vec::new();
    for _ in 0..120 {
        other_steps(&mut world);
        let drop = world.dice.index(DROPS);
        let Some(judged) = pass(&mut world, drop, has_second_read) else {
            continue;
        };
        dirt.extend(judged.dirt.into_iter().map(|dirt| (drop, dirt)));
        assert_eq!(judged.surplus, [], "seed {seed}");
        if judged.in_flight > 0 {
            world.met.insert(Met::YoungAdmission);
        }
        for due in judged.rows {
            world.met.insert(Met::DueAdmission);
            let user = due.user.as_str()[2..].parse().unwrap();
            let at_ms = due.at_ms.unwrap();
            other_steps(&mut world);
            world.store(Claimed {
                drop,
                slot: due.slot,
                user,
                at_ms,
            });
        }
        for (_, revocation) in judged.revoked {
            let at = usize::try_from(revocation.id).unwrap();
            other_steps(&mut world);
            world.sagas.push(Saga::Release(at));
        }
    }
    for one in world.met {
        *met.entry(one).or_default() += 1;
    }
    dirt
}

#[test]
fn healthy_traffic_is_never_dirty_and_every_transient_is_met() {
    let schedules = std::env::var("SCHEDULES").map_or(1_000, |text| text.parse().unwrap());
    let mut met = BTreeMap::new();
    for seed in 0..schedules {
        let dirt = run(seed, true, &mut met);
        assert_eq!(dirt, [], "seed {seed}");
    }
    for one in Met::VARIANTS {
        assert!(
            met.get(one).is_some_and(|met| *met >= schedules / 150),
            "{one:?}: {met:?}"
        );
    }
}

#[test]
fn traffic_looks_dirty_without_the_second_read() {
    let mut kinds = HashSet::new();
    for seed in 0..300 {
        let dirt = run(seed, false, &mut BTreeMap::new());
        kinds.extend(dirt.into_iter().map(|(_, dirt)| dirt.kind));
    }
    let expected = [
        Kind::MissingAdmission,
        Kind::SlotConflict,
        Kind::OverAdmitted,
    ];
    assert!(
        expected.iter().all(|kind| kinds.contains(kind)),
        "{kinds:?}"
    );
}
