//! Repairs in MySQL.

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::mysql::issued::{self, Claim, IssuedBy, Limits};
use firstcome_shared::mysql::schema::{broken_promises, failed_claims};
use firstcome_shared::mysql::{DbError, refusal};
use firstcome_shared::redis::repair::{Holding, PutBack};

use super::{Attempt, ExecuteError, Executor};
use crate::plan::{Action, Planned};

impl Executor<'_> {
    /// Rows for many people: one statement, and one by one only where the schema refuses some of them.
    pub(super) async fn issue(&mut self, run: &[Planned]) -> Result<Vec<Attempt>, ExecuteError> {
        let claims: Vec<Claim> = run
            .iter()
            .filter_map(|item| if let Action::Issue(claim) = &item.action { Some(claim.clone()) } else { None })
            .collect();
        let all = claims.clone();
        let written = self
            .db
            .run("issue rows", async move |conn| {
                let limits = Limits::read(conn, &all.iter().collect::<Vec<_>>()).await?;
                issued::insert(conn, &all, &limits, IssuedBy::Reconciler).await
            })
            .await;
        match written {
            Ok(_) => Ok(vec![Attempt::Done(None); run.len()]),
            Err(error) if is_refused(&error) => {
                let mut attempts = Vec::with_capacity(claims.len());
                for claim in &claims {
                    attempts.push(self.write_row(claim).await?);
                }
                Ok(attempts)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One row; written before by somebody else for the same person and slot is as good.
    pub(super) async fn write_row(&self, claim: &Claim) -> Result<Attempt, ExecuteError> {
        let row = claim.clone();
        let written = self
            .db
            .run("issue row", async move |conn| {
                issued::insert(conn, std::slice::from_ref(&row), &Limits::default(), IssuedBy::Reconciler).await
            })
            .await;
        match written {
            Ok(_) => Ok(Attempt::Done(None)),
            Err(error) if is_refused(&error) => self.why_refused(claim, &error).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn why_refused(&self, claim: &Claim, error: &DbError) -> Result<Attempt, ExecuteError> {
        let (drop, slot) = (claim.drop_id, claim.slot);
        let there = self.db.run("row on slot", async move |conn| issued::on_slots(conn, drop, &[slot]).await).await?;
        Ok(match there.as_slice().first() {
            Some(row) if row.user_id == claim.user_id.as_str() => {
                Attempt::Done(Some("the row was there already".into()))
            }
            Some(_) => Attempt::Changed("the slot has another person's row".into()),
            None => Attempt::Changed(format!("MySQL refused the row: {error}")),
        })
    }

    pub(super) async fn issue_failed(
        &mut self,
        id: i64,
        claim: &Claim,
        put_back: bool,
    ) -> Result<Attempt, ExecuteError> {
        if let Some(done) = self.duplicate_of_row(id, &claim.user_id).await? {
            return Ok(done);
        }
        if put_back {
            let claimed_at_ms = claim.claimed_at.map(|at| at.timestamp_millis());
            let holding = Holding { user: claim.user_id.clone(), slot: claim.slot, claimed_at_ms, certain: false };
            match self.admit_in_slot(holding).await? {
                Some(PutBack::Applied) => {
                    // A slot beyond the counter leaves the ones below it free.
                    self.settle().await?;
                }
                Some(PutBack::Same) => {}
                Some(PutBack::Taken) => return Ok(Attempt::Changed("its slot is another's by now".into())),
                None => return Ok(Attempt::Changed("Redis was emptied meanwhile; the next pass looks again".into())),
            }
        }
        let written = self.write_row(claim).await?;
        crash_point(Point::RowReissued);
        if let Attempt::Done(_) = written {
            self.resolve_failed(id, "issued", format!("issued in slot {}", claim.slot)).await?;
        }
        Ok(written)
    }

    pub(super) async fn resolve_duplicate(&mut self, id: i64, user: &UserId) -> Result<Attempt, ExecuteError> {
        let done = self.duplicate_of_row(id, user).await?;
        Ok(done
            .unwrap_or_else(|| Attempt::Changed("its person has no row after all; the next pass looks again".into())))
    }

    /// Resolves a failed claim whose person holds a row already; `None` where they don't.
    pub(super) async fn duplicate_of_row(&self, id: i64, user: &UserId) -> Result<Option<Attempt>, ExecuteError> {
        let rows = self.db.rows_of_person(self.facts.coupon.id, user).await?;
        let whole_coupon = self.facts.once_per() == OncePer::Coupon;
        let Some(row) = rows.iter().find(|row| whole_coupon || row.drop_id == self.drop_id().0) else {
            return Ok(None);
        };
        let detail = format!("its person holds slot {} of drop {}", row.slot, row.drop_id);
        self.resolve_failed(id, "duplicate", detail).await?;
        Ok(Some(Attempt::Done(Some(format!("slot {} of drop {}", row.slot, row.drop_id)))))
    }

    pub(super) async fn resolve_failed(&self, id: i64, how: &'static str, detail: String) -> Result<(), ExecuteError> {
        let run_id = self.run_id.to_owned();
        self.db
            .run("resolve failed claim", async move |conn| {
                diesel::update(
                    failed_claims::table.filter(failed_claims::id.eq(id).and(failed_claims::resolved_at.is_null())),
                )
                .set((
                    failed_claims::resolved_at.eq(Utc::now().naive_utc()),
                    failed_claims::resolution.eq(how),
                    failed_claims::resolution_detail.eq(detail),
                    failed_claims::resolved_by_run.eq(run_id),
                ))
                .execute(conn)
                .await
            })
            .await?;
        Ok(())
    }

    /// Names a person whose promise could not be kept.
    pub(super) async fn list_as_broken(
        &self,
        user: &UserId,
        slot: i64,
        reason: &'static str,
    ) -> Result<(), ExecuteError> {
        let (coupon, drop, run_id, user) =
            (self.facts.coupon.id, self.drop_id(), self.run_id.to_owned(), user.as_str().to_owned());
        self.db
            .run("list broken promise", async move |conn| {
                diesel::insert_into(broken_promises::table)
                    .values((
                        broken_promises::drop_id.eq(drop.0),
                        broken_promises::user_id.eq(user),
                        broken_promises::coupon_id.eq(coupon.0),
                        broken_promises::slot.eq(slot),
                        broken_promises::reason.eq(reason),
                        broken_promises::run_id.eq(run_id),
                    ))
                    .on_conflict(diesel::dsl::DuplicatedKeys)
                    .do_update()
                    .set(broken_promises::mended_at.eq(None::<chrono::NaiveDateTime>))
                    .execute(conn)
                    .await
            })
            .await?;
        Ok(())
    }

    /// A person listed as broken has a row after all.
    pub(super) async fn mend(&self, user: &UserId) -> Result<(), ExecuteError> {
        let (drop, user) = (self.drop_id(), user.as_str().to_owned());
        self.db
            .run("mend broken promise", async move |conn| {
                diesel::update(broken_promises::table.find((drop.0, user)))
                    .set(broken_promises::mended_at.eq(Utc::now().naive_utc()))
                    .execute(conn)
                    .await
            })
            .await?;
        Ok(())
    }
}

fn is_refused(error: &DbError) -> bool {
    matches!(error, DbError::Query { source, .. } if refusal(source).is_some())
}
