//! The whole state at one moment.

use super::reconciler::Reconciler;
use super::stores::{Claim, Gate, Mysql, Redis, Revoked, Settings, User};
use super::{Fault, Protocol, USERS};

/// How an admission reaches a second store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    Publishing,
    /// The API writes the row itself.
    Fallback,
    /// The user got 503, but the transaction may still be committed.
    Late,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InFlight {
    pub claim: Claim,
    /// The era of the admission.
    pub era: u8,
    pub way: Way,
}

/// The next step of the API that returns the first user's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Returning {
    /// Notes the return in Redis, which frees the slot.
    Release,
    /// Ends the return in MySQL: claims up to this time are void.
    End(u8),
    /// Writes what MySQL has recorded to Redis.
    Tell(Revoked),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Consumer {
    /// The offset at which the last range ended.
    pub next: u8,
    /// The current batch, from one offset up to another.
    pub batch: Option<(u8, u8)>,
}

/// Violations that were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    pub closed_clean: bool,
    pub admitted_while_paused: bool,
    pub overtaken: bool,
    pub void_told: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub redis: Redis,
    /// The identity of Redis's server. A restart or a failover changes it.
    pub server: u8,
    /// Redis's data when it was copied.
    pub redis_copy: Option<Redis>,
    pub mysql: Mysql,
    /// The lagging replica.
    pub replica: Option<Mysql>,
    /// The demoted primary, which can still be read.
    pub demoted: Option<Mysql>,
    /// The number of failovers.
    pub primary: u8,
    pub topic: Vec<Claim>,
    pub consumer: Consumer,
    pub in_flight: Vec<InFlight>,
    pub reconcilers: Vec<Reconciler>,
    /// Settings that MySQL already has and Redis does not.
    pub changing: Option<Settings>,
    pub pause_answered: bool,
    /// The first user's return, if it is in progress.
    pub returning: Option<Returning>,
    /// The time of each user's last admission.
    pub clock: [u8; USERS],
    /// Remaining faults.
    pub faults: Vec<Fault>,
    /// Promises, which are also the API's cache of claims that a second store has.
    pub promises: Vec<Claim>,
    /// Promises whose user was stored as owed.
    pub broken: Vec<Claim>,
    /// The returns themselves, whatever the stores know: claims that were given back.
    pub returned: [Revoked; USERS],
    /// Users who were owed a slot when the gate opened.
    pub owed_at_opening: [bool; USERS],
    /// The closed gate at which a pass has reached the barrier. Only a protocol that omits the
    /// barrier of the next attempt reads it.
    pub judged: Option<Gate>,
    /// Whether a store had a fault, or somebody changed it manually: open coupons may close.
    pub damaged: bool,
    /// Whether the topic or MySQL may have lost data, or MySQL got a row by hand.
    pub lost: bool,
    /// Whether no store knows a return any more, or MySQL got a row by hand.
    pub excused: bool,
    pub seen: Seen,
}

impl State {
    /// Returns a state in which the drop is loaded and open, and nobody has claimed.
    pub fn open(protocol: &Protocol) -> Self {
        let raised = protocol.faults.contains(&Fault::Raise);
        let settings = Settings {
            revision: 1,
            quantity: if raised { 1 } else { 2 },
            paused: false,
        };
        let gate = Gate {
            server: 0,
            era: 1,
            open: true,
        };
        Self {
            redis: Redis {
                gate: Some(gate),
                settings: Some(settings),
                revision: 1,
                ..Redis::default()
            },
            mysql: Mysql {
                era: 1,
                settings,
                ..Mysql::default()
            },
            reconcilers: vec![Reconciler::Idle; protocol.reconcilers],
            faults: protocol.faults.clone(),
            ..Self::default()
        }
    }

    /// Reduces the number of states: sorts sets and interchangeable reconcilers, and drops data
    /// that no later step reads.
    pub fn tidy(&mut self) {
        let letters = &mut self.mysql.letters;
        for set in [letters, &mut self.promises, &mut self.broken] {
            set.sort_unstable();
            set.dedup();
        }
        self.in_flight.sort_unstable();
        self.reconcilers.sort_unstable();
        if !self.may(Fault::GoBack) {
            self.redis_copy = None;
        }
        if !self.may(Fault::FailoverToOlder) {
            self.replica = None;
        }
        let is_idle = |reconciler: &Reconciler| *reconciler == Reconciler::Idle;
        if self.reconcilers.iter().all(is_idle) {
            self.demoted = None;
        }
    }

    pub fn may(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub fn spend(&mut self, fault: Fault) {
        let at = self.faults.iter().position(|it| *it == fault);
        at.map(|at| self.faults.remove(at));
    }

    pub fn next_time(&mut self, user: User) -> u8 {
        let clock = &mut self.clock[usize::from(user)];
        *clock += 1;
        *clock
    }

    /// The offset after the last message.
    pub fn end(&self) -> u8 {
        u8::try_from(self.topic.len()).unwrap_or(u8::MAX)
    }

    /// Whether no store knows a return of the user, and its API does not write it any more.
    pub fn is_return_forgotten(&self) -> bool {
        let known = self.mysql.revoked.iter().zip(self.redis.revoked);
        let mut known = known.map(|(mysql, redis)| redis.max(*mysql));
        let is_forgotten = self.returned.iter().any(|it| known.next() < Some(*it));
        self.returning.is_none() && is_forgotten
    }

    /// Notes the user's return in Redis. Returns the time up to which claims are void.
    pub fn release(&mut self, user: User, revoked: Revoked) -> u8 {
        self.redis
            .revoke(user, revoked, self.clock[usize::from(user)])
    }

    /// Ends the user's return in MySQL, and returns what is recorded: another process may have
    /// ended it, or a failover forgotten it.
    pub fn end_return(&mut self, user: User, until: u8) -> Revoked {
        let place = usize::from(user);
        let mysql = &mut self.mysql;
        if mysql.revoked[place] == Revoked::InProgress {
            mysql.revoked[place] = Revoked::Until(until);
            mysql.owed[place] = false;
            self.returned[place] = mysql.revoked[place];
        }
        mysql.revoked[place]
    }

    pub fn has_in_flight(&self, claim: Claim) -> bool {
        let is_its = |it: &InFlight| it.claim == claim && it.way != Way::Late;
        self.in_flight.iter().any(is_its)
    }

    /// Stores a user as owed. If the user was promised this slot, that promise is broken.
    pub fn owe(&mut self, claim: Claim) {
        self.mysql.owed[usize::from(claim.user)] = true;
        let is_its = |it: &Claim| (it.user, it.slot) == (claim.user, claim.slot);
        let broken: Vec<Claim> = self.standing().filter(is_its).collect();
        self.broken.extend(broken);
    }

    /// Promises that were neither given back nor listed as broken. If MySQL forgot a return or got
    /// a row by hand, promises of other slots to the row's user do not count.
    pub fn standing(&self) -> impl Iterator<Item = Claim> {
        let has_older = |claim: &Claim| {
            let row = self.mysql.row_of(claim.user);
            self.excused && row.is_some_and(|row| row.slot != claim.slot)
        };
        let stands = move |claim: &&Claim| {
            let given_back = self.returned[usize::from(claim.user)].voids(**claim);
            !given_back && !has_older(claim) && !self.broken.contains(claim)
        };
        self.promises.iter().filter(stands).copied()
    }

    pub fn promises_agree(&self) -> bool {
        self.standing().all(|one| {
            self.standing()
                .all(|other| (one.user == other.user) == (one.slot == other.slot))
        })
    }

    pub fn promises_are_held(&self) -> bool {
        // A position outside the log will be reset to the first offset.
        let from = usize::from(self.mysql.position);
        let from = if from > self.topic.len() { 0 } else { from };
        let held = |claim: Claim| {
            let row = self.mysql.row_on(claim.slot);
            row.is_some_and(|row| row.user == claim.user && row.at >= claim.at)
                || self.topic[from..].contains(&claim)
                || self.mysql.letters.contains(&claim)
                || self.lost && self.redis.users[usize::from(claim.user)] == Some(claim)
        };
        self.standing().all(held)
    }
}
