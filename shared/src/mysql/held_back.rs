//! The repairs of a drop that were held back, and the rule of their confirmation: an operator
//! confirms exactly those that a pass has shown, and nothing else.

use std::collections::HashSet;

use uuid::Uuid;

use super::sql::row;
use super::{Db, DbResult, list};
use crate::domain::DropId;
use crate::sql;

row! {
    /// The repairs that a pass plans, or has shown to an operator, for a drop.
    #[derive(Copy, PartialEq, Eq)]
    pub struct ShownRepairs {
        pub number as repairs: u32,
        /// A hash of the repairs.
        pub fingerprint: u64,
    }
}

row! {
    /// The repairs of a drop that were recorded last.
    pub struct HeldBack {
        pub number as repairs: u32,
        pub fingerprint: u64,
        /// The run that recorded them.
        pub run_id: String,
    }
}

/// An operator's request to a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// The operator confirms the repairs that were shown.
    pub confirm: bool,
    /// Change nothing, list the repairs.
    pub dry_run: bool,
    /// The run whose repairs the operator has seen. If it is `None`, a confirmation covers the
    /// repairs that were recorded last.
    pub shown_by: Option<Uuid>,
}

/// Whether repairs are confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    Given,
    NotAsked,
    /// Other repairs were recorded, or the run that the operator has seen did not show these.
    OthersShown,
    NeverShown,
}

impl Confirmation {
    fn new(asked: Asked, repairs: ShownRepairs, shown: Option<ShownRepairs>) -> Self {
        match shown {
            _ if !asked.confirm || asked.dry_run => Self::NotAsked,
            Some(shown) if shown == repairs => Self::Given,
            Some(_) => Self::OthersShown,
            None => Self::NeverShown,
        }
    }
}

impl Db {
    /// Returns whether repairs are confirmed. Unconfirmed repairs are recorded as held back, except
    /// by a pass whose confirmation is refused: a second click must not carry out what only that
    /// pass has shown.
    pub async fn confirmation(
        &self,
        drop: DropId,
        repairs: ShownRepairs,
        run_id: &str,
        asked: Asked,
    ) -> DbResult<Confirmation> {
        let held = self.shown_repairs(drop).await?;
        let shown = held.map(|held: HeldBack| ShownRepairs {
            number: held.number,
            fingerprint: held.fingerprint,
        });
        let confirmation = Confirmation::new(asked, repairs, shown);
        match (confirmation, asked.shown_by) {
            (Confirmation::Given, Some(run)) if !self.has_shown(&run.to_string(), drop).await? => {
                return Ok(Confirmation::OthersShown);
            }
            (Confirmation::NotAsked, _) => {
                self.hold_back(drop, repairs, run_id, asked.dry_run).await?;
            }
            _ => {}
        }
        Ok(confirmation)
    }

    /// Records the repairs that are held back. `looked` means that an operator sees them, in a dry
    /// run; otherwise, an earlier record stays, because perhaps no operator sees the new repairs.
    async fn hold_back(
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
    pub async fn shown_repairs(&self, drop: DropId) -> DbResult<Option<HeldBack>> {
        let shown = "SELECT {columns} FROM held_back WHERE drop_id = ?";
        self.first("repairs held back", sql!(shown, drop)).await
    }

    /// Whether the repairs that were recorded last are those that this run has shown, itself or
    /// with the same result as the run that recorded them.
    pub async fn has_shown(&self, run_id: &str, drop: DropId) -> DbResult<bool> {
        let same = sql!(
            "SELECT COUNT(*) FROM held_back h \
             LEFT JOIN reconcile_runs recorded ON recorded.id = h.run_id \
             LEFT JOIN reconcile_runs shown ON shown.id = ? \
             WHERE h.drop_id = ? AND (h.run_id = ? OR \
             COALESCE(shown.same_as, shown.id) = COALESCE(recorded.same_as, recorded.id))",
            run_id,
            drop,
            run_id
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repairs_that_were_shown_are_confirmed_and_only_by_a_pass_that_asks() {
        let of = |fingerprint| ShownRepairs {
            number: 60,
            fingerprint,
        };
        for (confirm, dry_run, shown, expected) in [
            (true, false, Some(of(1)), Confirmation::Given),
            (true, false, Some(of(2)), Confirmation::OthersShown),
            (true, false, None, Confirmation::NeverShown),
            (true, true, Some(of(1)), Confirmation::NotAsked),
            (false, false, Some(of(1)), Confirmation::NotAsked),
            (false, true, None, Confirmation::NotAsked),
        ] {
            let asked = Asked {
                confirm,
                dry_run,
                shown_by: None,
            };
            let found = Confirmation::new(asked, of(1), shown);
            assert_eq!(found, expected, "{asked:?} {shown:?}");
        }
    }
}
