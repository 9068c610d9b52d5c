//! Models of the protocol whose states are explored exhaustively. Mechanisms that do not interact
//! have separate models, so that each is small:
//!
//! - [`claims`]: a claim from Redis to its row, passes, and faults of every store.
//! - [`gate`]: which coupons are open after which loss of Redis.
//! - [`revisions`]: operators, passes and rebuilds that write a coupon's settings.
//! - [`revoking`]: a claim that is revoked, and the next holder of its slot.
//! - [`sealing`]: claims on a drop that is sealed.
//!
//! Each model has protocols with one rule left out. Each of those must be caught; otherwise the
//! model would prove nothing. `sold_out` answers have no lease and are not modelled: Redis computes
//! each of them (docs/decisions/0010-micro-batches.md).

pub mod claims;
pub mod gate;
pub mod revisions;
pub mod revoking;
pub mod sealing;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

/// A violated property, and the shortest history that violates it.
pub type Counterexample = (&'static str, Vec<String>);

/// A protocol to explore.
pub struct Case {
    /// `claims: …`
    pub name: String,
    /// Whether the protocol has all its rules.
    pub is_right: bool,
    explore: Box<dyn FnOnce() -> (usize, Option<Counterexample>)>,
}

impl Case {
    /// Returns the number of states, and a violation in one of them.
    pub fn explore(self) -> (usize, Option<Counterexample>) {
        (self.explore)()
    }
}

/// Returns all protocols.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    add(&mut all, "claims", true, claims::cases::right());
    add(&mut all, "claims", false, claims::cases::wrong());
    add(&mut all, "gate", true, gate::cases::right());
    add(&mut all, "gate", false, gate::cases::wrong());
    add(&mut all, "revisions", true, revisions::right());
    add(&mut all, "revisions", false, revisions::wrong());
    add(&mut all, "revoking", true, revoking::right());
    add(&mut all, "revoking", false, revoking::wrong());
    add(&mut all, "sealing", true, sealing::right());
    add(&mut all, "sealing", false, sealing::wrong());
    all
}

fn add<N: Debug, M>(all: &mut Vec<Case>, of: &str, is_right: bool, cases: Vec<(N, M)>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    all.extend(cases.into_iter().map(|(name, model)| Case {
        name: format!("{of}: {name:?}"),
        is_right,
        explore: Box::new(move || explore(model, is_right)),
    }));
}

fn explore<M>(model: M, is_right: bool) -> (usize, Option<Counterexample>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .threads(2)
        .spawn_bfs()
        .join();
    let mut found = checker.discoveries();
    let mut properties = checker
        .model()
        .properties()
        .into_iter()
        .map(|property| (property.name, property.expectation));
    let broken = properties.find_map(|(name, expectation)| {
        let path = found.remove(name);
        if expectation.discovery_is_failure() {
            Some((
                name,
                path?
                    .into_actions()
                    .iter()
                    .map(|step| format!("{step:?}"))
                    .collect(),
            ))
        } else {
            (path.is_none() && is_right).then(|| (name, vec!["it never happens".to_owned()]))
        }
    });
    (checker.unique_state_count(), broken)
}
