//! What can happen next.

use crate::pass::Reconciler;
use crate::redis::{Admission, Redis};
use crate::state::{InHand, State};
use crate::{PEOPLE, Person, Protocol, Wrong};

/// One atomic step of somebody, or a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A person asks, for the first time or again.
    Ask(Person),
    /// A message gets to the topic or not, and its person gets an answer or not.
    Publish {
        /// Which of those on their way.
        at: usize,
        /// It is on the topic.
        arrives: bool,
        /// Their person is told `accepted`.
        answered: bool,
    },
    /// The consumer takes the next message.
    Fetch,
    /// It writes the row, or keeps the claim in the backup table.
    WriteRow,
    /// It commits the offset.
    Commit,
    /// A process that has read the generation long ago loads the drop, at last.
    LoadLate,
    /// A reconciler begins a pass: the licence, the clock, the topic's unread tail.
    Begin(usize),
    /// It looks at Redis, rows and the backup table, and plans.
    Look(usize),
    /// It carries out the next of its repairs.
    Repair(usize),
    /// Fault: the consumer dies.
    ConsumerDies,
    /// Fault: a reconciler dies.
    ReconcilerDies(usize),
    /// Fault: a message is delivered again.
    Repeat,
    /// Redis's data are copied.
    Copy,
    /// Fault: Redis comes back with the copy.
    GoBack,
    /// Fault: Redis restarts.
    Restart,
    /// Fault: Redis is emptied.
    Flush,
}

/// All that can happen now.
pub fn possible(protocol: &Protocol, state: &State, steps: &mut Vec<Step>) {
    people(state, steps);
    consumer(protocol, state, steps);
    for (at, reconciler) in state.reconcilers.iter().enumerate() {
        // Those that are idle are alike: one of them is enough.
        let first = at == 0 || state.reconcilers[at - 1] != *reconciler;
        match reconciler {
            Reconciler::Idle if first && state.may_begin(protocol) => steps.push(Step::Begin(at)),
            Reconciler::Idle => {}
            Reconciler::Begun(_) => steps.push(Step::Look(at)),
            Reconciler::Repairing { .. } => steps.push(Step::Repair(at)),
        }
        if *reconciler != Reconciler::Idle && state.faults.crashes > 0 {
            steps.push(Step::ReconcilerDies(at));
        }
    }
    redis(state, steps);
}

fn people(state: &State, steps: &mut Vec<Step>) {
    // People are alike too: the next newcomer is always the one with the lowest number.
    let known = (0..PEOPLE).filter(|p| state.admitted.iter().any(|(person, _)| usize::from(*person) == *p)).count();
    steps.extend((0_u8..).take(PEOPLE.min(known + 1)).map(Step::Ask));
    for at in 0..state.publishing.len() {
        steps.push(Step::Publish { at, arrives: true, answered: true });
        if state.faults.lost > 0 {
            steps.push(Step::Publish { at, arrives: false, answered: true });
        }
        if state.faults.crashes > 0 {
            steps.extend([true, false].map(|arrives| Step::Publish { at, arrives, answered: false }));
        }
    }
}

fn consumer(protocol: &Protocol, state: &State, steps: &mut Vec<Step>) {
    match state.in_hand {
        None if usize::from(state.committed) < state.topic.len() => steps.push(Step::Fetch),
        None => {}
        Some(InHand { half_done, .. }) if half_done == protocol.is(Wrong::CommitFirst) => steps.push(Step::WriteRow),
        Some(_) => steps.push(Step::Commit),
    }
    if state.in_hand.is_some() && state.faults.crashes > 0 {
        steps.push(Step::ConsumerDies);
    }
    if state.committed > 0 && state.faults.repeats > 0 {
        steps.push(Step::Repeat);
    }
}

fn redis(state: &State, steps: &mut Vec<Step>) {
    let faults = state.faults;
    let conditions = [
        (Step::LoadLate, state.loader.is_some()),
        (Step::Copy, faults.gone_back > 0 && state.copy.is_none()),
        (Step::GoBack, faults.gone_back > 0 && state.copy.is_some_and(|copy| copy != state.redis)),
        (Step::Restart, faults.restarts > 0),
        (Step::Flush, faults.flushes > 0),
    ];
    steps.extend(conditions.into_iter().filter(|(_, can)| *can).map(|(step, _)| step));
}

/// Makes it happen.
pub fn take(protocol: &Protocol, state: &mut State, step: Step) {
    match step {
        Step::Ask(person) => ask(state, person),
        Step::Publish { at, arrives, answered } => publish(state, at, arrives, answered),
        Step::Fetch => state.in_hand = Some(InHand { offset: state.committed, half_done: false }),
        Step::WriteRow => {
            write_row(state);
            half(state, protocol.is(Wrong::CommitFirst));
        }
        Step::Commit => {
            state.committed = state.in_hand.map_or(state.committed, |hand| hand.offset + 1);
            half(state, !protocol.is(Wrong::CommitFirst));
        }
        Step::LoadLate => {
            if let Some(generation) = state.loader.take() {
                state.redis.load(generation, !protocol.is(Wrong::LoadUnchecked));
            }
        }
        Step::Begin(at) => state.begin(at),
        Step::Look(at) => state.look(protocol, at),
        Step::Repair(at) => state.repair(at),
        fault => happen(protocol, state, fault),
    }
}

fn happen(protocol: &Protocol, state: &mut State, fault: Step) {
    let faults = &mut state.faults;
    match fault {
        Step::ConsumerDies => {
            faults.crashes -= 1;
            state.in_hand = None;
        }
        Step::ReconcilerDies(at) => {
            faults.crashes -= 1;
            state.reconcilers[at] = Reconciler::Idle;
        }
        Step::Repeat => {
            faults.repeats -= 1;
            state.committed -= 1;
            state.in_hand = None;
        }
        Step::Copy => state.copy = Some(state.redis),
        Step::GoBack => {
            faults.gone_back -= 1;
            state.redis = state.copy.take().unwrap_or_default();
            state.licence &= protocol.is(Wrong::LicenceKept);
            state.process += 1;
        }
        Step::Restart => {
            faults.restarts -= 1;
            state.licence = false;
            state.process += 1;
        }
        Step::Flush => {
            faults.flushes -= 1;
            state.redis = Redis::default();
        }
        _ => {}
    }
}

pub(crate) fn ask(state: &mut State, person: Person) {
    if !state.licence {
        return;
    }
    match state.redis.claim(person) {
        Admission::Accepted(slot) => {
            state.admitted_blindly |= state.belongs_to_another((person, slot));
            state.publishing.push((person, slot));
            state.admitted.push((person, slot));
        }
        Admission::Already(slot) => state.promises.push((person, slot)),
        Admission::Refused => {}
    }
}

pub(crate) fn publish(state: &mut State, at: usize, arrives: bool, answered: bool) {
    let claim = state.publishing.remove(at);
    if arrives {
        state.topic.push(claim);
    } else if answered {
        state.faults.lost -= 1;
    }
    if answered {
        state.promises.push(claim);
    } else {
        state.faults.crashes -= 1;
    }
}

pub(crate) fn write_row(state: &mut State) {
    let Some(hand) = state.in_hand else { return };
    let claim = state.topic[usize::from(hand.offset)];
    if !state.insert(claim) {
        state.failed.push(claim);
    }
}

fn half(state: &mut State, last: bool) {
    state.in_hand = state.in_hand.filter(|_| !last).map(|hand| InHand { half_done: true, ..hand });
}
