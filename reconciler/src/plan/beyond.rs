//! Repairs that exceed the number kept in memory: they are counted here, and carried out page by
//! page while the drop is read once more.

use std::collections::HashMap;

use firstcome_shared::redis::repair::{SlotChange, Wanted};

use super::drop::{fingerprint_of, weight};
use super::{Action, Planned, Planner};
use crate::collect::snapshot::SlotRange;
use crate::report::{ActionKind, Kind};

/// Repairs that were planned but not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beyond {
    pub by_kind: HashMap<(Kind, ActionKind), usize>,
    /// The number of them that counts towards the repair limit.
    pub(super) weight: usize,
    /// A hash of them.
    pub(super) fingerprint: u64,
}

impl Beyond {
    pub fn is_empty(&self) -> bool {
        self.by_kind.is_empty()
    }
}

impl Action {
    /// Whether a repair gives one user what the stores prove, and depends on no other page. Of
    /// these, millions may be missing; other repairs are few.
    pub(super) fn is_of_page(&self) -> bool {
        matches!(
            self,
            Self::Slot(SlotChange {
                wanted: Wanted::Slot { .. },
                ..
            }) | Self::Row(_)
        )
    }
}

impl Planner<'_> {
    /// Drops repairs beyond the number that a plan keeps.
    pub(super) fn keep_some(&mut self) {
        let most = self.policy.kept;
        if self.of_pages <= most {
            return;
        }
        let mut kept = 0;
        let beyond = &mut self.beyond;
        let gate_closed = self.facts.gate_closed;
        self.items.retain(|item| {
            let is_of_page = item.action.as_ref().is_some_and(Action::is_of_page);
            kept += usize::from(is_of_page);
            let keeps = kept <= most || !is_of_page;
            if !keeps {
                *beyond
                    .by_kind
                    .entry((item.kind, item.action_kind()))
                    .or_default() += 1;
                // No gaps: the repair of the counter is never one of these.
                let weight = weight(item, 0, gate_closed);
                beyond.weight += weight;
                beyond.fingerprint = beyond
                    .fingerprint
                    .wrapping_add(fingerprint_of(item, weight));
            }
            keeps
        });
        self.of_pages = most;
    }

    /// Whether a slot that was given a moment ago has no holder on the pages so far.
    pub fn has_absent(&self) -> bool {
        self.absent > 0
    }

    /// The repairs of one page, in the order of execution, once it is decided that the drop is to
    /// be repaired.
    pub fn repairs_of(&mut self, page: &SlotRange) -> Vec<Planned> {
        self.page_whole(page);
        self.of_pages = 0;
        let mut items: Vec<Planned> = self
            .items
            .drain(..)
            .filter(|item| item.action.as_ref().is_some_and(Action::is_of_page))
            .collect();
        items.sort_by_key(Planned::order);
        items
    }
}
