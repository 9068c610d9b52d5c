//! The contract of each script, modelled in Rust.

use std::collections::{BTreeMap, BTreeSet};

use firstcome_shared::domain::{DropId, OncePer};
use firstcome_shared::redis::admission::Admission;
use firstcome_shared::redis::gate::Opened;
use firstcome_shared::redis::project::Fenced;
use firstcome_shared::redis::settings::Written;

use crate::command::{
    FencedCommand, PAGE_SLOTS, Row, RowTime, ScriptCommand, Start, Tamper, UserLetter,
};
use crate::leases::BEGUN_AT_MS;
use crate::world::{ENDED_AT_MS, Shown, accepted, admissions_in_words, already};

#[derive(Debug, Clone)]
pub(crate) struct Model {
    start: Start,
    is_open: bool,
    /// The rows of the last `Begin` in this era.
    plan: Option<Vec<Row>>,
    /// Whether an era has ended.
    has_ended: bool,
    /// Quantity and pause; `None` if the drop is not loaded.
    meta: Option<(i64, bool)>,
    count: Option<i64>,
    users: BTreeMap<UserLetter, i64>,
    free: BTreeSet<i64>,
    /// Slots with a known time of admission.
    times: BTreeMap<i64, RowTime>,
    /// The waiting list in order. Owed users come first, with the promised slot.
    waiting: Vec<(Option<i64>, UserLetter)>,
    claimants: BTreeMap<UserLetter, (i64, i64)>,
    /// Id of the last revocation, and whether it has ended.
    revoked: BTreeMap<UserLetter, (i64, bool)>,
    /// Whether `revoked` and `claimants` have the field whose absence shows their loss.
    has_mark: bool,
    has_claimants_mark: bool,
    /// The highest revision written.
    revision: u64,
    /// The time of Redis's clock.
    now_ms: i64,
    /// The end of the drop's lease; lost with `meta`.
    lease_until: i64,
    /// The version of the drop's holders; lost with `meta`.
    version: i64,
}

const LEASE_MS: i64 = 200;
const DROP: i64 = 3;
pub(crate) const OTHER_DROP: i64 = 99;

fn words(answer: &impl std::fmt::Debug) -> String {
    format!("{answer:?}")
}

fn revocation(id: i64, ended: bool) -> String {
    if ended {
        format!("{id}:{ENDED_AT_MS}")
    } else {
        format!("{id}:")
    }
}

fn narrow(slot: i64) -> u32 {
    u32::try_from(slot).unwrap()
}

impl Model {
    pub(crate) fn new(start: &Start) -> Self {
        Self {
            start: *start,
            is_open: true,
            plan: None,
            has_ended: false,
            meta: Some((i64::from(start.quantity), false)),
            count: Some(0),
            users: BTreeMap::new(),
            free: BTreeSet::new(),
            times: BTreeMap::new(),
            waiting: Vec::new(),
            claimants: BTreeMap::new(),
            revoked: BTreeMap::new(),
            has_mark: true,
            has_claimants_mark: true,
            revision: 1,
            now_ms: BEGUN_AT_MS,
            lease_until: 0,
            version: 0,
        }
    }

    pub(crate) fn quantity(&self) -> Option<i64> {
        self.meta.map(|(quantity, _)| quantity)
    }

    /// Whether count = |users| + |free|.
    pub(crate) fn adds_up(&self) -> bool {
        let sum = self.users.len() + self.free.len();
        self.count == Some(i64::try_from(sum).unwrap())
    }

    pub(crate) fn is_held(&self, slot: i64) -> bool {
        self.users.values().any(|held| *held == slot)
    }

    /// Whether a revocation voids all claims of the user, or the claim of this time.
    fn is_void(&self, person: UserLetter, time: RowTime) -> bool {
        self.revoked
            .get(&person)
            .is_some_and(|(_, ended)| !ended || time != RowTime::After)
    }

    /// The holders whose claims are void, whatever their times.
    pub(crate) fn revoked_holders(&self) -> Vec<UserLetter> {
        let holders = self.users.keys().copied();
        holders.filter(|person| self.is_banned(*person)).collect()
    }

    /// Whether the last command opened the coupon after a rebuild of the drop. `before` is the
    /// state before that command.
    pub(crate) fn is_rebuilt(&self, before: &Self) -> bool {
        self.is_open && !before.is_open && before.plan.is_some()
    }

    pub(crate) fn left(&self) -> i64 {
        self.quantity().unwrap_or(0) - i64::try_from(self.users.len()).unwrap()
    }

    pub(crate) fn waiting(&self) -> i64 {
        i64::try_from(self.waiting.len()).unwrap()
    }

    fn once_per_coupon(&self) -> bool {
        self.start.once_per == OncePer::Coupon
    }

    /// Whether a whole key that names users is lost.
    fn has_lost_users(&self) -> bool {
        !self.has_mark || self.once_per_coupon() && !self.has_claimants_mark
    }

    pub(crate) fn state(&self) -> Shown {
        let mark = |is_there: bool| is_there.then(|| (String::new(), "0".to_owned()));
        let claim = |(p, (d, s)): (&UserLetter, &(i64, i64))| (p.to_string(), format!("{d}:{s}"));
        Shown {
            quantity_and_pause: self
                .meta
                .map(|(q, paused)| (q.to_string(), u8::from(paused).to_string())),
            count: self.count.map(|count| count.to_string()),
            users: self
                .users
                .iter()
                .map(|(person, slot)| (*slot, person.to_string()))
                .collect(),
            free: self.free.clone(),
            times: self.times.clone(),
            waiting: self
                .waiting
                .iter()
                .map(|(_, person)| person.to_string())
                .collect(),
            claimants: self
                .claimants
                .iter()
                .map(claim)
                .chain(mark(self.has_claimants_mark))
                .collect(),
            revoked: self
                .revoked
                .iter()
                .map(|(p, (id, ended))| (self.field(*p), revocation(*id, *ended)))
                .chain(mark(self.has_mark))
                .collect(),
        }
    }

    pub(crate) fn apply(&mut self, command: &ScriptCommand) -> String {
        match command {
            ScriptCommand::Claim(_) | ScriptCommand::Lease(_) if !self.is_open => "Closed".into(),
            ScriptCommand::Claim(people) => self.claims(people),
            ScriptCommand::Lease(people) => {
                let is_granted = self.meta.is_some() && self.is_sold_out();
                let answers = self.claims(people);
                if !is_granted {
                    return answers;
                }
                let left = self.lease();
                format!("{answers} lease {left} of {}", self.version)
            }
            ScriptCommand::Wait(ms) => {
                self.now_ms += ms;
                String::new()
            }
            ScriptCommand::SetBack(ms) => {
                self.now_ms -= ms;
                String::new()
            }
            ScriptCommand::Load(revision) => words(&self.load(*revision)),
            ScriptCommand::WriteSettings(revision, quantity, paused) => {
                words(&self.write_settings(*revision, *quantity, *paused))
            }
            ScriptCommand::Lower(revision, quantity) => {
                words(&self.lower(*revision, i64::from(*quantity)))
            }
            ScriptCommand::Revoke(person, number, ended) => {
                self.revoke(*person, *number, *ended).into()
            }
            ScriptCommand::Close => {
                self.is_open = false;
                self.plan = None;
                self.has_ended = true;
                String::new()
            }
            ScriptCommand::Fenced(command) => self.apply_fenced(command),
            ScriptCommand::Late(_) if !self.has_ended => String::new(),
            ScriptCommand::Stale(command) | ScriptCommand::Late(command) => match command {
                FencedCommand::Page(_) if self.plan.is_none() => String::new(),
                _ => "Stale".into(),
            },
            ScriptCommand::Tamper(tamper) => {
                self.tamper(*tamper);
                String::new()
            }
        }
    }

    fn apply_fenced(&mut self, command: &FencedCommand) -> String {
        match command {
            FencedCommand::Page(_) if self.plan.is_none() => return String::new(),
            FencedCommand::Begin(_)
            | FencedCommand::Page(_)
            | FencedCommand::ClearClaimants
            | FencedCommand::Claimants(_)
                if self.is_open =>
            {
                return "Stale".into();
            }
            _ => {}
        }
        match command {
            FencedCommand::Begin(rows) => {
                let highest = rows.iter().map(|row| i64::from(row.slot)).max();
                self.plan = Some(rows.clone());
                self.lose_meta();
                self.count = Some(highest.unwrap_or(0));
                self.users.clear();
                self.free.clear();
                self.times.clear();
                words(&Fenced::Done(()))
            }
            FencedCommand::Page(page) => words(&Fenced::Done(self.write_page(*page))),
            FencedCommand::ClearClaimants => {
                self.claimants.clear();
                self.has_claimants_mark = false;
                words(&Fenced::Done(()))
            }
            FencedCommand::Claimants(rows) => {
                for row in rows {
                    // These claims are on `OTHER_DROP`. Revocations of this model void them only
                    // if the coupon allows one claim in total.
                    if !self.once_per_coupon() || !self.is_void(row.person, row.time) {
                        let claim = (OTHER_DROP, i64::from(row.slot));
                        self.claimants.insert(row.person, claim);
                    }
                }
                words(&Fenced::Done(()))
            }
            FencedCommand::Owed(owed) => {
                for (person, slot) in owed {
                    if !self.holds(*person) && !self.is_banned(*person) {
                        self.bring_to_front(*person, i64::from(*slot));
                    }
                }
                words(&Fenced::Done(()))
            }
            FencedCommand::Settings(revision) => words(&self.load(*revision)),
            FencedCommand::Open => words(&self.open()),
            FencedCommand::Promote(limit) => self.promote(*limit),
        }
    }

    /// Processes users in order, as if each had made a separate call.
    fn claims(&mut self, people: &[UserLetter]) -> String {
        if self.meta.is_some() {
            self.cut_lease();
        }
        let answers: Vec<Admission> = people.iter().map(|person| self.claim(*person)).collect();
        let is_given = |answer: &Admission| matches!(answer, Admission::Accepted(_));
        if answers.iter().any(is_given) {
            self.change_version();
        }
        admissions_in_words(&answers)
    }

    fn field(&self, person: UserLetter) -> String {
        if self.once_per_coupon() {
            person.to_string()
        } else {
            format!("{DROP}:{person}")
        }
    }

    fn is_banned(&self, person: UserLetter) -> bool {
        self.revoked.get(&person).is_some_and(|(_, ended)| !ended)
    }

    /// Records a revocation, unless a later state is known.
    fn revoke(&mut self, person: UserLetter, number: i64, ended: bool) -> &'static str {
        let known = self.revoked.get(&person).copied();
        let further = known.filter(|(id, has_ended)| *id > number || (*id == number && *has_ended));
        let (number, ended) = further.unwrap_or((number, ended));
        self.revoked.insert(person, (number, ended));
        let slot = self.users.get(&person).copied();
        let is_before = |slot| self.times.get(&slot) == Some(&RowTime::Before);
        let is_void = slot.is_some_and(|slot| !ended || is_before(slot));
        let claim = self.claimants.get(&person);
        let names_drop = claim.is_some_and(|(drop, _)| *drop == DROP);
        if names_drop && (!ended || is_void || (slot.is_none() && self.count.is_some())) {
            self.claimants.remove(&person);
        }
        if !ended {
            self.waiting.retain(|(_, waits)| *waits != person);
        }
        if let Some(slot) = slot.filter(|_| is_void) {
            self.users.remove(&person);
            self.times.remove(&slot);
            if self.count.is_some_and(|count| slot <= count) {
                self.free.insert(slot);
            }
        }
        if ended { "ended" } else { "open" }
    }

    fn give(&mut self, person: UserLetter, slot: i64) {
        self.free.remove(&slot);
        self.count = self.count.max(Some(slot));
        self.users.insert(person, slot);
        self.times.insert(slot, RowTime::After);
        if self.once_per_coupon() {
            self.claimants.insert(person, (DROP, slot));
        }
    }

    fn claim(&mut self, person: UserLetter) -> Admission {
        let Some((quantity, paused)) = self.meta else {
            return Admission::Unloaded(DropId(DROP));
        };
        if self.is_banned(person) {
            return Admission::Unverified;
        }
        if let Some(slot) = self.users.get(&person) {
            return already(DropId(DROP), narrow(*slot));
        }
        let elsewhere = self
            .claimants
            .get(&person)
            .filter(|_| self.once_per_coupon());
        if let Some((drop, slot)) = elsewhere {
            // A claimant of this drop would be in `users`.
            if *drop == DROP {
                return Admission::Unverified;
            }
            return already(DropId(*drop), narrow(*slot));
        }
        let lacks_claimants = self.once_per_coupon() && self.claimants.len() < self.users.len();
        if !self.adds_up() || lacks_claimants || self.has_lost_users() {
            return Admission::Unverified;
        }
        if paused {
            return Admission::Paused;
        }
        let may_give = self.waiting.is_empty() && !self.is_leased();
        if let Some(slot) = self.next(quantity).filter(|_| may_give) {
            self.give(person, slot);
            return accepted(DropId(DROP), narrow(slot));
        }
        let place = self.waiting.iter().position(|(_, waits)| *waits == person);
        // The list accepts at least as many waiting users as there are slots left.
        let places = i64::from(self.start.waiting_list).max(self.left());
        if place.is_none() && (self.waiting() >= places || self.is_leased()) {
            return Admission::SoldOut;
        }
        let place = place.unwrap_or_else(|| {
            self.waiting.push((None, person));
            self.waiting.len() - 1
        });
        Admission::Waiting(u32::try_from(place).unwrap() + 1)
    }

    /// Whether no slot may be given.
    pub(crate) fn is_leased(&self) -> bool {
        self.now_ms < self.lease_until
    }

    pub(crate) fn lease_left(&self) -> i64 {
        self.lease_until - self.now_ms
    }

    /// After the clock was set back, a lease ends when a new one would.
    fn cut_lease(&mut self) {
        self.lease_until = self.lease_until.min(self.now_ms + LEASE_MS);
    }

    /// Whether a lease can be granted: no user who holds nothing could get a slot or a place, even
    /// without a lease.
    fn is_sold_out(&self) -> bool {
        let Some((quantity, false)) = self.meta else {
            return false;
        };
        let has_place = self.start.waiting_list > 0 || self.left() > 0;
        let is_full = self.free.is_empty() && self.count >= Some(quantity) && !has_place;
        let knows_all = !self.once_per_coupon() || self.claimants.len() == self.users.len();
        is_full && self.waiting.is_empty() && self.adds_up() && !self.has_lost_users() && knows_all
    }

    /// Leases the drop, and returns the milliseconds left.
    fn lease(&mut self) -> i64 {
        if 2 * self.lease_left() < LEASE_MS {
            self.lease_until = self.now_ms + LEASE_MS;
        }
        self.lease_left()
    }

    /// Returns the lowest free slot, or the next new slot if there is none.
    fn next(&self, quantity: i64) -> Option<i64> {
        let next = self.count.unwrap_or(0) + 1;
        Some(self.free.first().copied().unwrap_or(next)).filter(|slot| *slot <= quantity)
    }

    fn has_keys(&self) -> bool {
        self.meta.is_some()
            || self.count.is_some()
            || !self.users.is_empty()
            || !self.free.is_empty()
            || !self.times.is_empty()
            || !self.waiting.is_empty()
    }

    fn is_unused(&self) -> bool {
        self.meta.is_some()
            && self.count == Some(0)
            && self.users.is_empty()
            && self.free.is_empty()
            && self.waiting.is_empty()
    }

    fn load(&mut self, revision: u64) -> Written {
        if self.is_open && self.has_keys() && !self.is_unused() {
            return Written::Present;
        }
        if revision < self.revision {
            return Written::Outdated;
        }
        self.revision = revision;
        self.meta = Some((i64::from(self.start.quantity), false));
        self.count.get_or_insert(0);
        Written::Yes
    }

    fn write_settings(&mut self, revision: u64, quantity: u32, paused: bool) -> Written {
        if revision < self.revision {
            return Written::Outdated;
        }
        self.revision = revision;
        let Some(meta) = &mut self.meta else {
            return Written::Unloaded;
        };
        *meta = (i64::from(quantity), paused);
        Written::Yes
    }

    fn lower(&mut self, revision: u64, quantity: i64) -> Written {
        if revision < self.revision {
            return Written::Outdated;
        }
        let (Some(meta), Some(count)) = (&mut self.meta, self.count) else {
            return Written::Unloaded;
        };
        if !self.is_open {
            return Written::Unverified;
        }
        if quantity < count {
            return Written::GivenOut(narrow(count));
        }
        self.revision = revision;
        meta.0 = quantity;
        Written::Yes
    }

    /// Returns the number of rows whose claim is void.
    fn write_page(&mut self, page: u32) -> u32 {
        let rows = self.plan.clone().unwrap_or_default();
        let last = rows.iter().map(|row| row.slot).max().unwrap_or(0);
        let first = page * PAGE_SLOTS + 1;
        let slots = first..=(first + PAGE_SLOTS - 1).min(last);
        self.users.retain(|_, slot| !slots.contains(&narrow(*slot)));
        let mut void = 0;
        for slot in slots {
            let row = rows.iter().find(|row| row.slot == slot);
            let is_void = row.is_some_and(|row| self.is_void(row.person, row.time));
            void += u32::from(is_void);
            let slot = i64::from(slot);
            self.free.insert(slot);
            if let Some(row) = row.filter(|_| !is_void) {
                self.free.remove(&slot);
                self.users.insert(row.person, slot);
                if row.time != RowTime::Unknown {
                    self.times.insert(slot, row.time);
                }
                if self.once_per_coupon() {
                    self.claimants.insert(row.person, (DROP, slot));
                }
            }
        }
        void
    }

    fn open(&mut self) -> Opened {
        if !self.is_open && (self.meta.is_none() || !self.adds_up()) {
            return Opened::NotWhole(DropId(DROP));
        }
        self.has_mark |= !self.is_open;
        self.has_claimants_mark |= !self.is_open;
        self.is_open = true;
        Opened::Yes
    }

    fn bring_to_front(&mut self, person: UserLetter, promised: i64) {
        self.waiting.retain(|(_, waits)| *waits != person);
        let earlier = |(slot, waits): &(Option<i64>, UserLetter)| {
            slot.is_some_and(|slot| (slot, *waits) < (promised, person))
        };
        self.waiting.insert(
            self.waiting.partition_point(earlier),
            (Some(promised), person),
        );
    }

    fn holds(&self, person: UserLetter) -> bool {
        self.users.contains_key(&person)
            || (self.once_per_coupon() && self.claimants.contains_key(&person))
    }

    fn promote(&mut self, limit: u32) -> String {
        let is_ready = self.is_open && self.adds_up() && !self.has_lost_users();
        let Some((quantity, paused)) = self.meta.filter(|_| is_ready) else {
            return "Stale".into();
        };
        if paused || self.waiting.is_empty() {
            return "Done([])".into();
        }
        self.cut_lease();
        if self.is_leased() {
            return "leased".into();
        }
        let mut promoted = Vec::new();
        while promoted.len() < limit as usize {
            let Some((_, person)) = self.waiting.first().copied() else {
                break;
            };
            if !self.holds(person) && !self.is_banned(person) {
                let Some(slot) = self.next(quantity) else {
                    break;
                };
                self.give(person, slot);
                promoted.push((person, narrow(slot)));
            }
            self.waiting.remove(0);
        }
        if !promoted.is_empty() {
            self.change_version();
        }
        words(&Fenced::Done(promoted))
    }

    /// Changes the version of the holders, once per call that gives slots.
    fn change_version(&mut self) {
        self.version = self.now_ms.max(self.version + 1);
    }

    fn lose_meta(&mut self) {
        self.meta = None;
        self.lease_until = 0;
        self.version = 0;
    }

    fn tamper(&mut self, tamper: Tamper) {
        match tamper {
            Tamper::Lose("meta") => self.lose_meta(),
            Tamper::Lose("count") => self.count = None,
            Tamper::Lose("users") => self.users.clear(),
            Tamper::Lose("free") => self.free.clear(),
            Tamper::Lose("waiting") => self.waiting.clear(),
            Tamper::Lose("times") => self.times.clear(),
            Tamper::Lose("claimants") => {
                self.claimants.clear();
                self.has_claimants_mark = false;
            }
            Tamper::Lose(_) => {
                self.revoked.clear();
                self.has_mark = false;
            }
            Tamper::ClaimedElsewhere(person) => {
                self.claimants.insert(person, (OTHER_DROP, 3));
            }
            Tamper::Empty => {
                *self = Self {
                    meta: None,
                    count: None,
                    revision: 0,
                    now_ms: self.now_ms,
                    has_ended: true,
                    ..Self::new(&self.start)
                };
            }
        }
    }
}
