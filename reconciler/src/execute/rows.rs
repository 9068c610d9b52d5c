//! Repairs in MySQL.

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::issued::Claim;
use firstcome_shared::redis::repair::{Holding, PutBack};

use super::{Attempt, ExecuteError, Executor};
use crate::plan::{Action, Planned};

impl Executor<'_> {
    pub(super) async fn issue(&mut self, run: &[Planned]) -> Result<Vec<Attempt>, ExecuteError> {
        let claims: Vec<Claim> = run
            .iter()
            .filter_map(|item| if let Action::Issue(claim) = &item.action { Some(claim.clone()) } else { None })
            .collect();
        self.write_rows(&claims).await
    }

    /// Rows for many people: one statement, and one by one only where the schema refuses some of
    /// them.
    pub(super) async fn write_rows(&self, claims: &[Claim]) -> Result<Vec<Attempt>, ExecuteError> {
        match self.db.reissue(claims.to_vec()).await {
            Ok(()) => Ok(vec![Attempt::Done(None); claims.len()]),
            Err(error) if error.is_refusal() => {
                let mut attempts = Vec::with_capacity(claims.len());
                for claim in claims {
                    attempts.push(self.write_row(claim).await?);
                }
                Ok(attempts)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One row. It counts as written where another process wrote it for the same person and slot.
    pub(super) async fn write_row(&self, claim: &Claim) -> Result<Attempt, ExecuteError> {
        match self.db.reissue(vec![claim.clone()]).await {
            Ok(()) => Ok(Attempt::Done(None)),
            Err(error) if error.is_refusal() => self.why_refused(claim, &error).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn why_refused(&self, claim: &Claim, error: &DbError) -> Result<Attempt, ExecuteError> {
        Ok(match self.db.row_on_slot(claim.drop_id, claim.slot).await? {
            Some(row) if row.user_id == claim.user_id.as_str() => {
                Attempt::Done(Some("the row was there already".into()))
            }
            Some(_) => Attempt::Changed("the slot has another person's row".into()),
            None => Attempt::Changed(format!("MySQL refused the row: {error}")),
        })
    }

    pub(super) async fn issue_dead_letter(
        &mut self,
        id: i64,
        claim: &Claim,
        put_back: bool,
    ) -> Result<Attempt, ExecuteError> {
        if let Some(done) = self.resolve_if_held(id, &claim.user_id).await? {
            return Ok(done);
        }
        if put_back {
            let claimed_at_ms = claim.claimed_at.map(|at| at.timestamp_millis());
            let holding = Holding { user: claim.user_id.clone(), slot: claim.slot, claimed_at_ms, certain: false };
            match self.admit_in_slot(holding).await? {
                Some(PutBack::Applied) => {
                    // A slot beyond the counter leaves the ones below it free.
                    self.repair_count().await?;
                }
                Some(PutBack::Same) => {}
                Some(PutBack::Taken) => return Ok(Attempt::Changed("its slot is another's by now".into())),
                None => return Ok(Attempt::Changed("Redis was emptied meanwhile; the next pass looks again".into())),
            }
        }
        let written = self.write_row(claim).await?;
        crash_point(Point::RowReissued);
        if let Attempt::Done(_) = written {
            self.resolve(id, "issued", format!("issued in slot {}", claim.slot)).await?;
        }
        Ok(written)
    }

    pub(super) async fn resolve_duplicate(&mut self, id: i64, user: &UserId) -> Result<Attempt, ExecuteError> {
        let done = self.resolve_if_held(id, user).await?;
        Ok(done
            .unwrap_or_else(|| Attempt::Changed("its person has no row after all; the next pass looks again".into())))
    }

    /// Resolves a dead letter whose person holds a row already; `None` where they don't.
    async fn resolve_if_held(&self, id: i64, user: &UserId) -> Result<Option<Attempt>, ExecuteError> {
        let rows = self.db.rows_of_person(self.facts.coupon.id, user).await?;
        let whole_coupon = self.facts.once_per() == OncePer::Coupon;
        let Some(row) = rows.iter().find(|row| whole_coupon || row.drop_id == self.drop_id().0) else {
            return Ok(None);
        };
        let detail = format!("its person holds slot {} of drop {}", row.slot, row.drop_id);
        self.resolve(id, "duplicate", detail).await?;
        Ok(Some(Attempt::Done(Some(format!("slot {} of drop {}", row.slot, row.drop_id)))))
    }

    pub(super) async fn resolve(&self, id: i64, how: &'static str, detail: String) -> Result<(), ExecuteError> {
        Ok(self.db.resolve_dead_letter(id, how, detail, self.run_id).await?)
    }

    pub(super) async fn list_as_broken(
        &self,
        user: &UserId,
        slot: i64,
        reason: &'static str,
    ) -> Result<(), ExecuteError> {
        let drop = (self.facts.coupon.id, self.drop_id());
        Ok(self.db.list_broken_promise(drop, user, slot, reason, self.run_id).await?)
    }
}
