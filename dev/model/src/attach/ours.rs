//! A pass of the reconciler: look, `in_flight`, then for each stage of the queue (its end is read,
//! the messages before that end must pass, `in_flight` again), look, repairs.

use super::{Claim, Column, Commit, Omitted, Phase, Protocol, QUANTITY, State, Step};

/// A condition that a pass waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Wait {
    InFlight,
    /// The messages that were in this stage when its end was read.
    Stage(u8, IsPassed),
    /// The messages that were in both stages when their ends were read at the same time.
    BothStages(IsPassed),
}

/// The phase from which on a message has passed its stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum IsPassed {
    Handled,
    Written,
}

/// The numbers that are compared besides users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Numbers {
    left: i8,
    /// Users who are members or have a row.
    taken: i8,
    rows: i8,
    column: i8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    /// The number of waits that are done. They are done in order.
    Waiting(u8),
    /// After the second look.
    Repairing {
        second: Numbers,
        is_counter_done: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pass {
    first: Numbers,
    at: At,
    /// The current wait.
    wait: Option<Wait>,
}

impl Wait {
    fn is_over(self, last: Phase, now: Phase) -> bool {
        match self {
            Self::InFlight => last != now,
            Self::Stage(stage, passed) => !is_in(now, |it| it == stage, passed),
            // A message that moves from one stage to the other has passed the end of the first.
            Self::BothStages(passed) => {
                !is_in(now, |_| true, passed) || stage_of(last) != stage_of(now)
            }
        }
    }

    /// Whether a wait that begins now must wait for a claim in this phase.
    fn begins_with(self, phase: Phase) -> bool {
        match self {
            Self::InFlight => phase.is_bounded(),
            Self::Stage(stage, passed) => is_in(phase, |it| it == stage, passed),
            Self::BothStages(passed) => is_in(phase, |_| true, passed),
        }
    }
}

fn stage_of(phase: Phase) -> Option<u8> {
    match phase {
        Phase::InTopic(stage) | Phase::Handled(stage) | Phase::Counted(stage) => Some(stage),
        _ => None,
    }
}

fn is_in(phase: Phase, stages: impl Fn(u8) -> bool, passed: IsPassed) -> bool {
    match phase {
        Phase::InTopic(stage) => stages(stage),
        Phase::Handled(stage) | Phase::Counted(stage) => {
            stages(stage) && passed == IsPassed::Written
        }
        _ => false,
    }
}

impl Pass {
    pub(super) fn still_waits(&self, last: Phase, now: Phase) -> bool {
        self.wait.is_some_and(|wait| !wait.is_over(last, now))
    }
}

impl Numbers {
    fn read(state: &State) -> Self {
        let is_taken = |it: &&Claim| it.phase.is_member() || it.rows > 0;
        Self {
            left: state.left,
            taken: state.claims.iter().filter(is_taken).map(|_| 1).sum(),
            rows: state.rows(),
            column: state.column,
        }
    }
}

/// Returns the waits between the looks.
fn waits(protocol: &Protocol) -> Vec<Wait> {
    let passed = match protocol.system.commit {
        Commit::BeforeRow => IsPassed::Handled,
        Commit::AfterRow => IsPassed::Written,
    };
    let last = protocol.stages() - 1;
    let mut waits = Vec::new();
    if !protocol.omits(Omitted::EndsAfterWait) {
        waits.push(Wait::InFlight);
    }
    if protocol.omits(Omitted::StagesInOrder) {
        waits.extend([Wait::BothStages(passed), Wait::InFlight]);
        return waits;
    }
    for stage in 0..protocol.stages() {
        waits.push(Wait::Stage(stage, passed));
        let wait = if stage == last {
            Omitted::WaitAfterPassed
        } else {
            Omitted::WaitBetweenStages
        };
        if !protocol.omits(wait) {
            waits.push(Wait::InFlight);
        }
    }
    waits
}

/// Whether a look sees a difference.
fn differs(protocol: &Protocol, state: &State) -> bool {
    let numbers = Numbers::read(state);
    let has_none = |claim: &Claim| claim.phase.is_member() && claim.rows == 0;
    state.claims.iter().any(has_none)
        || state.left.max(0) != (QUANTITY - numbers.taken).max(0)
        || (protocol.has_column() && numbers.column != numbers.rows)
}

/// Marks the users without a row. A second look keeps only users that the first one marked.
fn note_unissued(state: &mut State, is_first: bool) {
    for claim in &mut state.claims {
        let is_seen = claim.phase.is_member() && claim.rows == 0;
        claim.is_unissued = is_seen && (is_first || claim.is_unissued);
    }
}

fn begin_wait(state: &mut State, wait: Option<Wait>) {
    for claim in &mut state.claims {
        claim.is_awaited = wait.is_some_and(|wait| wait.begins_with(claim.phase));
    }
}

pub(super) fn steps(protocol: &Protocol, state: &State, steps: &mut Vec<Step>) {
    let Some(pass) = &state.pass else {
        steps.extend(differs(protocol, state).then_some(Step::Pass));
        return;
    };
    steps.push(Step::PassEnds);
    let At::Repairing {
        is_counter_done, ..
    } = pass.at
    else {
        let is_awaited = state.claims.iter().any(|claim| claim.is_awaited);
        steps.extend((!is_awaited).then_some(Step::Pass));
        return;
    };
    for (at, claim) in state.claims.iter().enumerate() {
        if claim.is_unissued && !state.claims[..at].contains(claim) {
            steps.push(Step::Repair(at));
        }
    }
    steps.extend((!is_counter_done).then_some(Step::RepairCounter));
}

/// Takes the first look, ends a wait, or takes the second look.
pub(super) fn go_on(protocol: &Protocol, state: &mut State) {
    let waits = waits(protocol);
    let Some(mut pass) = state.pass.take() else {
        note_unissued(state, true);
        begin_wait(state, Some(waits[0]));
        state.pass = Some(Pass {
            first: Numbers::read(state),
            at: At::Waiting(0),
            wait: Some(waits[0]),
        });
        return;
    };
    let At::Waiting(done) = pass.at else {
        state.pass = Some(pass);
        return;
    };
    pass.wait = waits.get(usize::from(done) + 1).copied();
    begin_wait(state, pass.wait);
    pass.at = At::Waiting(done + 1);
    if pass.wait.is_none() {
        note_unissued(state, false);
        pass.at = At::Repairing {
            second: Numbers::read(state),
            is_counter_done: false,
        };
    }
    state.pass = Some(pass);
}

/// Inserts a row, if the rules allow it, under the lock of their stock row.
pub(super) fn insert(protocol: &Protocol, state: &mut State, at: usize) {
    state.claims[at].is_unissued = false;
    let rows = state.rows();
    if state.claims[at].rows > 0 || rows >= QUANTITY {
        return;
    }
    let before = state.column;
    let is_equal = before == rows;
    if protocol.has_column() && !is_equal && !is_settled(protocol, state) {
        return;
    }
    state.claims[at].rows += 1;
    if protocol.system.column == Column::Trigger {
        state.column += 1;
    }
    let may_move = is_equal || protocol.omits(Omitted::ColumnIfEqual);
    let is_moved = state.column != before && !protocol.omits(Omitted::InsertMayMove);
    if protocol.has_column() && may_move && !is_moved {
        state.column += 1;
    }
    // Later repairs of this pass must expect what it has changed itself.
    let moved = state.column - before;
    if let Some(pass) = &mut state.pass
        && let At::Repairing { second, .. } = &mut pass.at
    {
        for seen in [&mut pass.first, second] {
            seen.rows += 1;
            seen.column += moved;
        }
    }
}

/// Whether column and rows are what both looks saw, so that none of their writers is between them.
fn is_settled(protocol: &Protocol, state: &State) -> bool {
    let Some(Pass {
        first,
        at: At::Repairing { second, .. },
        ..
    }) = &state.pass
    else {
        return false;
    };
    let is_now = |seen: &Numbers| (seen.rows, seen.column) == (state.rows(), state.column);
    protocol.omits(Omitted::ColumnAtRest) || (is_now(first) && is_now(second))
}

/// Moves the counter by the difference, if the rules allow it, in one script.
pub(super) fn repair_counter(protocol: &Protocol, state: &mut State) {
    let now = state.left;
    let Some(pass) = &mut state.pass else {
        return;
    };
    let first = pass.first;
    let At::Repairing {
        second,
        is_counter_done,
    } = &mut pass.at
    else {
        return;
    };
    *is_counter_done = true;
    let second = *second;
    let is_same = first.left == second.left && second.left == now;
    let may_be_below = !protocol.system.gives_back;
    let target = QUANTITY - second.taken;
    let surplus = second.left - (QUANTITY - first.taken);
    if second.left < target
        && (is_same || protocol.omits(Omitted::SameAtBothLooks))
        && (now >= 0 || may_be_below || protocol.omits(Omitted::NotBelowZero))
    {
        state.left = if protocol.omits(Omitted::RelativeRepair) {
            target
        } else {
            now + target - second.left
        };
        state.raised = true;
    } else if surplus > 0 && now <= second.left {
        state.left = if protocol.omits(Omitted::RelativeRepair) {
            QUANTITY - first.taken
        } else {
            now - surplus
        };
        state.lowered = true;
        state.most = QUANTITY.max(state.taken());
    }
}

pub(super) fn end(state: &mut State) {
    state.pass = None;
    for claim in &mut state.claims {
        claim.is_unissued = false;
        claim.is_awaited = false;
    }
}

/// Ends the current pass, or runs a whole one, while nothing else happens.
pub(super) fn run_to_rest(protocol: &Protocol, state: &mut State) {
    while !matches!(&state.pass, Some(pass) if matches!(pass.at, At::Repairing { .. })) {
        go_on(protocol, state);
    }
    for at in 0..state.claims.len() {
        if state.claims[at].is_unissued {
            insert(protocol, state, at);
        }
    }
    repair_counter(protocol, state);
    end(state);
}
