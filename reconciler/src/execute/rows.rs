//! Repairs in MySQL.

use std::collections::HashMap;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{OncePer, Slot, UserId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::dead_letters::Resolution;
use firstcome_shared::mysql::issued::{Claim, IssuedRow};
use firstcome_shared::redis::repair::{Holding, PutBack};

use super::{AT_ONCE, Attempt, ExecuteError, Executor};
use crate::plan::{Action, Planned};

impl Executor<'_> {
    /// Rows for many people, one statement for all of them.
    pub(super) async fn issue(&mut self, run: &[Planned]) -> Result<Vec<Attempt>, ExecuteError> {
        let claim = |item: &Planned| if let Action::Issue(claim) = &item.action { Some(claim.clone()) } else { None };
        let rows: Vec<(Claim, Option<i64>)> = run.iter().filter_map(claim).map(|claim| (claim, None)).collect();
        self.write_rows(&rows).await
    }

    /// One row. It counts as written where another process wrote it for the same person and slot.
    pub(super) async fn write_row(&self, claim: &Claim) -> Result<Attempt, ExecuteError> {
        let mut attempts = self.write_rows(&[(claim.clone(), None)]).await?;
        Ok(attempts.pop().unwrap_or_else(|| Attempt::Changed("nothing was written".into())))
    }

    /// Rows, each with the dead letter that it resolves, in one transaction. Where the schema
    /// refuses one of them, in halves, down to the one refused.
    pub(super) async fn write_rows(&self, rows: &[(Claim, Option<i64>)]) -> Result<Vec<Attempt>, ExecuteError> {
        let (mut attempts, mut todo) = (Vec::with_capacity(rows.len()), vec![rows]);
        while let Some(some) = todo.pop() {
            let claims = some.iter().map(|(claim, _)| claim.clone()).collect();
            let resolutions = some.iter().filter_map(|(claim, letter)| Some(issued((*letter)?, claim.slot))).collect();
            match (self.db.reissue(claims, resolutions, self.run_id).await, some) {
                (Ok(()), _) => attempts.extend(some.iter().map(|_| Attempt::Done(None))),
                (Err(error), [(claim, letter)]) if error.is_refusal() => {
                    let attempt = self.why_refused(claim, &error).await?;
                    if let (Attempt::Done(_), Some(id)) = (&attempt, letter) {
                        self.resolve(issued(*id, claim.slot)).await?;
                    }
                    attempts.push(attempt);
                }
                (Err(error), _) if error.is_refusal() => {
                    let (first, second) = some.split_at(some.len() / 2);
                    todo.extend([second, first]);
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
        Ok(attempts)
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

    /// Dead letters become rows in their slots, in batches. Everybody is put back first, so that
    /// the counter is repaired once, and not for each.
    pub(super) async fn issue_dead_letters(&mut self, run: &[Planned]) -> Result<Vec<Attempt>, ExecuteError> {
        let letters: Vec<Letter> = run.iter().filter_map(Letter::of).collect();
        let mut attempts: Vec<Option<Attempt>> = vec![None; letters.len()];
        let mut slots_were_skipped = false;
        for (some, attempts) in letters.chunks(AT_ONCE).zip(attempts.chunks_mut(AT_ONCE)) {
            self.must_go_on()?;
            let people: Vec<_> = some.iter().map(|letter| (letter.id, &letter.claim.user_id)).collect();
            attempts.clone_from_slice(&self.resolve_held(&people).await?);
            slots_were_skipped |= self.admit_in_slots(some, attempts).await?;
        }
        if slots_were_skipped {
            self.repair_count().await?;
        }
        for (some, attempts) in letters.chunks(AT_ONCE).zip(attempts.chunks_mut(AT_ONCE)) {
            self.must_go_on()?;
            let open = some.iter().zip(attempts.iter()).filter(|(_, attempt)| attempt.is_none());
            let rows: Vec<_> = open.map(|(letter, _)| (letter.claim.clone(), Some(letter.id))).collect();
            let mut written = self.write_rows(&rows).await?.into_iter();
            crash_point(Point::RowReissued);
            attempts.iter_mut().filter(|attempt| attempt.is_none()).for_each(|attempt| *attempt = written.next());
        }
        Ok(attempts.into_iter().map(|attempt| attempt.unwrap_or(Attempt::Reported)).collect())
    }

    /// Gives people in Redis the slots of their dead letters, where none has been decided on yet.
    /// Gives whether a slot was skipped, perhaps: one beyond the counter frees those below it.
    async fn admit_in_slots(
        &mut self,
        letters: &[Letter<'_>],
        attempts: &mut [Option<Attempt>],
    ) -> Result<bool, ExecuteError> {
        let wanted: Vec<usize> =
            (0..letters.len()).filter(|at| letters[*at].put_back && attempts[*at].is_none()).collect();
        if wanted.is_empty() {
            return Ok(false);
        }
        let holdings: Vec<Holding> = wanted.iter().map(|at| letters[*at].holding()).collect();
        let words = self.put_back_all(&holdings).await?;
        for (i, at) in wanted.iter().enumerate() {
            let refused = match &words {
                None => Some("Redis was emptied meanwhile; the next pass looks again"),
                Some(words) if words.get(i) == Some(&PutBack::Taken) => Some("its slot is another's by now"),
                Some(words) if words.get(i) == Some(&PutBack::Revoked) => Some("it is revoked by now"),
                Some(_) => None,
            };
            attempts[*at] = refused.map(|why| Attempt::Changed(why.into()));
        }
        Ok(words.is_some_and(|words| words.contains(&PutBack::Applied)))
    }

    pub(super) async fn resolve_duplicates(&mut self, run: &[Planned]) -> Result<Vec<Attempt>, ExecuteError> {
        let duplicate =
            |item: &'_ Planned| if let Action::ResolveDuplicate { id, .. } = &item.action { Some(*id) } else { None };
        let letters: Vec<_> = run.iter().filter_map(|item| Some((duplicate(item)?, item.user.as_ref()?))).collect();
        let none = || Attempt::Changed("its person has no row after all; the next pass looks again".into());
        Ok(self.resolve_held(&letters).await?.into_iter().map(|done| done.unwrap_or_else(none)).collect())
    }

    /// Resolves the dead letters whose person holds a row already; `None` for the others.
    async fn resolve_held(&self, letters: &[(i64, &UserId)]) -> Result<Vec<Option<Attempt>>, ExecuteError> {
        let people: Vec<UserId> = letters.iter().map(|(_, user)| (*user).clone()).collect();
        let rows = self.db.rows_of_people(self.facts.coupon.id, &people).await?;
        let whole_coupon = self.facts.once_per() == OncePer::Coupon;
        let here = rows.iter().filter(|row| whole_coupon || row.drop_id == self.drop_id().0);
        let held: HashMap<&str, &IssuedRow> = here.map(|row| (row.user_id.as_str(), row)).collect();
        let mut duplicates = Vec::new();
        let mut resolve = |id: i64, row: &IssuedRow| {
            let place = format!("slot {} of drop {}", row.slot, row.drop_id);
            duplicates.push(Resolution { id, how: "duplicate", detail: format!("its person holds {place}") });
            Attempt::Done(Some(place))
        };
        let attempts =
            letters.iter().map(|(id, user)| Some(resolve(*id, held.get(user.as_str())?))).collect::<Vec<_>>();
        self.db.resolve_dead_letters(duplicates, self.run_id).await?;
        Ok(attempts)
    }

    pub(super) async fn resolve(&self, resolution: Resolution) -> Result<(), ExecuteError> {
        Ok(self.db.resolve_dead_letters(vec![resolution], self.run_id).await?)
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

/// A dead letter that becomes a row.
struct Letter<'p> {
    id: i64,
    claim: &'p Claim,
    put_back: bool,
}

impl<'p> Letter<'p> {
    fn of(item: &'p Planned) -> Option<Self> {
        let Action::IssueDeadLetter { id, claim, put_back } = &item.action else { return None };
        Some(Self { id: *id, claim, put_back: *put_back })
    }

    fn holding(&self) -> Holding {
        let claimed_at_ms = self.claim.claimed_at.map(|at| at.timestamp_millis());
        Holding { user: self.claim.user_id.clone(), slot: self.claim.slot, claimed_at_ms, certain: false }
    }
}

fn issued(id: i64, slot: Slot) -> Resolution {
    Resolution { id, how: "issued", detail: format!("issued in slot {slot}") }
}
