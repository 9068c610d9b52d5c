//! The steps of a pass over our own coupons, and of the urgent lane.
//!
//! At most one process in the whole system holds the lock of a lane: *sweep* compares at open gates
//! what was asked for, and *urgent* closes, projects and opens again. *promote* gives out the slots
//! that are left while users wait or are owed one, without a lock. Correctness does not depend on
//! the locks: every repair is idempotent, checks its precondition, and is fenced by the coupon's
//! era.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use firstcome_shared::columns::now;
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::schema::reconciler_state;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::barrier::{self, BarrierError, ReadState};
use crate::context::{
    Confirmation, PassContext, PassError, PassRequest, PassSettings, RowsLeft, Step, Stores,
    millis, sleep,
};
use crate::gate::JudgedGates;
use crate::jobs::{self, Notes};
use crate::ledger::{self, CouponLook};
use crate::reconcile::{self, Wanted};
use crate::record::failure;
use crate::report::{FailureCause, Run};
use crate::{judged, owing, read, sealed_letters, urgent};

/// Has what every pass needs: the stores, the settings, and what earlier passes and jobs noted.
#[derive(Clone)]
pub struct Reconciler {
    pub stores: Stores,
    settings: Arc<PassSettings>,
    /// What the jobs have found, for the next run.
    pub notes: Notes,
    judged_gates: JudgedGates,
}

/// Maximum wait for the lock of the urgent lane.
const PATIENCE: Duration = Duration::from_secs(60);

/// Maximum wait for the consumer to read what was on the topic when a pass began. If it takes
/// longer, the pass issues claims that may have an unread message only if they are overdue.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A sweep that keeps the pace of rows inserts at most the rows of this time.
const PACED: Duration = Duration::from_secs(30);

/// Name in `reconciler_state` of the time at which the last such sweep began.
const PACED_SWEEP: &str = "rows_paced";

/// Why a pass over a cluster was not complete.
const SERVER_AWAY: &str = "a server of the Redis Cluster does not answer as a master: its coupons \
    are closed, and were left out";

/// Margin in addition to the publishing deadline, before young claims are judged again.
const MARGIN: Duration = Duration::from_millis(250);

/// A confirmed pass whose repairs are interrupted tries again for this long, with this pause.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);
const CONFIRMED_PAUSE: Duration = Duration::from_secs(1);

/// Turns in which a confirmed pass looks again at an open coupon that is not exact: its users may be
/// getting slots, or wait for somebody.
const TURNS: u32 = 2;

/// What a look has left to others or reopened.
struct SweepLook {
    ctx: PassContext,
    /// Coupons whose gates another process has changed. It may have opened them again.
    others: Vec<CouponId>,
    /// Coupons that the urgent lane has worked on.
    reopened: Vec<CouponId>,
}

/// Returns the coupons of which another look can tell more. The last look at a coupon decides.
fn worth_another_look(
    looks: &[CouponLook],
    reopened: &[CouponId],
    turn: u32,
    is_confirmed: bool,
) -> BTreeSet<CouponId> {
    let mut again = BTreeSet::new();
    for look in looks {
        let is_closed = look.is_left_closed();
        let is_unfinished = is_confirmed
            && !look.is_held_back()
            && (is_closed || turn < TURNS && look.drops.iter().any(|drop| !drop.exact));
        // Users are promoted, and drops are sealed, at an open gate.
        let is_opened = !is_closed && reopened.contains(&look.coupon);
        let has_young = turn == 0 && look.has_claims_in_flight();
        if has_young || is_opened || is_unfinished {
            again.insert(look.coupon);
        } else {
            again.remove(&look.coupon);
        }
    }
    again
}

impl Reconciler {
    pub fn new(stores: Stores, settings: PassSettings) -> Self {
        Self {
            stores,
            settings: Arc::new(settings),
            notes: Notes::default(),
            judged_gates: JudgedGates::default(),
        }
    }

    /// Returns how many rows a sweep that nobody asked for may insert: those of the time since the
    /// last one of any process, but of half a minute at most. It leaves the rest to the next sweep
    /// instead of sleeping.
    async fn rows_at_pace(&self) -> Result<RowsLeft, DbError> {
        let Some(limit) = self.settings.rows_per_second else {
            return Ok(RowsLeft::default());
        };
        let db = &self.stores.db;
        let since = reconciler_state::table
            .find(PACED_SWEEP)
            .select((reconciler_state::updated_at, now()));
        let since: Option<(DateTime<Utc>, DateTime<Utc>)> =
            db.row("time of the last paced sweep", since).await?;
        db.set_state(PACED_SWEEP, String::new()).await?;
        let since = since.map_or(PACED, |(last, now)| {
            (now - last).to_std().unwrap_or_default().min(PACED)
        });
        let rows = u64::from(limit) * u64::try_from(since.as_millis()).unwrap_or(0) / 1_000;
        Ok(RowsLeft::new(usize::try_from(rows).unwrap_or(usize::MAX)))
    }

    /// Compares, at open gates, everything that the request asks for, and reopens what is closed or
    /// dirty under the lock of the urgent lane.
    pub(crate) async fn sweep(
        &self,
        request: &PassRequest,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Step<()> {
        let scope = request.scope;
        let mut looks: Vec<CouponLook> = Vec::new();
        let compared = self.coupons(request, &run.run_id, stop, &mut looks).await;
        // Do this even if the pass fails, because some of it was done.
        let looks = ledger::sum(looks, request.dry_run);
        let answers = self.notes.answers();
        let judged = judged::by_pass(request, &looks, &answers);
        let mut hindered = None;
        for look in looks.into_values() {
            run.findings.extend(look.findings);
            run.drops.extend(look.drops);
            hindered = hindered.or(look.redis_error);
        }
        let ctx = compared?;
        let missing = ctx.servers.are_in_part().then(|| SERVER_AWAY.to_owned());
        // Redis may have begun to refuse since the pass began.
        let errors = [
            (FailureCause::Kafka, &ctx.topic_error),
            (FailureCause::Redis, &hindered),
            (FailureCause::Redis, &missing),
        ];
        for (cause, error) in errors {
            if let Some(why) = error {
                run.findings.push(failure(cause, why.clone()));
                run.error = Some(why.clone());
            }
        }
        if scope.is_everything() {
            run.findings.extend(answers.into_values().flatten());
        }
        if request.deep {
            jobs::count_sealed(&self.stores.db, scope, run).await?;
            run.findings
                .extend(jobs::stray_uses(&self.stores.db, scope).await?);
        }
        owing::report_owing(&ctx, scope, run).await?;
        sealed_letters::judge_letters(&ctx, scope, run).await?;
        run.partial = !scope.is_everything();
        if run.error.is_none() {
            run.judged = judged;
        }
        Ok(())
    }

    /// Looks at the coupons, and adds what was found and done to `looks`, also if an error stops the
    /// pass. If somebody waits for the pass, it looks again where that can tell more; a confirmed one
    /// until its repairs are made. Whatever interrupts these (the watch, another process, a store
    /// that is away for a moment), the fingerprint still holds for the same repairs only.
    async fn coupons(
        &self,
        request: &PassRequest,
        run_id: &str,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<PassContext> {
        let is_awaited = request.ask.is_awaited();
        let rows_left = if is_awaited {
            RowsLeft::default()
        } else {
            self.rows_at_pace().await?
        };
        let began = Instant::now();
        let mut which = request.scope.coupon.map(|coupon| vec![coupon]);
        let mut turn = 0;
        loop {
            let before = looks.len();
            // Without a coupon, the repairs of others than the confirmed ones would be tried, too.
            let is_tried = turn < TURNS || request.scope.coupon.is_some();
            let is_confirmed =
                request.confirms.is_some() && is_tried && began.elapsed() < CONFIRMED_WITHIN;
            let rows_left = rows_left.clone();
            let looked = self.look(request, which.clone(), run_id, rows_left, stop, looks);
            let looked = match looked.await {
                Err(error) if is_confirmed && error.cause() != FailureCause::Other => {
                    tracing::warn!(run_id, %error, "confirmed repairs are tried again");
                    sleep(CONFIRMED_PAUSE, stop).await?;
                    continue;
                }
                looked => looked?,
            };
            let SweepLook {
                ctx,
                others,
                reopened,
            } = looked;
            if turn > 0 && !is_confirmed {
                looks.extend(others.into_iter().map(urgent::of_others));
                return Ok(ctx);
            }
            let new = &looks[before..];
            let mut again: BTreeSet<CouponId> = others.into_iter().collect();
            if is_awaited {
                again.extend(worth_another_look(new, &reopened, turn, is_confirmed));
            }
            if again.is_empty() {
                return Ok(ctx);
            }
            if is_awaited && turn == 0 && new.iter().any(CouponLook::has_claims_in_flight) {
                sleep(millis(ctx.publish_ms) + MARGIN, stop).await?;
            } else if turn > 0 {
                sleep(CONFIRMED_PAUSE, stop).await?;
            }
            turn += 1;
            which = Some(again.into_iter().collect());
        }
    }

    /// Compares coupons, and reopens those that need it.
    async fn look(
        &self,
        request: &PassRequest,
        which: Option<Vec<CouponId>>,
        run_id: &str,
        rows_left: RowsLeft,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<SweepLook> {
        let ctx = PassContext {
            rows_left,
            ..self.context(request, run_id, stop).await?
        };
        let all = read::catalogue(&ctx, which, request.scope.drop).await?;
        let wanted = reconcile::coupons(&ctx, all, &HashMap::new(), looks).await?;
        if ctx.stores.redis.servers().await? != ctx.servers {
            return Err(PassError::Replaced);
        }
        let mut reopened: Vec<CouponId> = wanted.keys().copied().collect();
        let mut others = Vec::new();
        if !wanted.is_empty() {
            let confirms = ctx.confirms.clone();
            let reopening = self.urgent(wanted, run_id, confirms, stop, looks);
            others = reopening.await?;
            reopened.retain(|id| !others.contains(id));
        }
        Ok(SweepLook {
            ctx,
            others,
            reopened,
        })
    }

    /// Reopens coupons under the lock of the urgent lane: for a run, which may be confirmed, or for
    /// the watch. Adds what was found and done to `looks`, also if an error stops it. Returns the
    /// coupons whose gates another process has changed.
    pub(crate) async fn urgent(
        &self,
        wanted: Wanted,
        run_id: &str,
        confirms: Confirmation,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<Vec<CouponId>> {
        let db = &self.stores.db_settings;
        let Some(lock) = PassLock::take(db, Work::Reopening, PATIENCE, stop).await? else {
            return Ok(wanted.into_keys().collect());
        };
        // Nothing is judged before the gate is closed and the consumer has read the topic.
        let ended = match self.context_without_topic(run_id, lock.working()).await {
            Ok(ctx) => urgent::reopen(&PassContext { confirms, ..ctx }, wanted, looks).await,
            Err(error) => Err(error),
        };
        lock.release().await;
        ended.map_err(|error| error.or_lock_lost(stop))
    }

    /// Reads the moment of a pass: Redis's clock, then the end offsets, then the positions.
    async fn context(
        &self,
        request: &PassRequest,
        run_id: &str,
        stop: &CancellationToken,
    ) -> Step<PassContext> {
        let ctx = self.context_without_topic(run_id, stop).await?;
        let state = match barrier::wait(&ctx.stores, CATCH_UP, stop).await {
            Ok(state) => Ok(state),
            Err(BarrierError::Mysql(error)) => return Err(error.into()),
            Err(why @ BarrierError::Kafka(_)) => Err(why.to_string()),
        };
        let deadlines = barrier::deadlines(&ctx.stores.db, self.settings.deadlines).await?;
        Ok(PassContext {
            dry_run: request.dry_run,
            deep: request.deep,
            confirms: request.confirms.clone(),
            is_read: state.as_ref().is_ok_and(|state| state.is_reached),
            is_unattended: state.as_ref().map_or(true, ReadState::is_unattended),
            topic_error: state.err(),
            publish_ms: deadlines.publish_ms,
            in_flight_ms: deadlines.in_flight_ms,
            ..ctx
        })
    }

    /// Reads the servers and Redis's clock. Claims may be in flight, and have unread messages.
    pub(crate) async fn context_without_topic(
        &self,
        run_id: &str,
        stop: &CancellationToken,
    ) -> Step<PassContext> {
        let stores = self.stores.pinned().await?;
        let servers = stores.redis.servers().await?;
        let clocks = stores.redis.clocks().await?;
        Ok(PassContext {
            stores,
            settings: self.settings.clone(),
            run_id: run_id.to_owned(),
            dry_run: false,
            deep: false,
            confirms: Confirmation::None,
            servers,
            clocks,
            is_read: false,
            is_unattended: false,
            rows_left: RowsLeft::default(),
            judged_gates: self.judged_gates.clone(),
            topic_error: None,
            publish_ms: 0,
            in_flight_ms: 0,
            stop: stop.child_token(),
        })
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::DropId;

    use super::*;
    use crate::report::{ActionKind, DropReport, Finding, Fingerprint, HeldBack, Kind, Outcome};

    #[test]
    fn confirmed_repairs_are_tried_again_unless_others_are_needed() {
        let look = |exact, held_back| CouponLook {
            drops: vec![DropReport {
                exact,
                held_back,
                ..DropReport::begun(CouponId(1), DropId(7), 9)
            }],
            ..CouponLook::new(CouponId(1))
        };
        let open = ActionKind::Open;
        let closed = Finding::new(Kind::RedisLost, open, Outcome::Failed, "it stays closed");
        let others_needed = HeldBack {
            users: 6,
            fingerprint: Fingerprint(7),
        };
        for (look, turns) in [
            (CouponLook::at_whole(CouponId(1), closed), 9),
            (look(false, None), TURNS),
            (look(false, Some(others_needed)), 0),
            (look(true, None), 0),
        ] {
            let looks = [look];
            let is_repeated = |turn: &u32| !worth_another_look(&looks, &[], *turn, true).is_empty();
            let repeated = (0..9).take_while(is_repeated).count();
            assert_eq!(repeated, turns as usize, "{looks:?}");
            assert!(worth_another_look(&looks, &[], 0, false).is_empty());
        }
        let mut young = [look(true, None)];
        young[0].drops[0].after.in_flight = 1;
        let in_traffic = |turn| worth_another_look(&young, &[], turn, true).len();
        assert_eq!([0, 1].map(in_traffic), [1, 0], "users go on claiming");
    }
}
