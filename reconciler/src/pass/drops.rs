//! The drops of a pass, one after the other, in rounds: plan and repair, then look again at what was repaired.

use std::collections::HashMap;

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::DropId;
use firstcome_shared::drops::make_ahead;
use firstcome_shared::mysql::schema::drops;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Broken;
use super::findings::{Ledger, finding};
use crate::collect::{CollectError, Head, Surroundings};
use crate::engine::{Engine, Request};
use crate::execute::{ExecuteError, Executor};
use crate::plan::{Action, Plan, Planner};
use crate::report::{DropReport, Numbers, Outcome, Run};

/// Rounds of repair and second look in one pass. Two are enough for anything one repair leads to; more would only chase
/// live traffic, which the next pass sees anyway.
const ROUNDS: usize = 3;

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
        if chosen.is_empty() && !request.covers_everything() {
            self.must_exist(request).await?;
        }
        Ok(chosen)
    }

    async fn must_exist(&self, request: &Request) -> Result<(), Broken> {
        let known = match request.coupon {
            Some(coupon) => self
                .db
                .coupon(coupon)
                .await?
                .is_some_and(|(_, own)| request.drop.is_none_or(|id| own.iter().any(|d| d.id == id))),
            None => {
                let id = request.drop.map_or(0, |d| d.0);
                self.db
                    .run("find drop", async move |conn| drops::table.find(id).count().get_result::<i64>(conn).await)
                    .await?
                    > 0
            }
        };
        if known { Ok(()) } else { Err(CollectError::NotFound("there is no such coupon or drop".into()).into()) }
    }

    /// Goes through the drops and fills in the run.
    pub(super) async fn go_through(
        &self,
        request: &Request,
        run: &mut Run,
        drops: Vec<(Coupon, Drop)>,
        around: Surroundings,
        stop: &CancellationToken,
    ) -> Result<(), Broken> {
        let mut reports: Vec<DropReport> = Vec::with_capacity(drops.len());
        let mut ledgers: HashMap<DropId, Ledger> = HashMap::new();
        let (mut todo, mut around) = (drops, around);
        for round in 0..=ROUNDS {
            let mut again = Vec::new();
            for (position, head) in self.collector.heads(&todo, &around).await?.into_iter().enumerate() {
                if stop.is_cancelled() {
                    return Err(Broken::Stopped);
                }
                let generation = self.redis.generation(head.facts.coupon.id).await?;
                let began = Instant::now();
                let plan = self.look(&head).await?;
                crate::metrics::stage("look", began.elapsed());
                let ledger = ledgers.entry(head.drop_id()).or_default();
                let report = match reports.iter_mut().find(|r| r.drop_id == head.drop_id()) {
                    Some(report) => report,
                    None => {
                        reports.push(first_report(&head, &plan));
                        let last = reports.len() - 1;
                        &mut reports[last]
                    }
                };
                report.after = plan.numbers;
                report.exact = plan.exact && head.facts.users == plan.numbers.rows;
                let (coupon, drop) = (head.facts.coupon.id, head.drop_id());
                let acts = plan.items.iter().any(|item| !matches!(item.action, Action::Report));
                if request.dry_run || plan.braked {
                    for item in &plan.items {
                        let told = matches!(item.action, Action::Report);
                        ledger.note(finding(
                            item,
                            coupon,
                            drop,
                            if told { Outcome::Skipped } else { Outcome::Planned },
                        ));
                    }
                } else if round == ROUNDS || !acts {
                    ledger.still_there(coupon, drop, &plan.items);
                } else {
                    let mut executor =
                        Executor::new((&self.db, &self.redis), &head.facts, generation, &run.run_id, stop);
                    let began = Instant::now();
                    let carried = executor.carry_out(&plan).await;
                    crate::metrics::stage("execute", began.elapsed());
                    let attempts = carried.map_err(|error| match error {
                        ExecuteError::Stopped => Broken::Stopped,
                        other => other.into(),
                    })?;
                    ledger.attempts(coupon, drop, &plan.items, &attempts);
                    again.push(todo[position].clone());
                    continue;
                }
                // Too young to judge: where somebody waits for the answer, it is looked at once more when it is old enough.
                if plan.young > 0 && request.is_awaited() && round == 0 {
                    again.push(todo[position].clone());
                }
                if plan.sealable && !request.dry_run && self.old_enough_to_seal(&head) {
                    self.seal(&head, plan.numbers.rows).await?;
                    report.sealed = true;
                }
            }
            if again.is_empty() {
                break;
            }
            if round == 0 && request.is_awaited() && again.iter().any(|(_, d)| young(&reports, d.id)) {
                tokio::select! {
                    () = tokio::time::sleep(self.publish_deadline()) => {}
                    () = stop.cancelled() => return Err(Broken::Stopped),
                }
            }
            around = self.surroundings(run, !around.licence_lost).await?;
            todo = again;
        }
        for report in &mut reports {
            report.findings = ledgers.remove(&report.drop_id).map(Ledger::into_findings).unwrap_or_default();
        }
        run.drops = reports;
        Ok(())
    }

    async fn look(&self, head: &Head) -> Result<Plan, Broken> {
        let mut planner = Planner::new(self.policy, &head.facts);
        for range in self.collector.ranges(head) {
            planner.page(&self.collector.page(head, range).await?);
        }
        Ok(planner.finish())
    }

    fn old_enough_to_seal(&self, head: &Head) -> bool {
        let closed = head.facts.drop.closes_at.map(|at| at.timestamp_millis());
        closed.is_some_and(|at| at + self.policy.publish_deadline_ms < head.facts.read_at_ms)
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

fn young(reports: &[DropReport], drop: DropId) -> bool {
    reports.iter().any(|r| r.drop_id == drop && r.after.users > r.after.rows)
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
