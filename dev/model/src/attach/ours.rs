//! The reconciler: looks, and rounds over the queue (`in_flight`; for each stage, its end is read,
//! the messages before that end must pass, `in_flight` again), after which a pass writes rows.

use super::theirs::is_refused;
use super::{Claim, Commit, Harm, Key, Omitted, Phase, Protocol, State, Step, to_i8};

/// What the process remembers about a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Known {
    #[default]
    Never,
    /// Without a row since it arrived.
    New,
    /// Without a row when the process began, or again.
    Old,
    WithRow,
}

/// A condition that a round waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Wait {
    InFlight,
    /// The messages that were in this stage when its end was read.
    Stage(u8, IsPassed),
    /// The messages that were in both stages when their ends were read at the same time.
    BothStages(IsPassed),
}

/// The phase from which on a message has passed its stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum IsPassed {
    Handled,
    Written,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Round {
    Waiting {
        done: u8,
        wait: Wait,
    },
    /// No pass has looked since the last wait.
    Over,
    /// A pass after the round.
    Pass {
        /// No reason to ask holds for the whole block.
        is_clear: bool,
        /// The checks have run in a transaction of this pass.
        is_proved: bool,
    },
}

impl Wait {
    fn is_over(self, last: Phase, now: Phase) -> bool {
        match self {
            // A consumer writes column and row within `in_flight`.
            Self::InFlight => {
                last != now && !matches!((last, now), (Phase::Handled(_), Phase::Counted(_)))
            }
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

impl Round {
    pub(super) fn still_waits(&self, last: Phase, now: Phase) -> bool {
        matches!(self, Self::Waiting { wait, .. } if !wait.is_over(last, now))
    }
}

/// Returns the waits of a round.
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
    if protocol.omits(Omitted::QueueWritten) {
        return waits;
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

/// Whether `issued` selects a row of this user.
fn has_row(protocol: &Protocol, claim: &Claim) -> bool {
    let is_cancelled = claim.cancelled > 0 && !protocol.omits(Omitted::AllRowsSelected);
    claim.rows() > 0 || is_cancelled
}

fn is_unissued(protocol: &Protocol, claim: &Claim) -> bool {
    claim.is_member && !has_row(protocol, claim)
}

/// Rows that count, and promises without a row.
fn owed(protocol: &Protocol, state: &State) -> i8 {
    let unissued = |claim: &&Claim| is_unissued(protocol, claim);
    state.rows() + to_i8(state.claims.iter().filter(unissued).count())
}

/// Whether nothing about the whole block is a reason to ask.
fn is_clear(protocol: &Protocol, state: &State) -> bool {
    let keeps = |rule: Omitted, holds: bool| holds || protocol.omits(rule);
    let stock = protocol.system.stock.cast_signed();
    let claims = || state.claims.iter();
    let owed = owed(protocol, state);
    let agrees = !protocol.system.count || state.left.clamp(0, stock) == (stock - owed).max(0);
    let is_stranger = |claim: &Claim| claim.rows() > 0 && !claim.is_member;
    let has_strangers = state.strangers > 0 || claims().any(is_stranger);
    keeps(Omitted::CounterAgrees, agrees)
        && keeps(Omitted::OwedWithinQuantity, owed <= stock)
        && keeps(Omitted::NoStrangers, !has_strangers)
        && keeps(Omitted::NoVanished, !state.has_vanished)
        && keeps(Omitted::CheckBefore, check_is_silent(protocol, state))
        && claims().all(|claim| claim.rows() < 2)
        && is_proven(protocol, state)
}

fn check_is_silent(protocol: &Protocol, state: &State) -> bool {
    !protocol.has_column() || state.column == state.rows()
}

/// The probe: `issue` for users with rows of theirs is refused.
fn is_proven(protocol: &Protocol, state: &State) -> bool {
    let mut theirs = state.claims.iter().filter(|claim| claim.theirs > 0);
    if protocol.omits(Omitted::ProbeTheirRow) {
        // The same user twice: a key on a value that `issue` makes from the user refuses this.
        return theirs.next().is_some() && protocol.system.key != Key::None;
    }
    theirs
        .next()
        .is_some_and(|claim| is_refused(protocol.system.key, claim))
}

pub(super) fn steps(state: &State, steps: &mut Vec<Step>) {
    steps.push(Step::Look);
    match &state.round {
        None => {}
        Some(Round::Waiting { .. }) => {
            let is_awaited = state.claims.iter().any(|claim| claim.is_awaited);
            steps.extend((!is_awaited).then_some(Step::WaitEnds));
        }
        Some(Round::Over) => steps.push(Step::RoundEnds),
        Some(Round::Pass { is_clear, .. }) => {
            steps.push(Step::RoundEnds);
            for (at, claim) in state.claims.iter().enumerate() {
                if *is_clear && claim.is_open && !state.claims[..at].contains(claim) {
                    steps.push(Step::Insert(at));
                }
            }
        }
    }
}

/// Reads both stores. Without a round, begins one if a user lacks a row; after one, begins a pass.
pub(super) fn look(protocol: &Protocol, state: &mut State) {
    let has_looked = state.has_looked;
    let begins = state.round.is_none();
    for claim in &mut state.claims {
        let is_unissued = is_unissued(protocol, claim);
        state.has_vanished |= is_unissued && claim.known == Known::WithRow;
        claim.known = match claim.known {
            _ if has_row(protocol, claim) => Known::WithRow,
            Known::Never if is_unissued && has_looked => Known::New,
            Known::Never if is_unissued => Known::Old,
            Known::New if !is_unissued => Known::Old,
            known => known,
        };
        claim.is_open = is_unissued && (begins || claim.is_open);
    }
    state.has_looked = true;
    state.round = match state.round.take() {
        None if state.claims.iter().any(|claim| claim.is_open) => {
            Some(begin_wait(protocol, state, 0))
        }
        Some(Round::Over | Round::Pass { .. }) => Some(Round::Pass {
            is_clear: is_clear(protocol, state),
            is_proved: false,
        }),
        waiting => waiting,
    };
}

fn begin_wait(protocol: &Protocol, state: &mut State, done: u8) -> Round {
    let next = waits(protocol).get(usize::from(done)).copied();
    for claim in &mut state.claims {
        claim.is_awaited = next.is_some_and(|wait| wait.begins_with(claim.phase));
    }
    next.map_or(Round::Over, |wait| Round::Waiting { done, wait })
}

pub(super) fn end_wait(protocol: &Protocol, state: &mut State) {
    if let Some(Round::Waiting { done, .. }) = state.round {
        state.round = Some(begin_wait(protocol, state, done + 1));
    }
}

/// Whether a transaction commits a row for this user, as far as the columns do not matter.
fn may_insert(protocol: &Protocol, state: &State, claim: &Claim) -> bool {
    let keeps = |rule: Omitted, holds: bool| holds || protocol.omits(rule);
    let is_within = owed(protocol, state) <= protocol.system.stock.cast_signed();
    let closes = if is_open_event(claim) && protocol.system.resolves_all {
        state.claims.iter().filter(|it| is_open_event(it)).count()
    } else {
        1
    };
    keeps(Omitted::NewOnly, claim.known == Known::New)
        && keeps(Omitted::StillPromised, claim.is_member)
        && keeps(Omitted::OwedWithinQuantity, is_within)
        && keeps(Omitted::OneRowEach, closes == 1)
        && !has_row(protocol, claim)
        && !is_refused(protocol.system.key, claim)
}

fn is_open_event(claim: &Claim) -> bool {
    claim.phase == Phase::Failed && !claim.is_resolved
}

/// Writes a row, unless the transaction sees a reason to roll back. What concerns the whole block
/// was decided by the look.
pub(super) fn insert(protocol: &Protocol, state: &mut State, at: usize) {
    let claim = state.claims[at];
    state.claims[at].is_open = false;
    let Some(Round::Pass { is_proved, .. }) = state.round else {
        return;
    };
    let column = state.column + protocol.insert_moves();
    let is_silent = !protocol.has_column() || column == state.rows() + 1;
    let is_quiet = is_proved
        || (check_is_silent(protocol, state) || protocol.omits(Omitted::CheckBefore))
            && (is_silent || protocol.omits(Omitted::CheckInside));
    if !is_quiet || !may_insert(protocol, state, &claim) {
        return;
    }
    state.harm = state.harm.or(harm(protocol, state, at));
    if is_open_event(&claim) {
        let resolves_all = protocol.system.resolves_all;
        for (other, claim) in state.claims.iter_mut().enumerate() {
            claim.is_resolved |= claim.phase == Phase::Failed && (resolves_all || other == at);
        }
    }
    state.claims[at].ours += 1;
    state.claims[at].known = Known::WithRow;
    state.column = column;
    state.round = Some(Round::Pass {
        is_clear: true,
        is_proved: true,
    });
}

/// Whether a pass after a round would write a row.
pub(super) fn owes(protocol: &Protocol, state: &State) -> bool {
    let mut claims = state.claims.iter();
    is_clear(protocol, state) && claims.any(|claim| may_insert(protocol, state, claim))
}

/// What is wrong with a row for this claim.
fn harm(protocol: &Protocol, state: &State, at: usize) -> Option<Harm> {
    let claim = &state.claims[at];
    let is_coming = |(other, it): &(usize, &Claim)| {
        *other != at && it.is_member && it.phase.is_moving() && it.rows() == 0
    };
    let coming = state.claims.iter().enumerate().filter(is_coming).count();
    let open = state.claims.iter().filter(|it| is_open_event(it)).count();
    if !claim.is_member {
        Some(Harm::HasLeft)
    } else if claim.phase == Phase::Refused {
        Some(Harm::WasRefused)
    } else if claim.had_row {
        Some(Harm::HadRow)
    } else if state.rows() + to_i8(coming) >= protocol.system.stock.cast_signed() {
        Some(Harm::BeyondQuantity)
    } else if is_open_event(claim) && protocol.system.resolves_all && open > 1 {
        Some(Harm::OtherEvent)
    } else {
        None
    }
}

pub(super) fn end(state: &mut State) {
    state.round = None;
    for claim in &mut state.claims {
        claim.is_open = false;
        claim.is_awaited = false;
    }
}

pub(super) fn restart(state: &mut State) {
    end(state);
    state.has_looked = false;
    state.has_vanished = false;
    for claim in &mut state.claims {
        claim.known = Known::Never;
    }
}

/// Ends the current round, or runs a whole one, while nothing else happens.
pub(super) fn run_to_rest(protocol: &Protocol, state: &mut State) {
    look(protocol, state);
    while matches!(state.round, Some(Round::Waiting { .. })) {
        end_wait(protocol, state);
    }
    look(protocol, state);
    for at in 0..state.claims.len() {
        if matches!(state.round, Some(Round::Pass { is_clear: true, .. }))
            && state.claims[at].is_open
        {
            insert(protocol, state, at);
        }
    }
    end(state);
}
