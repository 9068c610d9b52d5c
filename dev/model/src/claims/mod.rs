//! The claims of a drop, from Redis to their rows: two slots, three users, and any fault at any
//! time. The gate is one bit here; [`super::gate`] models its mechanism.
//!
//! - [`redis`]: the scripts, one atomic step each.
//! - [`state`]: the whole state: Redis, topic, consumer, rows, reconcilers, and the promises.
//! - [`step`]: the possible steps, including faults.
//! - [`pass`]: how a reconciler reads, plans and repairs.
//! - [`cases`]: the explored protocols.
//! - [`heal`]: the same system once the faults are over. It must become exact from every state.
//!
//! [`Wrong`] lists protocols with one rule left out. Each must be caught; otherwise the model would
//! prove nothing.

pub mod cases;
pub mod heal;
pub mod pass;
pub mod redis;
pub mod state;
pub mod step;

use stateright::{Model, Property};

pub use state::State;
pub use step::Step;

/// Number of users, one more than the number of slots.
pub const PEOPLE: usize = 3;
pub const SLOTS: u8 = 2;

pub type Person = u8;
/// A slot, from 1; 0 means none.
pub type Slot = u8;

/// How often each fault may happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// An API process, the consumer or a reconciler dies between two of its steps.
    pub crashes: u8,
    /// A position moves back, so that a message is read again.
    pub repeats: u8,
    /// A message is not acknowledged in time. It may still reach the topic, and the dead-letter
    /// table either stores the claim or is also unavailable.
    pub lost: u8,
    /// Redis restarts with all its data.
    pub restarts: u8,
    /// Redis restarts with older data.
    pub gone_back: u8,
    /// Redis is flushed in the same process, so its script cache remains.
    pub flushes: u8,
    /// MySQL returns with older data while no reconciler runs.
    pub restored: u8,
    /// An external client commits the end of the topic to Kafka.
    pub moved: u8,
}

/// A rule that a wrong protocol leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Redis keeps the gate open when it goes back in time.
    GateKept,
    /// A reconciler rebuilds a lost Redis immediately, while messages are still in flight to the
    /// topic.
    NoWait,
    /// A reconciler reads the era when it reads the drop, not before it waits and reads the topic.
    /// After a loss during the pass, it rebuilds the drop from a tail that is older than the loss.
    EraReadLate,
    /// A pass continues with another Redis process than the one that it has read, and opens
    /// admission there.
    ConnectionComesBack,
    /// The consumer moves the position before it writes the rows.
    PositionFirst,
    /// The position moves over messages that the consumer has not written.
    OverGap,
    /// Reading begins at the offset committed to Kafka, not at the position in MySQL.
    OffsetInKafka,
    /// A drop is loaded without checking the era.
    LoadUnchecked,
    /// A lost drop is loaded and settled before its users are restored.
    SettleFirst,
    /// A lost drop is loaded before the users in the dead-letter table are restored.
    BackupLate,
    /// A user gets `accepted` although neither topic nor dead-letter table holds the claim.
    ToldUnheld,
    /// A retry gets `already_claimed` without verifying that the topic or the dead-letter table
    /// holds the claim.
    RetryToldUnheld,
}

/// A protocol and the faults that it must survive.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub faults: Faults,
    pub reconcilers: usize,
    /// A rule left out.
    pub wrong: Option<Wrong>,
}

impl Protocol {
    /// Whether this protocol leaves out the rule.
    pub fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }
}

/// No user gets a slot that is promised to another user, issued to another user, or in another
/// user's message on the topic.
pub const NEVER_UNVERIFIED: &str = "no admission while Redis lacks what it promised";
/// Each slot is promised to one user, and each user is promised one slot, unless the first promise
/// is listed as broken.
pub const ONE_EACH: &str = "one slot a person, one person a slot";
/// Every row belongs to a user whom Redis has admitted, and each user has at most one row.
pub const ROWS_ADMITTED: &str = "only admitted people have rows, one each";
/// Every promise is on the topic, in the dead-letter table, or in a row, whatever data Redis loses.
pub const HELD_TWICE: &str = "a second store besides Redis holds every promise";
/// Without further faults, every promise gets its row, and every slot is issued.
pub const HEALS: &str = "left alone, it becomes exact";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::open(self)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        step::possible(self, state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        step::take(self, &mut next, step);
        next.tidy();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_UNVERIFIED, |_, state: &State| !state.admitted_blindly),
            Property::always(ONE_EACH, |_, state: &State| state.promises_agree()),
            Property::always(ROWS_ADMITTED, |_, state: &State| state.rows_are_admitted()),
            Property::always(HELD_TWICE, |_, state: &State| state.promises_are_held()),
            Property::always(HEALS, heal::becomes_exact),
            Property::sometimes("everything is issued", |_, state: &State| {
                state.rows.iter().all(Option::is_some)
            }),
        ]
    }
}
