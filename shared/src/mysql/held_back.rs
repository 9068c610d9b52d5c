//! The repairs of a drop that the repair limit held back. An operator confirms exactly these.

use std::collections::HashSet;

use super::sql::row;
use super::{Db, DbResult, list};
use crate::domain::DropId;
use crate::sql;

row! {
    /// Repairs of a drop that an operator was shown.
    #[derive(Copy, PartialEq, Eq)]
    pub struct ShownRepairs {
        pub number as repairs: u32,
        /// A hash of the repairs.
        pub fingerprint: u64,
    }
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
    ) -> DbResult<()> {
        let verb = if looked { "REPLACE" } else { "INSERT IGNORE" };
        let into = "INTO held_back (drop_id, repairs, fingerprint, run_id) VALUES (?, ?, ?, ?)";
        let number = repairs.number;
        let fingerprint = repairs.fingerprint;
        let note = sql!(format!("{verb} {into}"), drop, number, fingerprint, run_id);
        self.execute("hold back", note).await.map(|_| ())
    }

    /// Reads the repairs that were recorded last.
    pub async fn shown_repairs(&self, drop: DropId) -> DbResult<Option<ShownRepairs>> {
        let shown = "SELECT {columns} FROM held_back WHERE drop_id = ?";
        self.first("repairs held back", sql!(shown, drop)).await
    }

    /// Deletes the records of these drops, whose repairs are made or no longer needed. Any
    /// confirmation becomes void.
    pub async fn forget_held_back(&self, drops: HashSet<DropId>) -> DbResult<()> {
        let forget = sql!("DELETE FROM held_back WHERE drop_id IN (?)", list(drops));
        self.execute("end a hold", forget).await.map(|_| ())
    }
}
