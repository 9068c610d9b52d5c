//! Defines the order of repairs: each kind of action belongs to one phase.

use firstcome_shared::redis::repair::Wanted;

use super::{Action, DropRepair, LetterEnd, Planned};
use crate::report::{ActionKind, Kind};

/// The phases of repairs, in order. Within a phase, the order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Settings,
    Revocations,
    /// Put users on the slots that rows, messages and claimants show, and take them off slots of
    /// other users.
    Places,
    /// Put users of dead letters on their slots, unless the user of a message has the slot.
    Letters,
    /// Set the counter, which frees all slots without a holder. If it were set before the phases
    /// above, the next claims would get slots that belong to users.
    Counter,
    /// Move users to any free slot. Before the counter is set, such a slot could belong to another
    /// user.
    Moves,
    /// Insert the missing rows of users on their slots.
    Rows,
    /// Give slots that are left to users of the other dead letters.
    Readmissions,
    /// Resolve dead letters whose users now have rows or were revoked.
    LetterEnds,
    /// Give slots that are left to the waiting list.
    Line,
    /// Findings without a repair.
    Report,
}

/// A step in the execution of a plan.
#[derive(Debug)]
pub(crate) enum PhaseStep<'p> {
    Repairs(&'p [Planned]),
    /// Sets the counter, after repairs of users' slots have made it wrong.
    Counter,
}

/// Returns the execution steps. `items` must be sorted by phase.
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

    /// Returns the sort key. Similar repairs of a phase become adjacent, so that they are carried
    /// out together.
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
