//! The data of the stores. Each script and each transaction is one atomic step.

use super::{SLOTS, USERS};

pub type User = u8;
/// A slot, from 1.
pub type Slot = u8;

/// An admission, a message, a dead letter, a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub user: User,
    pub slot: Slot,
    /// The time of admission. Each user has a separate clock, which no loss sets back.
    pub at: u8,
}

/// A coupon's `gate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gate {
    pub server: u8,
    pub era: u8,
    pub open: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    pub revision: u8,
    pub quantity: u8,
    pub paused: bool,
}

/// What a store knows of a user's return. A later state is greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revoked {
    #[default]
    No,
    /// All claims are void, for ever.
    ForGood,
    /// All claims are void until the return ends.
    InProgress,
    /// Claims up to this time are void.
    Until(u8),
}

impl Revoked {
    pub fn voids(self, claim: Claim) -> bool {
        match self {
            Self::No => false,
            Self::ForGood | Self::InProgress => true,
            Self::Until(at) => claim.at <= at,
        }
    }

    /// Whether the user may not claim.
    pub fn bans(self) -> bool {
        matches!(self, Self::ForGood | Self::InProgress)
    }
}

/// The keys of the coupon and its drop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Redis {
    pub gate: Option<Gate>,
    /// `meta`, or none if it was unlinked.
    pub settings: Option<Settings>,
    /// The highest revision, also of writes that found no `meta`.
    pub revision: u8,
    /// The highest slot that was given out.
    pub count: Slot,
    pub users: [Option<Claim>; USERS],
    pub free: [bool; SLOTS],
    /// The owed users at the head of the waiting list.
    pub waiting: [bool; USERS],
    pub revoked: [Revoked; USERS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Accepted(Claim),
    Already(Claim),
    Refused,
}

impl Redis {
    pub fn holder(&self, slot: Slot) -> Option<Claim> {
        self.users
            .into_iter()
            .flatten()
            .find(|claim| claim.slot == slot)
    }

    /// count = |users| + |free|.
    pub fn adds_up(&self) -> bool {
        let free = self.free.iter().filter(|free| **free).count();
        usize::from(self.count) == self.users.iter().flatten().count() + free
    }

    fn put(&mut self, claim: Claim) {
        self.users[usize::from(claim.user)] = Some(claim);
        self.free[usize::from(claim.slot) - 1] = false;
        self.count = self.count.max(claim.slot);
    }

    /// Gives the lowest returned slot, otherwise the next one.
    fn admit(&mut self, user: User, at: u8) -> Option<Claim> {
        let quantity = self.settings?.quantity;
        let returned = (1..=quantity).find(|slot| self.free[usize::from(*slot) - 1]);
        let slot = returned.or((self.count < quantity).then_some(self.count + 1))?;
        let claim = Claim { user, slot, at };
        self.put(claim);
        Some(claim)
    }

    /// `claim.lua`. Newcomers do not pass users who wait.
    pub fn claim(&mut self, server: u8, user: User, at: u8) -> Admission {
        let admits = self
            .gate
            .is_some_and(|gate| gate.open && gate.server == server);
        if !admits || self.settings.is_none_or(|settings| settings.paused) || !self.adds_up() {
            return Admission::Refused;
        }
        if let Some(claim) = self.users[usize::from(user)] {
            return Admission::Already(claim);
        }
        if self.waiting.contains(&true) || self.revoked[usize::from(user)].bans() {
            return Admission::Refused;
        }
        self.admit(user, at)
            .map_or(Admission::Refused, Admission::Accepted)
    }

    /// `promote.lua`: an owed user gets the next slot, or waits at the head.
    pub fn promote(&mut self, gate: Gate, user: User, at: u8) -> Option<Claim> {
        let place = usize::from(user);
        if self.gate != Some(gate) || self.users[place].is_some() || self.revoked[place].bans() {
            return None;
        }
        let promoted = self.admit(user, at);
        self.waiting[place] = promoted.is_none();
        promoted
    }

    /// `revoke.lua`, which compares no era. Returns the time up to which claims are void; of a
    /// return in progress, now.
    pub fn revoke(&mut self, user: User, revoked: Revoked, now: u8) -> u8 {
        let place = usize::from(user);
        let known = revoked.max(self.revoked[place]);
        self.revoked[place] = known;
        self.waiting[place] &= !known.bans();
        if let Some(claim) = self.users[place].filter(|claim| known.voids(*claim)) {
            self.users[place] = None;
            self.free[usize::from(claim.slot) - 1] = true;
        }
        match known {
            Revoked::Until(at) => at,
            Revoked::No | Revoked::ForGood | Revoked::InProgress => now,
        }
    }

    /// `settings.lua`, which compares revisions and no era. Only the projection makes `meta`.
    pub fn set(&mut self, settings: Settings, keeps: bool, makes: bool) {
        let finds = makes || self.settings.is_some();
        if settings.revision > self.revision && (finds || keeps) {
            self.revision = settings.revision;
            self.settings = finds.then_some(settings);
        }
    }

    /// The first page of the projection: revocations, the counter, and the owed users.
    pub fn put_lists(&mut self, revoked: [Revoked; USERS], count: Slot, owed: [bool; USERS]) {
        for (known, in_mysql) in self.revoked.iter_mut().zip(revoked) {
            *known = in_mysql.max(*known);
        }
        self.count = count;
        self.waiting = owed;
    }

    /// A page of one slot: its user, or free if nobody has it.
    pub fn put_slot(&mut self, slot: Slot, row: Option<Claim>, checks: bool) {
        let is_void = |claim: &Claim| self.revoked[usize::from(claim.user)].voids(*claim);
        let stands = |claim: &Claim| !checks || !is_void(claim);
        match row.filter(stands) {
            Some(claim) => {
                self.put(claim);
                self.waiting[usize::from(claim.user)] = false;
            }
            None => self.free[usize::from(slot) - 1] = slot <= self.count,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Mysql {
    /// `issued_coupons`, by slot. Its keys are unique.
    pub rows: [Option<Claim>; SLOTS],
    pub letters: Vec<Claim>,
    /// `broken_promises`.
    pub owed: [bool; USERS],
    pub revoked: [Revoked; USERS],
    /// The consumer's position.
    pub position: u8,
    pub era: u8,
    pub settings: Settings,
    /// Whether `slot_limits` is empty.
    pub limits_lost: bool,
}

/// Whether MySQL accepted a row, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insert {
    Done,
    /// A revocation voids the claim.
    Void,
    /// The user already has a row.
    HasRow,
    /// Another user has the slot, or the slot is above the quantity.
    Taken,
    /// Another reason.
    Refused,
}

impl Mysql {
    pub fn row_of(&self, user: User) -> Option<Claim> {
        self.rows.into_iter().flatten().find(|row| row.user == user)
    }

    pub fn row_on(&self, slot: Slot) -> Option<Claim> {
        self.rows[usize::from(slot) - 1]
    }

    pub fn voids(&self, claim: Claim) -> bool {
        self.revoked[usize::from(claim.user)].voids(claim)
    }

    /// Inserts a row, unless a revocation voids the claim.
    pub fn insert(&mut self, claim: Claim) -> Insert {
        if self.voids(claim) {
            Insert::Void
        } else if self.row_of(claim.user).is_some() {
            Insert::HasRow
        } else if self.row_on(claim.slot).is_some() || claim.slot > self.settings.quantity {
            Insert::Taken
        } else if self.limits_lost {
            Insert::Refused
        } else {
            self.rows[usize::from(claim.slot) - 1] = Some(claim);
            Insert::Done
        }
    }

    /// Moves rows that a revocation voids into the revocation.
    pub fn move_void_rows(&mut self) {
        self.rows = self.rows.map(|row| row.filter(|claim| !self.voids(*claim)));
    }
}
