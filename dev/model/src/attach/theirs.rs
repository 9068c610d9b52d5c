//! Their API, producer, consumers and operators.

use super::ours::Known;
use super::{Claim, Column, Commit, Event, Key, Phase, Protocol, State, Step};

pub(super) fn steps(protocol: &Protocol, state: &State, steps: &mut Vec<Step>) {
    let mut events = state.events.clone();
    events.dedup();
    for (at, claim) in state.claims.iter().enumerate() {
        if state.claims[..at].contains(claim) {
            continue;
        }
        let is_next = claim.phase == Phase::ToCome || claim.phase.is_bounded();
        if is_next || matches!(claim.phase, Phase::InTopic(_)) {
            steps.push(Step::Claim(at));
        }
        if protocol.system.retries && claim.phase == Phase::Handled(0) {
            steps.push(Step::Retry(at));
        }
        let happens = events.iter().filter(|event| may_happen(**event, claim));
        steps.extend(happens.map(|event| Step::Happens(*event, at)));
    }
    let is_general = |event: &&Event| match event {
        Event::CounterRises => state.left < protocol.system.stock.cast_signed(),
        // If no row was seen, a user whose row comes and goes between two looks seems new.
        Event::Purge => {
            let mut gone = state.claims.iter().filter(|claim| claim.theirs > 0);
            gone.any(|claim| claim.known == Known::WithRow || !state.has_looked)
        }
        Event::Restart => true,
        _ => false,
    };
    let general = events.iter().filter(is_general);
    steps.extend(general.map(|event| Step::Happens(*event, 0)));
}

fn may_happen(event: Event, claim: &Claim) -> bool {
    let is_done = matches!(claim.phase, Phase::Written | Phase::Lost);
    match event {
        Event::LoseMessage => claim.phase == Phase::Buffered,
        Event::LoseHandled | Event::Fail | Event::Refuse => {
            matches!(claim.phase, Phase::Handled(_))
        }
        Event::LoseCounted => matches!(claim.phase, Phase::Counted(_)),
        Event::MemberLost => claim.is_member,
        Event::GiveBack => claim.is_member && is_done,
        Event::Cancel | Event::Transfer => claim.is_member && is_done && claim.rows() > 0,
        Event::CounterRises | Event::Purge | Event::Restart => false,
    }
}

/// Moves a claim to a phase, and updates whether the round still waits for it.
pub(super) fn move_to(state: &mut State, at: usize, phase: Phase) {
    let claim = &mut state.claims[at];
    let last = std::mem::replace(&mut claim.phase, phase);
    if let Some(round) = &state.round {
        claim.is_awaited &= round.still_waits(last, phase);
    }
}

/// Takes the next step of a claim without faults.
pub(super) fn go_on(protocol: &Protocol, state: &mut State, at: usize) {
    let next = match state.claims[at].phase {
        Phase::ToCome if state.left > 0 => {
            state.left -= 1;
            state.claims[at].is_member = true;
            Phase::Buffered
        }
        Phase::ToCome => Phase::SoldOut,
        Phase::Buffered => Phase::InTopic(0),
        Phase::InTopic(stage) => Phase::Handled(stage),
        Phase::Handled(stage) if protocol.system.column == Column::TransactionBefore => {
            state.column += 1;
            Phase::Counted(stage)
        }
        Phase::Handled(_) | Phase::Counted(_) => write(protocol, state, at),
        Phase::Leaving => {
            let claim = &mut state.claims[at];
            (claim.theirs, claim.ours) = (0, 0);
            Phase::GivenBack
        }
        done => done,
    };
    move_to(state, at, next);
}

pub(super) fn is_refused(key: Key, claim: &Claim) -> bool {
    match key {
        Key::AllRows => claim.rows() + claim.cancelled > 0,
        Key::LiveRows => claim.rows() > 0,
        Key::Request | Key::None => false,
    }
}

fn write(protocol: &Protocol, state: &mut State, at: usize) -> Phase {
    let claim = &mut state.claims[at];
    let was_counted = matches!(claim.phase, Phase::Counted(_));
    if is_refused(protocol.system.key, claim) {
        if protocol.system.compensates {
            claim.is_member = false;
            state.left += 1;
            return Phase::GivenBack;
        }
        return Phase::Written;
    }
    claim.theirs += 1;
    if protocol.has_column() && !was_counted {
        state.column += 1;
    }
    Phase::Written
}

pub(super) fn happen(protocol: &Protocol, state: &mut State, event: Event, at: usize) {
    let used = state.events.iter().position(|it| *it == event);
    used.map(|used| state.events.remove(used));
    let before_row = protocol.system.commit == Commit::BeforeRow;
    let phase = state.claims[at].phase;
    let claim = &mut state.claims[at];
    let next = match (event, phase) {
        (Event::LoseHandled, Phase::Handled(stage)) if !before_row => Phase::InTopic(stage),
        (Event::LoseCounted, Phase::Counted(stage)) => {
            state.column_off += 1;
            if before_row {
                Phase::Lost
            } else {
                Phase::InTopic(stage)
            }
        }
        (Event::LoseMessage | Event::LoseHandled, _) => Phase::Lost,
        (Event::Fail, _) => Phase::Failed,
        (Event::Refuse, _) => {
            state.left += 1;
            Phase::Refused
        }
        (Event::GiveBack, _) => {
            claim.is_member = false;
            state.left += 1;
            Phase::Leaving
        }
        (Event::MemberLost, phase) => {
            claim.is_member = false;
            state.left += 1;
            state.most += 1;
            phase
        }
        (Event::Cancel, phase) => {
            claim.cancelled += claim.rows();
            (claim.theirs, claim.ours, claim.had_row) = (0, 0, true);
            state.left += 1;
            phase
        }
        (Event::Transfer, phase) => {
            state.strangers += claim.rows();
            (claim.theirs, claim.ours, claim.had_row) = (0, 0, true);
            phase
        }
        (Event::CounterRises, phase) => {
            state.left += 1;
            state.most += 1;
            phase
        }
        (Event::Purge, phase) => {
            for claim in &mut state.claims {
                claim.had_row |= claim.rows() > 0;
                (claim.theirs, claim.ours) = (0, 0);
            }
            phase
        }
        (Event::Restart, phase) => {
            super::ours::restart(state);
            phase
        }
        (Event::LoseCounted, phase) => phase,
    };
    move_to(state, at, next);
}

/// Completes all claims that have begun.
pub(super) fn run_to_rest(protocol: &Protocol, state: &mut State) {
    for at in 0..state.claims.len() {
        while state.claims[at].phase.is_moving() || state.claims[at].phase.is_bounded() {
            go_on(protocol, state, at);
        }
    }
}
