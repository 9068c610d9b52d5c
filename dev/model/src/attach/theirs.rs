//! Their API, producer and consumers.

use super::{Claim, Column, Commit, Fault, Phase, Protocol, State, Step};

/// Whether the fault kills the process that has a claim in this phase.
fn kills(fault: Fault, phase: Phase) -> bool {
    match fault {
        Fault::Leak => phase == Phase::Took,
        Fault::LoseMessage => phase == Phase::Buffered,
        Fault::LoseHandled => matches!(phase, Phase::Handled(_)),
        Fault::LoseCounted => matches!(phase, Phase::Counted(_)),
        Fault::CounterRises => false,
    }
}

pub(super) fn steps(protocol: &Protocol, state: &State, steps: &mut Vec<Step>) {
    for (at, claim) in state.claims.iter().enumerate() {
        if state.claims[..at].contains(claim) {
            continue;
        }
        match claim.phase {
            Phase::Refused | Phase::Written | Phase::Lost => {}
            _ => steps.push(Step::Claim(at)),
        }
        if protocol.system.retries && claim.phase == Phase::Handled(0) {
            steps.push(Step::Retry(at));
        }
        let mut faults = state.faults.clone();
        faults.dedup();
        faults.retain(|fault| kills(*fault, claim.phase));
        steps.extend(faults.into_iter().map(|fault| Step::Dies(fault, at)));
    }
    if state.may(Fault::CounterRises) && state.left < super::QUANTITY {
        steps.push(Step::CounterRises);
    }
}

/// Moves a claim to a phase, and updates whether the current pass still waits for it.
pub(super) fn move_to(state: &mut State, at: usize, phase: Phase) {
    let claim = &mut state.claims[at];
    let last = std::mem::replace(&mut claim.phase, phase);
    if let Some(pass) = &state.pass {
        claim.is_awaited &= pass.still_waits(last, phase);
    }
}

/// Takes the next step of a claim without faults.
pub(super) fn go_on(protocol: &Protocol, state: &mut State, at: usize) {
    let next = match state.claims[at].phase {
        Phase::ToCome => take_one(protocol, state),
        Phase::Took => Phase::Buffered,
        Phase::TookTooMuch => {
            state.left += 1;
            Phase::Refused
        }
        Phase::Buffered => Phase::InTopic(0),
        Phase::InTopic(stage) => Phase::Handled(stage),
        Phase::Handled(stage) if protocol.system.column == Column::TransactionBefore => {
            state.column += 1;
            Phase::Counted(stage)
        }
        Phase::Handled(_) => {
            if protocol.has_column() {
                state.column += 1;
            }
            state.claims[at].rows += 1;
            Phase::Written
        }
        Phase::Counted(_) => {
            state.claims[at].rows += 1;
            Phase::Written
        }
        done @ (Phase::Refused | Phase::Written | Phase::Lost) => done,
    };
    move_to(state, at, next);
}

/// Runs `DECR`.
fn take_one(protocol: &Protocol, state: &mut State) -> Phase {
    state.left -= 1;
    if state.left >= 0 {
        Phase::Took
    } else if protocol.system.gives_back {
        Phase::TookTooMuch
    } else {
        Phase::Refused
    }
}

pub(super) fn die(protocol: &Protocol, state: &mut State, fault: Fault, at: usize) {
    state.spend(fault);
    let next = match (state.claims[at].phase, protocol.system.commit) {
        (Phase::Took, _) => Phase::Refused,
        (Phase::Handled(stage), Commit::AfterRow) => Phase::InTopic(stage),
        _ => Phase::Lost,
    };
    move_to(state, at, next);
}

pub(super) fn raise_counter(state: &mut State) {
    state.spend(Fault::CounterRises);
    state.left += 1;
    state.most += 1;
}

/// Completes all claims that have begun.
pub(super) fn run_to_rest(protocol: &Protocol, state: &mut State) {
    let is_moving =
        |claim: &Claim| claim.phase.is_bounded() || matches!(claim.phase, Phase::InTopic(_));
    for at in 0..state.claims.len() {
        while is_moving(&state.claims[at]) {
            go_on(protocol, state, at);
        }
    }
}
