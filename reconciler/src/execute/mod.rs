//! Carries out repairs. Only this module changes Redis or a coupon's tables (`record` writes the
//! tables of runs). Each repair is idempotent: it checks its precondition and does nothing if that
//! has changed. It may therefore run twice, at any time, concurrently with live traffic and another
//! reconciler. The test in `law` fails if another module calls a function that writes.

mod allow_lists;
mod by_hand;
mod gate;
#[cfg(test)]
mod law;
mod recovered;
mod redis;
mod reopening;
mod revocations;
mod rows;
mod sealing;
mod traces;

pub(crate) use allow_lists::{delete_old_allow_lists, rewrite_allow_list};
pub(crate) use by_hand::{EraseError, Erased, correct, discard, discard_all, erase, give_up};
pub(crate) use gate::{
    CouponFence, close_coupon, fences, forget_claimants, note_compared, open_coupons, record_sizes,
};
pub(crate) use recovered::{lost_settings, recover_settings};
pub(crate) use reopening::{Patience, Restored, renew_settings, restore_claimants};
pub(crate) use revocations::restore_revocations;
pub(crate) use rows::{delete_resolved_dead_letters, make_ahead, mend, unseal_where_named};
pub(crate) use sealing::{VerifiedDrop, erase_old_people, keep_unsealed, let_expire, seal};

use std::collections::HashSet;

use chrono::DateTime;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::repair::{GivenSlot, Wanted};
use firstcome_shared::redis::wrong_key::is_about_data;
use firstcome_shared::redis::{Redis, RedisError};
use firstcome_shared::trace::TraceContext;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::collect::DropHeader;
use crate::collect::snapshot::DropFacts;
use crate::plan::{Action, DropRepair, LetterEnd, PhaseStep, Plan, Planned, RowChange, steps};
use crate::stores::Stores;

/// Why the repairs stopped early.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("Redis cannot be reached: {}", without_values(.0))]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Mysql(#[from] DbError),
    /// The process is stopping, or the pass lost its lock.
    #[error("the pass was stopped")]
    Stopped,
}

impl ExecuteError {
    /// Returns the fault in one drop's data, or `None` if a store is unavailable.
    pub fn about_data(&self) -> Option<String> {
        match self {
            Self::Redis(error) => {
                is_about_data(error).then(|| format!("Redis: {}", without_values(error)))
            }
            Self::Mysql(error) => error.is_about_data().then(|| error.to_string()),
            Self::Stopped => None,
        }
    }

    /// Whether the error concerns only this coupon: the store responded, or the statement timed
    /// out. Otherwise, the store is unavailable for all coupons.
    fn is_of_one_coupon(&self) -> bool {
        match self {
            Self::Redis(error) => !error.is_io_error(),
            Self::Mysql(error) => matches!(error, DbError::Query { .. } | DbError::TimedOut { .. }),
            Self::Stopped => false,
        }
    }
}

/// The outcome of one repair, before the next comparison confirms it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepairAttempt {
    /// The change was written, or was already in effect. Contains a detail for the report, if any.
    Done(Option<String>),
    /// The precondition has changed in the meantime, so nothing was done.
    Changed(String),
    /// MySQL refused the row, for this reason.
    Refused(String),
    /// No repair was possible. An operator must decide.
    Left(String),
    /// The item has no repair.
    Reported,
}

/// An attempt, with the trace of its claim if there is one.
pub type Attempted = (RepairAttempt, Option<TraceContext>);

/// Carries out the plan of one drop.
pub struct Executor<'a> {
    pub(crate) db: &'a Db,
    pub(crate) redis: &'a Redis,
    pub(crate) facts: &'a DropFacts,
    pub(crate) run_id: &'a str,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) keys: DropKeys,
    pub(crate) fence: Fence,
    /// Number of slots left for users who wait.
    pub(crate) left: u64,
    /// Whether the counter is repaired only after all pages, or by a later pass.
    counts_later: bool,
    /// Number of repairs so far that may have taken a user out of `users`.
    withdrawn: u64,
    restored: &'a RestoredIn,
}

/// Coupons whose claimants a pass has restored from their rows, with their fences. Restoring reads
/// all rows of a coupon, so it is done once per coupon and not for each drop.
pub type RestoredIn = Mutex<HashSet<(CouponId, Fence)>>;

/// Number of repairs per statement or script.
const AT_ONCE: usize = 500;

impl<'a> Executor<'a> {
    pub fn new(
        stores: &'a Stores,
        header: &'a DropHeader,
        restored: &'a RestoredIn,
        run_id: &'a str,
        stop: &'a CancellationToken,
    ) -> Self {
        let Stores { db, redis, .. } = stores;
        let keys = redis.keys(header.facts.coupon.id, header.drop_id());
        Self {
            db,
            redis,
            facts: &header.facts,
            run_id,
            stop,
            keys,
            // Nothing is written without a fence.
            fence: header.fence.clone().unwrap_or_default(),
            left: 0,
            counts_later: false,
            withdrawn: 0,
            restored,
        }
    }

    /// Carries out every repair in order. Adds the outcome of each item to `attempts`.
    ///
    /// # Errors
    /// [`ExecuteError`] if a store is unavailable or the pass was stopped. Earlier repairs stay in
    /// effect, and their outcomes are in `attempts`.
    pub async fn carry_out(
        &mut self,
        plan: &Plan,
        attempts: &mut Vec<Attempted>,
    ) -> Result<(), ExecuteError> {
        self.left = plan.left;
        // The users of repairs that the plan only counts are not restored yet.
        self.counts_later = plan.counter_waits || !plan.beyond.is_empty();
        for step in steps(&plan.items) {
            self.must_go_on()?;
            match step {
                PhaseStep::Repairs(items) => self.carry_out_alike(items, attempts).await?,
                PhaseStep::Counter => drop(self.repair_count().await?),
            }
        }
        Ok(())
    }

    /// Carries out the repairs of one page. [`Executor::end_pages`] sets the counter. Until then,
    /// the drop is closed to admission.
    pub async fn carry_out_page(
        &mut self,
        items: &[Planned],
        attempts: &mut Vec<Attempted>,
    ) -> Result<(), ExecuteError> {
        self.counts_later = true;
        self.carry_out_alike(items, attempts).await
    }

    async fn carry_out_alike(
        &mut self,
        items: &[Planned],
        attempts: &mut Vec<Attempted>,
    ) -> Result<(), ExecuteError> {
        let withdraws = |item: &&Planned| {
            let action = item.action.as_ref();
            action.is_some_and(|action| {
                action.takes() || matches!(action, Action::Drop(DropRepair::Revocation(_)))
            })
        };
        self.withdrawn += items.iter().filter(withdraws).count() as u64;
        for run in runs_of_a_kind(items) {
            self.must_go_on()?;
            crash_point(Point::RepairBegun);
            let began = Instant::now();
            let traces = self.traces_of(run).await;
            let mut own = Vec::with_capacity(run.len());
            let ended = self.all_of(run, &traces, &mut own).await;
            self.trace_repairs(run, &traces, &own, began.elapsed());
            attempts.extend(own.into_iter().zip(traces));
            ended?;
            crash_point(Point::RepairDone);
        }
        Ok(())
    }

    /// Repairs the counter after the last page, unless it has to wait.
    pub async fn end_pages(&mut self, counter_waits: bool) -> Result<(), ExecuteError> {
        self.counts_later = counter_waits;
        self.repair_count().await.map(drop)
    }

    async fn all_of(
        &mut self,
        run: &[Planned],
        traces: &[Option<TraceContext>],
        attempts: &mut Vec<RepairAttempt>,
    ) -> Result<(), ExecuteError> {
        let together = match &run[0].action {
            Some(Action::Slot(change)) if change.wanted != Wanted::Any => {
                self.set_slots(run).await?
            }
            Some(Action::Row(row)) if row.letter.is_none() => self.issue(run, traces).await?,
            Some(Action::Row(_)) => return self.issue_dead_letters(run, attempts).await,
            Some(Action::Letter(letter)) => match letter.end {
                LetterEnd::Readmitted { .. } => self.readmit(run).await?,
                LetterEnd::Duplicate => self.resolve_duplicates(run).await?,
                LetterEnd::Revoked => self.resolve_revoked(run).await?,
            },
            Some(Action::Drop(DropRepair::Line(_))) => return self.promote(run, attempts).await,
            Some(Action::Slot(_) | Action::Drop(_)) => {
                return self.one_by_one(run, attempts).await;
            }
            None => vec![RepairAttempt::Reported; run.len()],
        };
        attempts.extend(together);
        Ok(())
    }

    async fn one_by_one(
        &self,
        run: &[Planned],
        attempts: &mut Vec<RepairAttempt>,
    ) -> Result<(), ExecuteError> {
        for item in run {
            self.must_go_on()?;
            // Continue after a repair that a store rejects. Stop after a lock timeout, because each
            // further repair would wait just as long.
            let attempt = match self.one(item, attempts).await {
                Err(ExecuteError::Mysql(error)) if error.is_lock_wait() => {
                    return Err(error.into());
                }
                Err(error) => RepairAttempt::Changed(error.about_data().ok_or(error)?),
                Ok(attempt) => attempt,
            };
            attempts.push(attempt);
        }
        Ok(())
    }

    /// Makes one repair and returns the outcome. If a repair fails after its essential part is
    /// done, adds the outcome to `attempts` and returns the error.
    async fn one(
        &self,
        item: &Planned,
        attempts: &mut Vec<RepairAttempt>,
    ) -> Result<RepairAttempt, ExecuteError> {
        match &item.action {
            Some(Action::Slot(change)) => self.move_person(change, item.trace, attempts).await,
            Some(Action::Drop(change)) => match change {
                DropRepair::Settings => self.write_meta().await,
                DropRepair::AllowList => self.write_allow_list().await,
                DropRepair::Everything { holdings, before } => {
                    self.rebuild(holdings, *before).await
                }
                DropRepair::Revocation(half) => self.revoke(half).await,
                DropRepair::Count => self.repair_count().await,
                DropRepair::Line(_) => Ok(RepairAttempt::Reported),
            },
            Some(Action::Row(_) | Action::Letter(_)) | None => Ok(RepairAttempt::Reported),
        }
    }

    /// Returns the claim of a slot that Redis has just given away. The claim's time comes from
    /// Redis's clock, like the times of revocations and later claims with which it is compared.
    pub(crate) fn given(&self, user: &UserId, GivenSlot { slot, at_ms }: GivenSlot) -> Claim {
        let claimed_at = DateTime::from_timestamp_millis(at_ms);
        self.facts.claim(slot, user, claimed_at)
    }

    pub(crate) fn must_go_on(&self) -> Result<(), ExecuteError> {
        if self.stop.is_cancelled() {
            Err(ExecuteError::Stopped)
        } else {
            Ok(())
        }
    }

    pub(crate) fn drop_id(&self) -> DropId {
        self.facts.drop.id
    }
}

/// Groups adjacent repairs that share a statement. Promotions form one group, and so do the rows of
/// dead letters, because both are split into batches later.
fn runs_of_a_kind(items: &[Planned]) -> impl Iterator<Item = &[Planned]> {
    items
        .chunk_by(|a, b| a.order() == b.order())
        .flat_map(|run| {
            let is_whole = matches!(
                run[0].action,
                Some(
                    Action::Drop(DropRepair::Line(_))
                        | Action::Row(RowChange {
                            letter: Some(_),
                            ..
                        })
                )
            );
            run.chunks(if is_whole { run.len() } else { AT_ONCE })
        })
}
