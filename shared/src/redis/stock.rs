//! The stock of drops, as stored in Redis.

use super::reads::DropState;
use crate::domain::Slot;

/// The stock of a loaded drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    pub quantity: Slot,
    pub held: u32,
    pub paused: bool,
    /// The number of users on the waiting list, and its capacity.
    pub waiting: u32,
    pub waiting_list: u32,
}

/// The result that a user who claims now would get, as `claim.lua` decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    Slot,
    /// A position in the waiting list.
    Place,
    Nothing,
}

impl Stock {
    /// Returns the result of a claim, for display only, because the next claim may change it.
    pub fn prospect(&self) -> Prospect {
        let left = self.quantity.saturating_sub(self.held);
        // Freed slots go to users who already wait.
        if self.waiting == 0 && left > 0 {
            Prospect::Slot
        } else if self.waiting < self.waiting_list.max(left) {
            Prospect::Place
        } else {
            Prospect::Nothing
        }
    }
}

impl DropState {
    /// Returns `None` if the drop is not loaded.
    pub fn stock(&self) -> Option<Stock> {
        let meta = self.meta.as_ref()?;
        Some(Stock {
            quantity: meta.quantity,
            held: u32::try_from(self.users).ok()?,
            paused: meta.paused,
            waiting: u32::try_from(self.waiting).ok()?,
            waiting_list: meta.waiting_list,
        })
    }
}
