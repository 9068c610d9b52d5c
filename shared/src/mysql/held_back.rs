//! The repairs of a drop that the repair limit held back. An operator confirms exactly these.

use std::collections::HashSet;

use super::{Db, DbError, MOST_VALUES, list};
use crate::domain::DropId;
use crate::sql;

/// Repairs of a drop that an operator was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownRepairs {
    pub number: u32,
    /// A hash of the repairs.
    pub fingerprint: u64,
}

impl Db {
    /// Records the repairs that are held back. `looked` means that an operator sees them;
    /// otherwise, an earlier record stays, because no operator may have seen the new repairs.
    pub async fn hold_back(
        &self,
        drop: DropId,
        repairs: ShownRepairs,
        run_id: &str,
        looked: bool,
    ) -> Result<(), DbError> {
        let verb = if looked { "REPLACE" } else { "INSERT IGNORE" };
        let note = format!(
            "{verb} INTO held_back (drop_id, repairs, fingerprint, run_id) VALUES (?, ?, ?, ?)"
        );
        let note = sql!(note, drop, repairs.number, repairs.fingerprint, run_id);
        self.execute("note repairs held back", note)
            .await
            .map(|_| ())
    }

    /// Reads the repairs that were recorded last.
    pub async fn shown_repairs(&self, drop: DropId) -> Result<Option<ShownRepairs>, DbError> {
        let shown = "SELECT repairs, fingerprint FROM held_back WHERE drop_id = ?";
        let shown: Option<(u32, u64)> = self.first("repairs held back", sql!(shown, drop)).await?;
        Ok(shown.map(|(number, fingerprint)| ShownRepairs {
            number,
            fingerprint,
        }))
    }

    /// Deletes the records of these drops, whose repairs are made or no longer needed. Any
    /// confirmation becomes void.
    pub async fn forget_held_back(&self, drops: HashSet<DropId>) -> Result<(), DbError> {
        let over: Vec<DropId> = drops.into_iter().collect();
        for some in over.chunks(MOST_VALUES) {
            let forget = "DELETE FROM held_back WHERE drop_id IN (?)";
            let forget = sql!(forget, list(some.iter().copied()));
            self.execute("forget repairs held back", forget).await?;
        }
        Ok(())
    }
}
