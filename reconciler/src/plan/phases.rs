//! The order in which repairs are carried out: each kind of action belongs to one phase.

use firstcome_shared::redis::repair::Wanted;

use super::{Action, DropRepair, LetterEnd, Planned};
use crate::report::{ActionKind, Kind};

/// The phases of repairs, in order. Within one, the order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Settings,
    Revocations,
    /// Users go to the slots that rows, messages and claimants show, and off slots that are not
    /// theirs.
    Places,
    /// Users of dead letters go to their slots, unless a message's user has the slot.
    Letters,
    /// Slots that nobody holds are free. Earlier, they would be given to the next claims.
    Counter,
    /// Users go to any slot. Earlier, it could be another user's.
    Moves,
    /// Rows follow from the slots that users hold.
    Rows,
    /// Users of other dead letters go to slots that are left.
    Readmissions,
    /// Dead letters whose users have rows now, or were revoked.
    LetterEnds,
    /// The waiting list gets the slots that are left.
    Line,
    /// Nothing: only a person can decide.
    Report,
}

/// A step of carrying out repairs.
#[derive(Debug)]
pub(crate) enum PhaseStep<'p> {
    Repairs(&'p [Planned]),
    /// Repairs of users' slots leave the counter wrong.
    Counter,
}

/// The steps of repairs, which are sorted by phase.
pub(crate) fn steps(items: &[Planned]) -> impl Iterator<Item = PhaseStep<'_>> {
    let mut is_unsettled = false;
    let phases = items.chunk_by(|a, b| a.phase() == b.phase());
    let all = phases.map(Some).chain([None]).flat_map(move |items| {
        let phase = items.map_or(Phase::Report, |items| items[0].phase());
        let is_due = is_unsettled && phase > Phase::Counter;
        is_unsettled = matches!(phase, Phase::Places | Phase::Letters | Phase::Moves);
        [
            is_due.then_some(PhaseStep::Counter),
            items.map(PhaseStep::Repairs),
        ]
    });
    all.flatten()
}

impl Planned {
    pub(crate) fn phase(&self) -> Phase {
        self.action.as_ref().map_or(Phase::Report, Action::phase)
    }

    /// Repairs of a phase are carried out together if they are alike.
    pub(crate) fn order(&self) -> (Phase, ActionKind, Kind) {
        (self.phase(), self.action_kind(), self.kind)
    }
}

impl Action {
    fn phase(&self) -> Phase {
        match self {
            Self::Slot(change) if change.wanted == Wanted::Any => Phase::Moves,
            Self::Slot(_) => Phase::Places,
            Self::Row(row) if row.put_back => Phase::Letters,
            Self::Row(_) => Phase::Rows,
            Self::Letter(letter) => match letter.end {
                LetterEnd::Readmitted { .. } => Phase::Readmissions,
                LetterEnd::Duplicate | LetterEnd::Revoked => Phase::LetterEnds,
            },
            Self::Drop(change) => match change {
                DropRepair::Settings | DropRepair::AllowList | DropRepair::Everything { .. } => {
                    Phase::Settings
                }
                DropRepair::Revocation(_) => Phase::Revocations,
                DropRepair::Count => Phase::Counter,
                DropRepair::Line(_) => Phase::Line,
            },
        }
    }
}
