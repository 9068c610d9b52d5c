//! Models of the protocol (docs/decisions/0003, 0005, 0008, 0040, 0041) whose states are explored
//! exhaustively:
//!
//! - [`claims`]: the claims of one drop, from Redis to their rows, under faults of every store.
//! - [`gate`]: which coupons are open after which loss of Redis.
//! - [`attach`]: somebody else's coupon system, and what an attached reconciler may repair in it.
//!
//! Each model also has protocols that omit one rule. Each of these must violate a property.
//! Otherwise the model would prove nothing.
//!
//! Rules that models of this size do not express:
//!
//! - A drop with a locked row gets dead letters: needs two coupons behind one partition
//!   (`faults::single`).
//! - `claims/me`: a retry stands for it, because both read the same record.
//! - Claimants are written under a fence: needs two drops that share their users
//!   (`shared/tests/scripts`).
//! - Losers from memory, and uses of codes: each of their rules is an assertion on the real stores,
//!   in any order of steps (`shared/tests/scripts`, the shops of `firstcome-chaos`, porcupine).
//! - Sealing is no loss: sealed drops are in no model (`drift::sealing`).
//! - One urgent lane at a time: without this rule nothing is wrong, but two passes may hinder each
//!   other forever. The faults `LockLost` let two passes close coupons at once.
//! - Ids from time and randomness: no model has ids (`faults::mysql_failover`).
//! - The limit on takes, rows of claims that are 60 s overdue while messages are unread, and the
//!   users' own waiting list: they have no part in any argument here (`drift::repair_limit`,
//!   `shared/tests/scripts`). The only rule of the pace in a model is
//!   [`claims::Omitted::BarrierUnpaced`] (`consume::pace` tests the others).

pub mod attach;
pub mod claims;
pub mod gate;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

/// A violated property, and the shortest history that violates it. If the property must hold
/// sometimes, there is no such history, and a sentence says that it never happens.
pub type Counterexample = (&'static str, Vec<String>);

/// A protocol, and the faults that may happen to it.
pub struct World<P> {
    pub name: String,
    /// Whether it is explored only before a release.
    pub is_large: bool,
    pub protocol: P,
}

impl<P> World<P> {
    /// Returns the world in which the omission of this rule must be caught.
    fn without(rule: &impl Debug, protocol: P) -> Self {
        Self {
            name: format!("{rule:?}"),
            is_large: false,
            protocol,
        }
    }
}

/// A protocol to explore.
pub struct Case {
    /// `claims: …`
    pub name: String,
    /// Whether the protocol has all its rules.
    pub is_whole: bool,
    pub is_large: bool,
    explore: Box<dyn FnOnce() -> (usize, Option<Counterexample>)>,
}

impl Case {
    /// Explores the states until one violates a property. Returns their number, and the violation
    /// if there is one.
    pub fn explore(self) -> (usize, Option<Counterexample>) {
        (self.explore)()
    }
}

/// Returns all protocols.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    add(&mut all, "claims", true, claims::cases::whole());
    add(
        &mut all,
        "claims without",
        false,
        claims::cases::omitted(true),
    );
    add(&mut all, "gate", true, gate::cases::whole());
    add(&mut all, "gate without", false, gate::cases::omitted(true));
    add(&mut all, "attach", true, attach::cases::whole());
    add(
        &mut all,
        "attach without",
        false,
        attach::cases::omitted(true),
    );
    all
}

/// Returns the protocols of [`cases`] that omit a rule, in the same order and worlds, with all their
/// rules.
pub fn with_omitted_rules() -> Vec<Case> {
    let mut all = Vec::new();
    add(
        &mut all,
        "claims with",
        false,
        claims::cases::omitted(false),
    );
    add(&mut all, "gate with", false, gate::cases::omitted(false));
    add(
        &mut all,
        "attach with",
        false,
        attach::cases::omitted(false),
    );
    all
}

fn add<M>(all: &mut Vec<Case>, of: &str, is_whole: bool, worlds: Vec<World<M>>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    all.extend(worlds.into_iter().map(|world| Case {
        name: format!("{of}: {}", world.name),
        is_whole,
        is_large: world.is_large,
        explore: Box::new(move || explore(world.protocol, is_whole)),
    }));
}

fn explore<M>(model: M, is_whole: bool) -> (usize, Option<Counterexample>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut found = checker.discoveries();
    let properties = checker.model().properties().into_iter();
    let mut properties = properties.map(|property| (property.name, property.expectation));
    let broken = properties.find_map(|(name, expectation)| {
        let path = found.remove(name);
        if expectation.discovery_is_failure() {
            let steps = path?.into_actions();
            let steps = steps.iter().map(|step| format!("{step:?}"));
            Some((name, steps.collect()))
        } else {
            (path.is_none() && is_whole).then(|| (name, vec!["it never happens".to_owned()]))
        }
    });
    (checker.unique_state_count(), broken)
}
