//! The drops of a pass, one after the other, in rounds: plan and repair, then look again at what was repaired.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::DropId;
use firstcome_shared::drops::make_ahead;
use firstcome_shared::mysql::schema::drops;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::findings::Ledger;
use super::{Broken, PassError};
use crate::collect::{Head, Surroundings};
use crate::engine::{Engine, Request};
use crate::execute::Executor;
use crate::plan::{Action, Plan, Planner};
use crate::report::{DropReport, Numbers, Run};

/// Rounds of repair and second look in one pass. One is enough for nearly everything, four for the worst of the generated
/// worlds that the plan's properties are checked on; more would only chase live traffic, which the next pass sees anyway.
pub(crate) const ROUNDS: usize = 5;

/// Pages that each store is asked for at once. One leaves Redis waiting while its answer is read; more only takes memory.
const AHEAD: usize = 2;

impl Engine {
    /// The drops this pass looks at: those not sealed, and sealed ones that the backup table still asks something of.
    pub(super) async fn drops_in_question(&self, request: &Request) -> Result<Vec<(Coupon, Drop)>, Broken> {
        if !request.dry_run {
            self.unseal_where_asked().await?;
        }
        let mut catalogue = self.db.catalogue().await?;
        if request.covers_everything() && !request.dry_run {
            for (coupon, own) in &mut catalogue {
                match make_ahead(&self.db, &self.redis, coupon, own, Utc::now()).await {
                    Ok(0) => {}
                    Ok(made) => {
                        tracing::info!(coupon_id = coupon.id.0, made, "drops made ahead");
                        if let Some((_, fresh)) = self.db.coupon(coupon.id).await? {
                            *own = fresh;
                        }
                    }
                    Err(error) => tracing::warn!(coupon_id = coupon.id.0, %error, "drops could not be made ahead"),
                }
            }
        }
        let wanted = |coupon: &Coupon, drop: &Drop| {
            drop.sealed_at.is_none()
                && request.coupon.is_none_or(|id| id == coupon.id)
                && request.drop.is_none_or(|id| id == drop.id)
        };
        let mut chosen = Vec::new();
        for (coupon, own) in catalogue {
            chosen.extend(own.into_iter().filter(|d| wanted(&coupon, d)).map(|d| (coupon.clone(), d)));
        }
        if request.deep {
            chosen.extend(self.sealed_with_keys(request).await?);
        }
        Ok(chosen)
    }

    /// Whether what is asked for exists; a typing error is no pass that failed. Says nothing where MySQL is away: then the pass
    /// fails, and says so.
    pub(crate) async fn must_exist(&self, request: &Request) -> Result<(), PassError> {
        let missing = match (request.coupon, request.drop) {
            (None, None) => None,
            (Some(coupon), drop) => match self.db.coupon(coupon).await {
                Ok(None) => Some(format!("there is no coupon {coupon}")),
                Ok(Some((_, own))) => drop
                    .filter(|id| own.iter().all(|d| d.id != *id))
                    .map(|id| format!("coupon {coupon} has no drop {id}")),
                Err(_) => None,
            },
            (None, Some(drop)) => {
                let count = self
                    .db
                    .run("find drop", async move |conn| drops::table.find(drop.0).count().get_result::<i64>(conn).await)
                    .await;
                matches!(count, Ok(0)).then(|| format!("there is no drop {drop}"))
            }
        };
        missing.map_or(Ok(()), |what| Err(PassError::NotFound(what)))
    }

    /// Goes through the drops and fills in the run.
    pub(super) async fn go_through(
        &self,
        request: &Request,
        run: &mut Run,
        drops: Vec<(Coupon, Drop)>,
        mut around: Surroundings,
        stop: &CancellationToken,
    ) -> Result<(), Broken> {
        let mut told = Told::default();
        let mut todo = drops;
        for round in 0..=ROUNDS {
            let heads = self.collector.heads(&todo, &around).await?;
            let mut again = Vec::new();
            let mut young = false;
            self.progress.drops.store(todo.len() as u64, Relaxed);
            self.progress.drops_done.store(0, Relaxed);
            for (drop, head) in todo.into_iter().zip(heads) {
                if stop.is_cancelled() {
                    return Err(Broken::Stopped);
                }
                let next = self.one_drop(request, &run.run_id, &head, round, &mut told, stop).await?;
                self.progress.drops_done.fetch_add(1, Relaxed);
                young |= next.too_young;
                if next.too_young || next.repaired {
                    again.push(drop);
                }
            }
            if again.is_empty() {
                break;
            }
            if young {
                // Somebody waits for the answer: what may still be on its way is given the time that it may take.
                tokio::select! {
                    () = tokio::time::sleep(self.publish_deadline()) => {}
                    () = stop.cancelled() => return Err(Broken::Stopped),
                }
            }
            let generations = std::mem::take(&mut around.generations);
            around = Surroundings { generations, ..self.surroundings(run, !around.gate_closed).await? };
            todo = again;
        }
        run.drops = told.into_reports();
        Ok(())
    }

    /// One look at one drop, and its repairs.
    async fn one_drop(
        &self,
        request: &Request,
        run_id: &str,
        head: &Head,
        round: usize,
        told: &mut Told,
        stop: &CancellationToken,
    ) -> Result<Next, Broken> {
        let began = Instant::now();
        let plan = self.look(head).await?;
        crate::metrics::stage("look", began.elapsed());
        let mut next = Next { repaired: false, too_young: plan.young > 0 && request.is_awaited() && round == 0 };
        let (report, ledger) = told.of(head, &plan);
        report.after = plan.numbers;
        report.exact = plan.exact;
        let (coupon, drop) = (head.facts.coupon.id, head.drop_id());
        let repairs = plan.items.iter().any(|item| !matches!(item.action, Action::Report));
        if request.dry_run || (plan.over_limit && !request.confirm) {
            ledger.planned(coupon, drop, &plan.items);
        } else if repairs && round < ROUNDS {
            let stores = (&self.db, &self.redis);
            let began = Instant::now();
            let mut executor = Executor::new(stores, &head.facts, head.generation.clone(), run_id, stop);
            let attempts = executor.carry_out(&plan).await?;
            crate::metrics::stage("execute", began.elapsed());
            ledger.attempts(coupon, drop, &plan.items, &attempts);
            next.repaired = true;
        } else {
            ledger.still_there(coupon, drop, &plan.items);
        }
        if plan.sealable && !next.repaired && !request.dry_run && self.old_enough_to_seal(head) {
            self.seal(head, plan.numbers.rows).await?;
            report.sealed = true;
        }
        Ok(next)
    }

    /// Page by page, several on their way at once: while one is compared, MySQL reads the next and Redis the ones after. Each
    /// page is still read from Redis first, and they are compared in order.
    async fn look(&self, head: &Head) -> Result<Plan, Broken> {
        let mut planner = Planner::new(self.policy, &head.facts);
        let first_looks = self.collector.ranges(head).into_iter().map(|range| self.collector.first_look(head, range));
        let pages =
            stream::iter(first_looks).buffered(AHEAD).map(|seen| async { self.collector.page(head, seen?).await });
        let mut pages = std::pin::pin!(pages.buffered(AHEAD));
        while let Some(page) = pages.try_next().await? {
            self.progress.compared.fetch_add((page.users.len() + page.rows.len()) as u64, Relaxed);
            planner.page(&page);
        }
        Ok(planner.finish())
    }

    fn old_enough_to_seal(&self, head: &Head) -> bool {
        let closed = head.facts.drop.closes_at.map(|at| at.timestamp_millis());
        let settled = i64::try_from(self.settled_after.as_millis()).unwrap_or(i64::MAX);
        closed.is_some_and(|at| at.saturating_add(settled) < head.facts.read_at_ms)
    }

    /// Marks a drop as verified exact; passes skip it from now on, and its keys leave Redis after a while.
    async fn seal(&self, head: &Head, rows: u64) -> Result<(), Broken> {
        let id = head.drop_id().0;
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.db
            .run("seal drop", async move |conn| {
                diesel::update(drops::table.filter(drops::id.eq(id).and(drops::sealed_at.is_null())))
                    .set((drops::sealed_at.eq(Utc::now().naive_utc()), drops::sealed_rows.eq(rows)))
                    .execute(conn)
                    .await
            })
            .await?;
        let keys = self.redis.keys(head.facts.coupon.id, head.drop_id());
        let mut pipe = redis::pipe();
        for key in keys.own() {
            pipe.cmd("EXPIRE").arg(key).arg(self.sealed_keys_ttl.as_secs()).ignore();
        }
        pipe.query_async::<()>(&mut self.redis.connection()).await?;
        Ok(())
    }
}

/// Why a drop is looked at once more.
struct Next {
    /// The next look says whether the repairs took.
    repaired: bool,
    /// Something may still be on its way.
    too_young: bool,
}

/// What is told of the drops, in the order in which they were looked at.
#[derive(Default)]
struct Told {
    drops: Vec<(DropReport, Ledger)>,
    index: HashMap<DropId, usize>,
}

impl Told {
    fn of(&mut self, head: &Head, plan: &Plan) -> (&mut DropReport, &mut Ledger) {
        let next = self.drops.len();
        let at = *self.index.entry(head.drop_id()).or_insert(next);
        if at == next {
            self.drops.push((first_report(head, plan), Ledger::default()));
        }
        let (report, ledger) = &mut self.drops[at];
        (report, ledger)
    }

    fn into_reports(self) -> Vec<DropReport> {
        self.drops
            .into_iter()
            .map(|(report, ledger)| DropReport { findings: ledger.into_findings(), ..report })
            .collect()
    }
}

fn first_report(head: &Head, plan: &Plan) -> DropReport {
    DropReport {
        coupon_id: head.facts.coupon.id,
        coupon_name: head.facts.coupon.name.clone(),
        drop_id: head.drop_id(),
        quantity: head.facts.drop.quantity,
        exact: false,
        sealed: false,
        before: plan.numbers,
        after: Numbers::default(),
        examined: plan.examined,
        findings: Vec::new(),
    }
}
