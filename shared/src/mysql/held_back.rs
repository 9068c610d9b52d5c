//! The repairs of a drop that were held back, and the rule of their confirmation: an operator
//! confirms exactly those that a pass has shown, and nothing else.

use std::collections::HashSet;

use diesel::prelude::*;
use uuid::Uuid;

use super::{Db, DbResult};
use crate::domain::DropId;
use crate::schema::{held_back, reconcile_runs};

/// The repairs that a pass plans, or has shown to an operator, for a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = held_back)]
pub struct ShownRepairs {
    #[diesel(column_name = repairs)]
    pub number: u32,
    /// A hash of the repairs.
    pub fingerprint: u64,
}

/// The repairs of a drop that were recorded last.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = held_back)]
pub struct HeldBack {
    #[diesel(embed)]
    pub shown: ShownRepairs,
    /// The run that recorded them.
    pub run_id: String,
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
        let shown = held.map(|held| held.shown);
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
        let record = (
            held_back::drop_id.eq(drop),
            repairs,
            held_back::run_id.eq(run_id.to_owned()),
        );
        let table = held_back::table;
        if looked {
            let show = diesel::replace_into(table).values(record);
            self.write("show repairs", show).await?;
        } else {
            let hold = diesel::insert_or_ignore_into(table).values(record);
            self.write("hold back", hold).await?;
        }
        Ok(())
    }

    /// Reads the repairs that were recorded last.
    pub async fn shown_repairs(&self, drop: DropId) -> DbResult<Option<HeldBack>> {
        let shown = held_back::table.find(drop).select(HeldBack::as_select());
        self.row("repairs held back", shown).await
    }

    /// Whether the repairs that were recorded last are those that this run has shown, itself or
    /// with the same result as the run that recorded them.
    pub async fn has_shown(&self, run_id: &str, drop: DropId) -> DbResult<bool> {
        let Some(held) = self.shown_repairs(drop).await? else {
            return Ok(false);
        };
        if held.run_id == run_id {
            return Ok(true);
        }
        let runs = reconcile_runs::table
            .filter(reconcile_runs::id.eq_any([run_id.to_owned(), held.run_id]))
            .select((reconcile_runs::id, reconcile_runs::same_as));
        let runs: Vec<(String, Option<String>)> = self.rows("who has shown repairs", runs).await?;
        let results: HashSet<String> = runs
            .iter()
            .map(|(id, same_as)| same_as.clone().unwrap_or(id.clone()))
            .collect();
        Ok(runs.len() == 2 && results.len() == 1)
    }

    /// Deletes the records of these drops, whose repairs are made or no longer needed. Any
    /// confirmation becomes void.
    pub async fn forget_held_back(&self, drops: HashSet<DropId>) -> DbResult<()> {
        let forget = diesel::delete(held_back::table.filter(held_back::drop_id.eq_any(drops)));
        self.write("end a hold", forget).await.map(|_| ())
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
