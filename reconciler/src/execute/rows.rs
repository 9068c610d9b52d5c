//! Repairs rows in MySQL, creates upcoming drops, and unseals drops.

use std::collections::{HashMap, HashSet};

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, NamedDrop, OncePer, Slot, UserId};
use firstcome_shared::drops;
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::Resolution;
use firstcome_shared::mysql::issued::IssuedRow;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::repair::{SlotChange, SlotSet};
use firstcome_shared::trace::TraceContext;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::{AT_ONCE, ExecuteError, Executor, RepairAttempt};
use crate::plan::{Action, LetterChange, Planned, RowChange};
use crate::stores::Stores;

impl Executor<'_> {
    /// Inserts the rows of many users with one statement.
    pub(super) async fn issue(
        &self,
        run: &[Planned],
        traces: &[Option<TraceContext>],
    ) -> Result<Vec<RepairAttempt>, ExecuteError> {
        let claim = |(item, trace): (&Planned, &Option<TraceContext>)| match &item.action {
            Some(Action::Row(row)) => Some((
                Claim {
                    trace: *trace,
                    ..row.claim.clone()
                },
                None,
            )),
            _ => None,
        };
        let rows: Vec<(Claim, Option<i64>)> = run.iter().zip(traces).filter_map(claim).collect();
        self.write_rows(&rows).await
    }

    /// Inserts one row. This also succeeds if another process has inserted it for the same user and
    /// slot.
    pub(super) async fn write_row(&self, claim: &Claim) -> Result<RepairAttempt, ExecuteError> {
        let mut attempts = self.write_rows(&[(claim.clone(), None)]).await?;
        Ok(attempts
            .pop()
            .unwrap_or_else(|| RepairAttempt::Changed("nothing was written".into())))
    }

    /// Inserts rows, each with the dead letter that it resolves, in one transaction. If the schema
    /// rejects a row, the batch is halved repeatedly to isolate that row.
    pub(super) async fn write_rows(
        &self,
        rows: &[(Claim, Option<i64>)],
    ) -> Result<Vec<RepairAttempt>, ExecuteError> {
        let mut attempts = Vec::with_capacity(rows.len());
        let mut todo = vec![rows];
        while let Some(some) = todo.pop() {
            let claims = some.iter().map(|(claim, _)| claim.clone()).collect();
            let resolutions = some
                .iter()
                .filter_map(|(claim, letter)| Some(issued((*letter)?, claim.slot)))
                .collect();
            match (
                self.db.reissue(claims, resolutions, self.run_id).await,
                some,
            ) {
                (Ok(()), _) => attempts.extend(some.iter().map(|_| RepairAttempt::Done(None))),
                (Err(error), [(claim, letter)]) if error.is_refusal() => {
                    let attempt = self.why_refused(claim, &error).await?;
                    if let (RepairAttempt::Done(_), Some(id)) = (&attempt, letter) {
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

    async fn why_refused(
        &self,
        claim: &Claim,
        error: &DbError,
    ) -> Result<RepairAttempt, ExecuteError> {
        Ok(
            match self.db.row_on_slot(claim.drop_id, claim.slot).await? {
                Some(row) if row.user_id == claim.user_id.as_str() => {
                    RepairAttempt::Done(Some("the row was there already".into()))
                }
                Some(_) => RepairAttempt::Changed("the slot has another person's row".into()),
                None => {
                    RepairAttempt::Refused(error.why_refused().unwrap_or_else(|| error.to_string()))
                }
            },
        )
    }

    /// Turns dead letters into rows on their slots, in batches. While the rows of one batch are
    /// inserted, the users of the next are restored in Redis. Users are restored as early as
    /// possible, because a skipped slot keeps the drop closed until all users are restored and the
    /// counter is repaired.
    pub(super) async fn issue_dead_letters(
        &self,
        run: &[Planned],
        attempts: &mut Vec<RepairAttempt>,
    ) -> Result<(), ExecuteError> {
        let letters: Vec<DeadLetterToIssue> =
            run.iter().filter_map(DeadLetterToIssue::of).collect();
        let batches: Vec<&[DeadLetterToIssue]> = letters.chunks(AT_ONCE).collect();
        let (decided, mut to_write) = mpsc::channel(batches.len().max(1));
        let written = stream::poll_fn(|context| to_write.poll_recv(context))
            .map(|(at, attempts)| self.write_letters(batches[at], attempts))
            .buffered(WRITERS)
            .try_for_each(|some| {
                attempts.extend(some);
                std::future::ready(Ok(()))
            });
        // Wait for both: an error of the writers must not prevent the repair of the counter.
        let (admitted, written) = tokio::join!(self.admit_letters(&batches, decided), written);
        admitted.and(written)
    }

    /// Restores users, and sends on the index of each batch with the outcomes that are already
    /// known.
    async fn admit_letters(
        &self,
        batches: &[&[DeadLetterToIssue<'_>]],
        decided: mpsc::Sender<(usize, Vec<Option<RepairAttempt>>)>,
    ) -> Result<(), ExecuteError> {
        let held =
            stream::iter(0..batches.len()).map(|at| self.resolve_letters_held(at, batches[at]));
        let mut held = std::pin::pin!(held.buffered(2));
        let mut slots_were_skipped = false;
        while let Some((at, mut attempts)) = held.try_next().await? {
            self.must_go_on()?;
            slots_were_skipped |= self.admit_in_slots(batches[at], &mut attempts).await?;
            if decided.send((at, attempts)).await.is_err() {
                break;
            }
        }
        if slots_were_skipped {
            self.repair_count().await?;
        }
        Ok(())
    }

    async fn resolve_letters_held(
        &self,
        at: usize,
        some: &[DeadLetterToIssue<'_>],
    ) -> Result<(usize, Vec<Option<RepairAttempt>>), ExecuteError> {
        let people: Vec<_> = some
            .iter()
            .map(|letter| (letter.id, &letter.claim.user_id))
            .collect();
        Ok((at, self.resolve_held(&people).await?))
    }

    async fn write_letters(
        &self,
        some: &[DeadLetterToIssue<'_>],
        mut attempts: Vec<Option<RepairAttempt>>,
    ) -> Result<Vec<RepairAttempt>, ExecuteError> {
        self.must_go_on()?;
        let open = some
            .iter()
            .zip(&attempts)
            .filter(|(_, attempt)| attempt.is_none());
        let rows: Vec<_> = open
            .map(|(letter, _)| (letter.traced_claim(), Some(letter.id)))
            .collect();
        let mut written = self.write_rows(&rows).await?.into_iter();
        crash_point(Point::RowReissued);
        attempts
            .iter_mut()
            .filter(|attempt| attempt.is_none())
            .for_each(|attempt| *attempt = written.next());
        Ok(attempts
            .into_iter()
            .map(|attempt| attempt.unwrap_or(RepairAttempt::Reported))
            .collect())
    }

    /// Gives users in Redis the slots of their dead letters, unless the outcome is already known.
    /// Returns whether a slot may have been skipped: using a slot above the counter frees those
    /// below it.
    async fn admit_in_slots(
        &self,
        letters: &[DeadLetterToIssue<'_>],
        attempts: &mut [Option<RepairAttempt>],
    ) -> Result<bool, ExecuteError> {
        let wanted: Vec<usize> = (0..letters.len())
            .filter(|at| letters[*at].put_back && attempts[*at].is_none())
            .collect();
        if wanted.is_empty() {
            return Ok(false);
        }
        let changes: Vec<SlotChange> = wanted.iter().map(|at| letters[*at].change()).collect();
        let words = self.change_slots(&changes, None).await?;
        for (i, at) in wanted.iter().enumerate() {
            let refused = match &words {
                None => Some("Redis was emptied meanwhile; the next pass looks again"),
                Some(words) => match words.get(i) {
                    Some(SlotSet::Taken) => Some("its slot now belongs to another person"),
                    Some(SlotSet::Revoked) => Some("it has been revoked"),
                    Some(SlotSet::Changed) => Some("its person is on another slot now"),
                    _ => None,
                },
            };
            attempts[*at] = refused.map(|why| RepairAttempt::Changed(why.into()));
        }
        let is_applied = |set: &SlotSet| matches!(set, SlotSet::Applied(_));
        Ok(words.is_some_and(|words| words.iter().any(is_applied)))
    }

    pub(super) async fn resolve_duplicates(
        &self,
        run: &[Planned],
    ) -> Result<Vec<RepairAttempt>, ExecuteError> {
        let duplicate = |item: &'_ Planned| {
            if let Some(Action::Letter(LetterChange { id, .. })) = &item.action {
                Some(*id)
            } else {
                None
            }
        };
        let letters: Vec<_> = run
            .iter()
            .filter_map(|item| Some((duplicate(item)?, item.user.as_ref()?)))
            .collect();
        let none = || {
            RepairAttempt::Changed(
                "its person has no row after all; the next pass looks again".into(),
            )
        };
        Ok(self
            .resolve_held(&letters)
            .await?
            .into_iter()
            .map(|done| done.unwrap_or_else(none))
            .collect())
    }

    /// Resolves the dead letters whose user already has a row. Returns `None` for the others.
    async fn resolve_held(
        &self,
        letters: &[(i64, &UserId)],
    ) -> Result<Vec<Option<RepairAttempt>>, ExecuteError> {
        let people: Vec<UserId> = letters.iter().map(|(_, user)| (*user).clone()).collect();
        let open = self.still_open(letters).await?;
        let rows = self
            .db
            .rows_of_people(self.facts.coupon.id, &people)
            .await?;
        let whole_coupon = self.facts.once_per() == OncePer::Coupon;
        let here = rows
            .iter()
            .filter(|row| whole_coupon || row.drop_id == self.drop_id().0);
        let held: HashMap<&str, &IssuedRow> = here.map(|row| (row.user_id.as_str(), row)).collect();
        let mut duplicates = Vec::new();
        let mut resolve = |id: i64, row: &IssuedRow| {
            let place = format!("slot {} of drop {}", row.slot, row.drop_id);
            duplicates.push(Resolution {
                id,
                how: "duplicate",
                detail: format!("its person holds {place}"),
            });
            RepairAttempt::Done(Some(place))
        };
        let attempts = letters
            .iter()
            .map(|(id, user)| {
                if open.contains(id) {
                    Some(resolve(*id, held.get(user.as_str())?))
                } else {
                    Some(RepairAttempt::Changed(CHANGED_LETTER.into()))
                }
            })
            .collect::<Vec<_>>();
        self.db
            .resolve_dead_letters(duplicates, self.run_id)
            .await?;
        Ok(attempts)
    }

    /// Returns the dead letters that are still open and name these users. An operator may have
    /// corrected or discarded others since the drop was read.
    pub(super) async fn still_open(
        &self,
        letters: &[(i64, &UserId)],
    ) -> Result<HashSet<i64>, ExecuteError> {
        let ids = letters.iter().map(|(id, _)| *id).collect();
        let named = self.db.users_of_open_dead_letters(ids).await?;
        let is_open = |(id, user): &&(i64, &UserId)| {
            named.get(id).and_then(Option::as_deref) == Some(user.as_str())
        };
        Ok(letters.iter().filter(is_open).map(|(id, _)| *id).collect())
    }

    pub(super) async fn resolve(&self, resolution: Resolution) -> Result<(), ExecuteError> {
        Ok(self
            .db
            .resolve_dead_letters(vec![resolution], self.run_id)
            .await?)
    }

    pub(super) async fn list_as_broken(
        &self,
        user: &UserId,
        slot: i64,
        reason: &'static str,
    ) -> Result<(), ExecuteError> {
        let drop = NamedDrop {
            coupon: self.facts.coupon.id,
            drop: self.drop_id(),
        };
        Ok(self
            .db
            .list_broken_promise(self.run_id, drop, user, slot, reason)
            .await?)
    }
}

pub(super) const CHANGED_LETTER: &str =
    "it was corrected or discarded meanwhile; the next pass looks again";

/// Number of batches whose rows are inserted concurrently.
const WRITERS: usize = 2;

/// A dead letter that is resolved by inserting a row.
struct DeadLetterToIssue<'p> {
    id: i64,
    claim: &'p Claim,
    put_back: bool,
    trace: Option<TraceContext>,
}

impl<'p> DeadLetterToIssue<'p> {
    fn of(item: &'p Planned) -> Option<Self> {
        let Some(Action::Row(RowChange {
            claim,
            letter: Some(id),
            put_back,
        })) = &item.action
        else {
            return None;
        };
        Some(Self {
            id: *id,
            claim,
            put_back: *put_back,
            trace: item.trace,
        })
    }

    fn traced_claim(&self) -> Claim {
        Claim {
            trace: self.trace,
            ..self.claim.clone()
        }
    }

    fn change(&self) -> SlotChange {
        let at_ms = self.claim.claimed_at.map(|at| at.timestamp_millis());
        SlotChange::put_back(self.claim.user_id.clone(), self.claim.slot, at_ms)
    }
}

fn issued(id: i64, slot: Slot) -> Resolution {
    Resolution {
        id,
        how: "issued",
        detail: format!("issued in slot {slot}"),
    }
}

/// Creates the drops that schedules require, and updates the catalogue. Returns the coupons for
/// which a store refused that, with its reason.
pub(crate) async fn make_ahead(
    stores: &Stores,
    catalogue: &mut [(Coupon, Vec<Drop>)],
) -> Result<Vec<(CouponId, String)>, DbError> {
    let mut refused = Vec::new();
    for (coupon, own) in catalogue {
        match drops::make_ahead(&stores.db, &stores.redis, coupon, own, Utc::now()).await {
            Ok(0) => {}
            Ok(made) => {
                tracing::info!(coupon_id = coupon.id.0, made, "upcoming drops created");
                if let Some((_, fresh)) = stores.db.coupon(coupon.id).await? {
                    *own = fresh;
                }
            }
            Err(error) => {
                tracing::warn!(coupon_id = coupon.id.0, %error, "upcoming drops could not be created");
                let why = ExecuteError::from(error).about_data();
                refused.extend(why.map(|why| (coupon.id, why)));
            }
        }
    }
    Ok(refused)
}

/// Unseals drops that have an unresolved dead letter or broken promise after all.
pub(crate) async fn unseal_where_named(db: &Db) -> Result<(), DbError> {
    let unsealed =
        db.unseal_drops_of_dead_letters().await? + db.unseal_drops_of_broken_promises().await?;
    if unsealed > 0 {
        tracing::warn!(
            unsealed,
            "sealed drops are compared again: a dead letter or a broken promise is of them"
        );
    }
    Ok(())
}

/// Deletes dead letters that were resolved long ago.
pub(crate) async fn delete_resolved_dead_letters(
    db: &Db,
    kept: std::time::Duration,
) -> Result<(), DbError> {
    let deleted = db.delete_resolved_dead_letters(kept).await?;
    if deleted > 0 {
        tracing::info!(
            deleted,
            "dead letters that were resolved long ago are deleted"
        );
    }
    Ok(())
}

/// Marks broken promises as resolved, because their users now have rows or their claims are
/// revoked.
pub(crate) async fn mend(db: &Db, drop: DropId, people: &[UserId]) -> Result<(), DbError> {
    if !people.is_empty() {
        tracing::info!(
            drop_id = drop.0,
            people = people.len(),
            "broken promises are mended"
        );
    }
    db.mend_broken_promises(drop, people).await
}
