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

    /// Whether the repairs that were recorded last are those that this run has shown, itself or with
    /// the same result as the run that recorded them.
    pub async fn has_shown(&self, run_id: &str, drop: DropId) -> DbResult<bool> {
        let same = sql!(
            "SELECT COUNT(*) FROM held_back h \
             JOIN reconcile_runs recorded ON recorded.id = h.run_id \
             JOIN reconcile_runs shown ON shown.id = ? \
             WHERE h.drop_id = ? \
             AND COALESCE(shown.same_as, shown.id) = COALESCE(recorded.same_as, recorded.id)",
            run_id,
            drop
        );
        let found: Option<i64> = self.first("who has shown repairs", same).await?;
        Ok(found > Some(0))
    }

    /// Deletes the records of these drops, whose repairs are made or no longer needed. Any
    /// confirmation becomes void.
    pub async fn forget_held_back(&self, drops: HashSet<DropId>) -> DbResult<()> {
        let forget = sql!("DELETE FROM held_back WHERE drop_id IN (?)", list(drops));
        self.execute("end a hold", forget).await.map(|_| ())
    }
}
