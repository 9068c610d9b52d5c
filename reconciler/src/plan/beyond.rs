//! Limits the number of repairs in memory. Repairs above the limit are counted here, and carried
//! out page by page while the drop is read a second time.

use std::collections::HashMap;

use firstcome_shared::redis::repair::{SlotChange, Wanted};

use super::drop::{fingerprint_of, weight};
use super::{Action, Planned, Planner};
use crate::collect::snapshot::SlotRange;
use crate::report::{ActionKind, Kind};

/// Repairs that were planned but not kept in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beyond {
    pub by_kind: HashMap<(Kind, ActionKind), usize>,
    /// Number of these repairs that count towards the repair limit.
    pub(super) weight: usize,
    /// Hash of these repairs.
    pub(super) fingerprint: u64,
}

impl Beyond {
    pub fn is_empty(&self) -> bool {
        self.by_kind.is_empty()
    }
}

impl Action {
    /// Whether the repair gives one user what the stores prove and does not depend on other pages.
    /// A plan can have millions of these repairs, but only a few others.
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
    /// Removes single-page repairs above the limit from the plan and counts them.
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
                // `gaps` is 0 because the repair of the counter always stays in the plan.
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

    /// Whether the pages so far have a slot without a holder that was given away recently.
    pub fn has_absent(&self) -> bool {
        self.absent > 0
    }

    /// Returns the single-page repairs of a page, in the order of execution. Used when the drop is
    /// read a second time, after its repairs were approved.
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
