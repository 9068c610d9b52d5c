//! The possible steps.

use super::redis::{Admission, Redis};
use super::state::{Reconciler, State};
use super::{PEOPLE, Person, Protocol, Wrong};

/// An atomic step of a participant, or a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A user claims, for the first time or again.
    Ask(Person),
    /// A claim in flight to a second store ends.
    Publish {
        /// Whether it is one of the claims that are published again.
        again: bool,
        /// Its index among the claims in flight.
        at: usize,
        /// Its outcome.
        end: End,
    },
    /// The consumer takes the next message.
    Fetch,
    /// The consumer writes the row, or stores the claim in the dead-letter table, and moves the
    /// position.
    Write,
    /// A process that read the era earlier loads the drop.
    LoadLate,
    /// A reconciler begins a pass: reads the gate, the clock and the topic's unread tail.
    Begin(usize),
    /// The reconciler reads Redis, rows and the dead-letter table, and plans.
    Look(usize),
    /// The reconciler carries out its next repair.
    Repair(usize),
    /// Fault: the consumer dies.
    ConsumerDies,
    /// Fault: a reconciler dies.
    ReconcilerDies(usize),
    /// Fault: a message is delivered again.
    Repeat,
    /// Redis's data is copied.
    Copy,
    /// Fault: Redis returns with the copy.
    GoBack,
    Restart,
    /// Fault: Redis is flushed.
    Flush,
    /// MySQL's data is copied.
    Dump,
    /// Fault: MySQL returns with the copy.
    Restore,
    /// Fault: an external client commits the end of the topic to Kafka.
    MoveOffset,
}

/// The outcome of a claim in flight to a second store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Kafka acknowledges it, and the user gets a promise.
    Acknowledged,
    /// Fault: no acknowledgement in time, whether the message arrives or not. The dead-letter table
    /// stores the claim, and the user gets a promise.
    Kept {
        /// Whether the message still reaches the topic.
        arrives: bool,
    },
    /// Fault: the dead-letter table is unavailable as well, and the user is asked to retry.
    Unheld {
        /// Whether the message still reaches the topic.
        arrives: bool,
    },
    /// Fault: the process dies, and the user gets no response.
    Dies {
        /// Whether the message reaches the topic.
        arrives: bool,
        /// Whether the claim reaches the dead-letter table.
        kept: bool,
    },
}

/// All steps that are possible now.
pub fn possible(protocol: &Protocol, state: &State, steps: &mut Vec<Step>) {
    people(state, steps);
    consumer(state, steps);
    for (at, reconciler) in state.reconcilers.iter().enumerate() {
        // Idle reconcilers are interchangeable, so one of them is enough.
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
    mysql(state, steps);
}

fn people(state: &State, steps: &mut Vec<Step>) {
    // Users are interchangeable as well: the next new user always has the lowest number.
    let known = (0..PEOPLE)
        .filter(|p| {
            state
                .admitted
                .iter()
                .any(|(person, _)| usize::from(*person) == *p)
        })
        .count();
    steps.extend((0_u8..).take(PEOPLE.min(known + 1)).map(Step::Ask));
    let mut ends = vec![End::Acknowledged];
    if state.faults.lost > 0 {
        ends.extend([true, false].map(|arrives| End::Kept { arrives }));
        ends.extend([true, false].map(|arrives| End::Unheld { arrives }));
    }
    if state.faults.crashes > 0 {
        let deaths = [(false, false), (true, false), (false, true)];
        ends.extend(deaths.map(|(arrives, kept)| End::Dies { arrives, kept }));
    }
    for (again, number) in [(false, state.publishing.len()), (true, state.again.len())] {
        for at in 0..number {
            steps.extend(ends.iter().map(|end| Step::Publish {
                again,
                at,
                end: *end,
            }));
        }
    }
}

fn consumer(state: &State, steps: &mut Vec<Step>) {
    if state.in_hand.is_some() {
        steps.push(Step::Write);
    } else if !state.tail().is_empty() {
        steps.push(Step::Fetch);
    }
    if state.in_hand.is_some() && state.faults.crashes > 0 {
        steps.push(Step::ConsumerDies);
    }
    if state.position > 0 && state.faults.repeats > 0 {
        steps.push(Step::Repeat);
    }
    if state.faults.moved > 0 && !state.tail().is_empty() {
        steps.push(Step::MoveOffset);
    }
}

fn mysql(state: &State, steps: &mut Vec<Step>) {
    if state.faults.restored == 0 {
        return;
    }
    let is_idle = |it: &Reconciler| *it == Reconciler::Idle;
    match &state.dump {
        None => steps.push(Step::Dump),
        Some(dump) if *dump != state.to_dump() && state.reconcilers.iter().all(is_idle) => {
            steps.push(Step::Restore);
        }
        Some(_) => {}
    }
}

fn redis(state: &State, steps: &mut Vec<Step>) {
    let faults = state.faults;
    let conditions = [
        (Step::LoadLate, state.loader.is_some()),
        (Step::Copy, faults.gone_back > 0 && state.copy.is_none()),
        (
            Step::GoBack,
            faults.gone_back > 0 && state.copy.is_some_and(|copy| copy != state.redis),
        ),
        (Step::Restart, faults.restarts > 0),
        (Step::Flush, faults.flushes > 0),
    ];
    steps.extend(
        conditions
            .into_iter()
            .filter(|(_, can)| *can)
            .map(|(step, _)| step),
    );
}

pub fn take(protocol: &Protocol, state: &mut State, step: Step) {
    match step {
        Step::Ask(person) => ask(protocol, state, person),
        Step::Publish { again, at, end } => publish(protocol, state, again, at, end),
        Step::Fetch => {
            state.in_hand = Some(state.position);
            state.position += u8::from(protocol.is(Wrong::PositionFirst));
        }
        Step::Write => write(protocol, state),
        Step::LoadLate => {
            if let Some(era) = state.loader.take() {
                state.redis.load(era, !protocol.is(Wrong::LoadUnchecked));
            }
        }
        Step::Begin(at) => state.begin(at),
        Step::Look(at) => state.look(protocol, at),
        Step::Repair(at) => state.repair(protocol, at),
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
            state.position -= 1;
            state.in_hand = None;
        }
        Step::Copy => state.copy = Some(state.redis),
        Step::GoBack => {
            faults.gone_back -= 1;
            state.redis = state.copy.take().unwrap_or_default();
            state.gate_open &= protocol.is(Wrong::GateKept);
            state.process += 1;
        }
        Step::Restart => {
            faults.restarts -= 1;
            state.gate_open = false;
            state.process += 1;
        }
        Step::Flush => {
            faults.flushes -= 1;
            state.redis = Redis::default();
        }
        Step::Dump => state.dump = Some(state.to_dump()),
        Step::Restore => {
            faults.restored -= 1;
            if let Some(dump) = state.dump.take() {
                state.rows = dump.rows;
                state.failed = dump.failed;
                if !protocol.is(Wrong::OffsetInKafka) {
                    state.position = dump.position;
                }
            }
        }
        Step::MoveOffset => {
            faults.moved -= 1;
            if protocol.is(Wrong::OffsetInKafka) {
                state.position = u8::try_from(state.topic.len()).unwrap_or(u8::MAX);
            }
        }
        _ => {}
    }
}

pub(crate) fn ask(protocol: &Protocol, state: &mut State, person: Person) {
    if !state.gate_open {
        return;
    }
    match state.redis.claim(person) {
        Admission::Accepted(slot) => {
            state.admitted_blindly |= state.belongs_to_another(person, slot);
            state.publishing.push((person, slot));
            state.admitted.push((person, slot));
        }
        Admission::Already(slot) => {
            let claim = (person, slot);
            if state.held.contains(&claim) || protocol.is(Wrong::RetryToldUnheld) {
                state.promises.push(claim);
            } else if !state.publishing.contains(&claim) {
                state.again.push(claim);
            }
        }
        Admission::Refused => {}
    }
}

pub(crate) fn publish(protocol: &Protocol, state: &mut State, again: bool, at: usize, end: End) {
    let claim = if again {
        state.again.remove(at)
    } else {
        state.publishing.remove(at)
    };
    let (arrives, kept) = match end {
        End::Acknowledged => (true, false),
        End::Kept { arrives } => (arrives, true),
        End::Unheld { arrives } => (arrives, false),
        End::Dies { arrives, kept } => (arrives, kept),
    };
    if arrives {
        state.topic.push(claim);
    }
    if kept {
        state.failed.push(claim);
    }
    match end {
        End::Acknowledged => {}
        End::Kept { .. } | End::Unheld { .. } => state.faults.lost -= 1,
        End::Dies { .. } => state.faults.crashes -= 1,
    }
    let held = matches!(end, End::Acknowledged | End::Kept { .. });
    if held {
        state.held.push(claim);
    }
    if held || (protocol.is(Wrong::ToldUnheld) && matches!(end, End::Unheld { .. })) {
        state.promises.push(claim);
    }
}

/// Writes the row or the dead letter and moves the position, in one transaction.
fn write(protocol: &Protocol, state: &mut State) {
    let Some(offset) = state.in_hand.take() else {
        return;
    };
    let claim = state.topic[usize::from(offset)];
    if !state.insert(claim) {
        state.failed.push(claim);
    }
    if offset <= state.position || protocol.is(Wrong::OverGap) {
        state.position = state.position.max(offset + 1);
    }
}
