//! Processes the drops of a pass in rounds: plans and repairs each drop, then compares the repaired
//! drops again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::held_back::ShownRepairs;
use firstcome_shared::mysql::processes::Work;
use firstcome_shared::redis::keys::DropMeta;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use super::findings::FindingLedger;
use super::order::portions;
use super::rebuild::put_back;
use super::reports::{ConfirmedRepairs, Reports};
use super::request::{Aborted, Obstacle};
use super::steps::Pass;
use crate::collect::snapshot::SlotRange;
use crate::collect::{self, CollectError, DropHeader};
use crate::execute::{self, Patience, VerifiedDrop};
use crate::plan::{Action, Plan, Planned, Planner};
use crate::record;
use crate::report::{ActionKind, Finding, Kind, Outcome, Trigger};

/// Maximum number of rounds of repair and comparison in one pass. One is nearly always enough, and
/// the worst cases of the planner's property tests need four. Further rounds would only follow live
/// traffic, which the next pass covers.
pub(crate) const ROUNDS: usize = 5;

/// Number of pages requested from each store in advance. With one, Redis is idle while its response
/// is processed. More than two only need more memory.
const AHEAD: usize = 2;

/// Number of small drops that are read concurrently. A pass over thousands of them mostly waits for
/// responses.
const DROPS_AHEAD: usize = 8;

impl Pass<'_> {
    /// Returns the drops to compare: those that are not sealed, sealed ones with a dead letter and,
    /// in a deep pass, sealed ones that Redis still has.
    pub(super) async fn drops_in_question(&mut self) -> Result<Vec<(Coupon, Drop)>, Aborted> {
        let request = self.request;
        if !request.dry_run && request.work == Work::Pass {
            execute::unseal_where_named(&self.stores.db).await?;
        }
        let mut catalogue = self.stores.db.catalogue().await?;
        if self.covers_everything() {
            if request.deep {
                catalogue.extend(self.stores.db.coupons_without_drops().await?);
            }
            let refused = execute::make_ahead(self.stores, &mut catalogue).await?;
            self.run
                .findings
                .extend(refused.into_iter().map(|(coupon, why)| {
                    let detail = format!("drops of this coupon cannot be created: {why}");
                    Finding {
                        coupon_id: Some(coupon),
                        ..Finding::general(Kind::Unissued, ActionKind::Report, detail)
                    }
                }));
        }
        let wanted = |coupon: &Coupon, drop: &Drop| {
            drop.sealed_at.is_none()
                && request.coupon.is_none_or(|id| id == coupon.id)
                && request.drop.is_none_or(|id| id == drop.id)
        };
        let mut chosen = Vec::new();
        for (coupon, own) in catalogue {
            chosen.extend(
                own.into_iter()
                    .filter(|d| wanted(&coupon, d))
                    .map(|d| (coupon.clone(), d)),
            );
        }
        if request.deep {
            chosen.extend(self.sealed_with_keys().await?);
        }
        Ok(chosen)
    }

    /// Compares and repairs the drops, and adds their reports to the run.
    pub(super) async fn compare_and_repair(
        &mut self,
        drops: Vec<(Coupon, Drop)>,
    ) -> Result<(), Aborted> {
        let mut reports = Reports::default();
        self.held_before = self.stores.db.drops_held_back().await?;
        self.memory.progress.begin(drops.len());
        let ended = self.all_portions(drops, &mut reports).await;
        // Do this even if the pass ends early, because later passes no longer find what this pass
        // has repaired.
        self.run.drops = reports.into_drops();
        self.run.partial = ended.is_err() || !self.request.covers_everything();
        ended
    }

    async fn all_portions(
        &mut self,
        drops: Vec<(Coupon, Drop)>,
        reports: &mut Reports,
    ) -> Result<(), Aborted> {
        let mut put_off = Vec::new();
        for portion in portions(drops, &self.context.unverified, &self.histories) {
            // The coupons that are left are open. They must not delay the next reopening.
            let is_open =
                |(coupon, _): &(Coupon, Drop)| !self.context.unverified.contains(&coupon.id);
            if portion.first().is_some_and(is_open)
                && let Some(lock) = self.reopening.take()
            {
                lock.release().await;
            }
            put_off.extend(self.one_portion(portion, reports).await?);
        }
        for coupon in put_off {
            self.open_verified(&[coupon], Patience::Waits).await?;
        }
        Ok(())
    }

    /// Returns the coupons that are verified and could not be opened yet.
    async fn one_portion(
        &mut self,
        mut todo: Vec<(Coupon, Drop)>,
        reports: &mut Reports,
    ) -> Result<Vec<CouponId>, Aborted> {
        let is_closed = todo
            .first()
            .is_some_and(|(coupon, _)| self.context.unverified.contains(&coupon.id));
        let mut verified = Vec::new();
        for round in 0..=ROUNDS {
            self.must_be_same_life().await?;
            let again = self.one_round(todo, round, reports).await?;
            self.open_verified(&again.verified, Patience::None).await?;
            verified.extend(again.verified);
            if again.drops.is_empty() {
                break;
            }
            if !again.wait.is_zero() {
                self.sleep(again.wait).await?;
            }
            // While a coupon is closed, no user is admitted, so the messages that were already read
            // are still complete.
            if !again.wait.is_zero() || !is_closed {
                self.context = self.fresh_context().await?;
            }
            todo = self.as_of_now(again.drops).await?;
        }
        Ok(verified
            .into_iter()
            .filter(|coupon| self.context.unverified.contains(coupon))
            .collect())
    }

    async fn one_round(
        &mut self,
        todo: Vec<(Coupon, Drop)>,
        round: usize,
        reports: &mut Reports,
    ) -> Result<Again, Aborted> {
        let headers = collect::headers(self.stores, &todo, &self.context).await?;
        let mut again = Again::default();
        let mut headers: VecDeque<_> = headers.into();
        let mut ahead = VecDeque::new();
        let mut repaired = HashSet::new();
        let mut drops = todo.into_iter().peekable();
        while let Some(drop) = drops.next() {
            if self.stop.is_cancelled() {
                return Err(Aborted::Stopped);
            }
            let coupon = drop.0.id;
            if ahead.is_empty() {
                repaired = HashSet::new();
                ahead = self.plans_ahead(headers.iter().take(DROPS_AHEAD)).await;
            }
            // A repair may have changed data of another drop of its coupon that was already read.
            let plan = ahead
                .pop_front()
                .flatten()
                .filter(|_| !repaired.contains(&coupon));
            // Bulkhead: bad data of one drop must not stop the repair of others.
            let next = match self
                .one_drop_of(headers.pop_front(), plan, round, reports)
                .await
            {
                Err(error) => {
                    let why = self
                        .with_the_key(&drop.0, &drop.1, error.of_one_drop().ok_or(error)?)
                        .await;
                    reports.unworkable(&drop.0, &drop.1, why);
                    Next::default()
                }
                Ok(next) => next,
            };
            self.memory
                .progress
                .drops_done
                .fetch_add(u64::from(round == 0), Relaxed);
            again.wait = again.wait.max(next.wait);
            if next.compare_again {
                repaired.insert(coupon);
            }
            if !next.wait.is_zero() || next.compare_again {
                again.drops.push(drop);
            }
            let is_last = drops.peek().is_none_or(|next| next.0.id != coupon);
            let is_done = is_last && again.drops.last().is_none_or(|again| again.0.id != coupon);
            if is_done && self.context.unverified.contains(&coupon) && reports.are_whole(coupon) {
                again.verified.push(coupon);
            }
        }
        Ok(again)
    }

    /// Adds the name of the key with the wrong type to an error about it, because Redis does not
    /// name the key in its errors.
    async fn with_the_key(&self, coupon: &Coupon, drop: &Drop, why: Obstacle) -> Obstacle {
        let Obstacle::Redis(said) = why else {
            return why;
        };
        let keys = self.stores.redis.keys(coupon.id, drop.id);
        match self.stores.redis.wrong_key(&keys).await {
            Ok(Some(wrong)) => Obstacle::KeyOfWrongType(wrong),
            Ok(None) => Obstacle::Redis(said),
            Err(error) => {
                tracing::warn!(coupon_id = coupon.id.0, %error, "cannot read the types of a drop's keys");
                Obstacle::Redis(said)
            }
        }
    }

    async fn one_drop_of(
        &self,
        header: Option<Result<DropHeader, CollectError>>,
        ahead: Option<Result<Plan, Aborted>>,
        round: usize,
        reports: &mut Reports,
    ) -> Result<Next, Aborted> {
        let Some(header) = header.transpose()? else {
            return Ok(Next::default());
        };
        let plan = match ahead {
            Some(plan) => plan?,
            None => self.plan(&header).await?,
        };
        self.one_drop(&header, plan, round, reports).await
    }

    /// Plans drops with a single page concurrently. Returns `None` for larger drops, which are read
    /// separately.
    async fn plans_ahead(
        &self,
        headers: impl Iterator<Item = &Result<DropHeader, CollectError>>,
    ) -> VecDeque<Option<Result<Plan, Aborted>>> {
        let plans = headers.map(async |header| match header {
            Ok(header) if header.upper() <= self.settings.page_slots => {
                Some(self.plan(header).await)
            }
            _ => None,
        });
        futures_util::future::join_all(plans).await.into()
    }

    /// Compares one drop, and repairs it.
    async fn one_drop(
        &self,
        header: &DropHeader,
        mut plan: Plan,
        round: usize,
        reports: &mut Reports,
    ) -> Result<Next, Aborted> {
        if !self.request.dry_run {
            execute::mend(
                &self.stores.db,
                header.drop_id(),
                &header.facts.promises.kept,
            )
            .await?;
        }
        let wait = if plan.young == 0 || !self.request.is_awaited() || round > 0 {
            Duration::ZERO
        } else if plan.counter_waits {
            self.settings.longest_in_flight()
        } else {
            self.settings.publish_deadline()
        };
        let mut next = Next {
            compare_again: false,
            wait,
        };
        // A raised quantity can make `over_admitted` stale, so compare again. In the last round
        // repair anyway: every script checks its precondition again.
        let has_more_rows = plan.numbers.rows > u64::from(header.facts.drop.quantity);
        if round + 1 < ROUNDS
            && (has_more_rows || plan.items.iter().any(by_settings))
            && self.is_outdated(header).await?
        {
            return Ok(Next {
                compare_again: true,
                ..next
            });
        }
        let held_back = self.held_back(header.drop_id(), &plan, reports).await?;
        let (report, ledger) = reports.of(&header.facts.coupon, &header.facts.drop, &plan);
        ledger.forget_reports();
        report.quantity = header.facts.drop.quantity;
        report.after = plan.numbers;
        report.exact = plan.exact;
        let coupon = header.facts.coupon.id;
        let drop = header.drop_id();
        let all_wait = self.request.dry_run || held_back.is_some() && !header.facts.gate_closed;
        let some_wait = all_wait || held_back.is_some();
        if some_wait {
            let waiting = plan.take_waiting(!all_wait);
            ledger.planned(coupon, drop, &waiting, &held_back.unwrap_or_default());
        }
        let of_beyond = if some_wait {
            Outcome::Planned
        } else {
            Outcome::Failed
        };
        // Page-by-page repairs have to wait until a lost drop is rebuilt.
        let by_pages = !plan.beyond.is_empty() && !header.facts.is_lost();
        let has_repairs = plan.items.iter().any(|item| item.action.is_some());
        if all_wait {
            ledger.unnamed(&plan.beyond, of_beyond);
        } else if by_pages && !ledger.has_repaired_pages && round < ROUNDS {
            self.must_be_same_life().await?;
            self.repair_pages(header, &plan, some_wait, ledger).await?;
            next.compare_again = true;
        } else if has_repairs && round < ROUNDS {
            self.must_be_same_life().await?;
            let began = Instant::now();
            let mut executor = self.executor(header);
            let mut attempts = Vec::with_capacity(plan.items.len());
            let ended = executor.carry_out(&plan, &mut attempts).await;
            crate::metrics::stage("execute", began.elapsed());
            ledger.attempts(coupon, drop, &plan.items, &attempts);
            ledger.unnamed(&plan.beyond, of_beyond);
            ended?;
            next.compare_again = true;
        } else {
            ledger.still_there(coupon, drop, &plan.items, header.facts.gate_closed);
            ledger.unnamed(&plan.beyond, of_beyond);
        }
        let is_sealable = plan.sealable && !next.compare_again && !self.request.dry_run;
        if is_sealable && self.old_enough_to_seal(header) {
            let verified = VerifiedDrop {
                rows: plan.numbers.rows,
                revocations: header.facts.revocations.number,
            };
            let ttl = self.settings.sealed_keys_ttl;
            report.sealed = execute::seal(self.stores, &header.facts.drop, verified, ttl).await?;
        }
        Ok(next)
    }

    /// Whether the drop's settings have changed since it was planned. Compares settings, not the
    /// coupon's revision, because repairs also take revisions.
    async fn is_outdated(&self, header: &DropHeader) -> Result<bool, Aborted> {
        let coupon = &header.facts.coupon;
        let drop = &header.facts.drop;
        let now = self.as_of_now(vec![(coupon.clone(), drop.clone())]).await?;
        Ok(now
            .iter()
            .any(|(c, d)| DropMeta::of(c, d) != DropMeta::of(coupon, drop)))
    }

    /// Returns the same drops with their current settings in MySQL.
    async fn as_of_now(
        &self,
        mut drops: Vec<(Coupon, Drop)>,
    ) -> Result<Vec<(Coupon, Drop)>, Aborted> {
        let mut ids: Vec<CouponId> = drops.iter().map(|(coupon, _)| coupon.id).collect();
        ids.dedup();
        let now = self.stores.db.coupons_by_id(ids).await?;
        let now: HashMap<CouponId, (Coupon, Vec<Drop>)> =
            now.into_iter().map(|one| (one.0.id, one)).collect();
        for (coupon, drop) in &mut drops {
            let Some((changed, own)) = now.get(&coupon.id) else {
                continue;
            };
            coupon.clone_from(changed);
            if let Some(own) = own.iter().find(|own| own.id == drop.id) {
                drop.clone_from(own);
            }
        }
        Ok(drops)
    }

    /// Returns why repairs must wait for an operator, or `None` if they need not wait. A
    /// confirmation covers exactly the repairs that were shown and, in later rounds, those of them
    /// that are left.
    async fn held_back(
        &self,
        drop: DropId,
        plan: &Plan,
        reports: &mut Reports,
    ) -> Result<Option<String>, Aborted> {
        let db = &self.stores.db;
        let request = self.request;
        if !plan.over_limit {
            if !request.dry_run && self.held_before.contains(&drop) {
                record::forget_held_back(db, drop).await?;
            }
            return Ok(None);
        }
        let confirmed = reports.confirmed.get(&drop);
        if confirmed.is_some_and(|confirmed| confirmed.include(plan)) {
            return Ok(None);
        }
        let now = ShownRepairs {
            number: u32::try_from(plan.repairs).unwrap_or(u32::MAX),
            fingerprint: Some(plan.fingerprint),
        };
        let seen = db.shown_repairs(drop).await?;
        let asks = request.confirm && !request.dry_run;
        if asks && seen == Some(now) {
            let confirmed = ConfirmedRepairs::of(plan);
            reports.confirmed.insert(drop, confirmed);
            return Ok(None);
        }
        let looked = request.confirm || request.dry_run;
        record::hold_back(db, drop, now, &self.run.run_id, looked).await?;
        let now = now.number;
        Ok(Some(match seen.map(|seen| seen.number) {
            _ if !asks => String::new(),
            Some(seen) if seen == now => format!(
                "not confirmed: these are other repairs than the {seen} that were shown; confirm again"
            ),
            Some(seen) => format!(
                "not confirmed: there were {seen} such repairs, now there are {now}; confirm again"
            ),
            None => format!(
                "not confirmed: no pass has shown these {now} repairs before; confirm again"
            ),
        }))
    }

    /// Carries out only the repairs that do not fit in memory, page by page. The next comparison
    /// finds any other repairs that are left.
    async fn repair_pages(
        &self,
        header: &DropHeader,
        plan: &Plan,
        some_wait: bool,
        ledger: &mut FindingLedger,
    ) -> Result<(), Aborted> {
        let began = Instant::now();
        let coupon = header.facts.coupon.id;
        let mut planner = Planner::new(self.settings.policy, &header.facts);
        let mut executor = self.executor(header);
        let mut pages = std::pin::pin!(self.pages(header));
        ledger.begin_pages();
        while let Some(page) = pages.try_next().await? {
            let mut items = planner.repairs_of(&page);
            if some_wait {
                items.retain(|item| item.action.as_ref().is_some_and(Action::only_adds));
            }
            let mut attempts = Vec::with_capacity(items.len());
            let ended = executor.carry_out_page(&items, &mut attempts).await;
            ledger.attempts(coupon, header.drop_id(), &items, &attempts);
            ended?;
        }
        // Set the counter, unless it has to wait: a user may have lost their slot while the pages
        // were repaired.
        executor
            .end_pages(plan.counter_waits || planner.has_absent())
            .await?;
        crate::metrics::stage("execute", began.elapsed());
        Ok(())
    }

    /// Plans a drop page by page in a pipeline: while one page is compared, MySQL reads the next
    /// one and Redis those after it. Each page is read from Redis before MySQL, and pages are
    /// compared in order.
    async fn plan(&self, header: &DropHeader) -> Result<Plan, Aborted> {
        let began = Instant::now();
        if self.request.trigger == Trigger::Cron
            && !self.request.deep
            && let Some(plan) = self
                .memory
                .verified
                .unchanged(header, &self.stores.db)
                .await?
        {
            return Ok(plan);
        }
        let mut planner = Planner::new(self.settings.policy, &header.facts);
        let mut pages = std::pin::pin!(self.pages(header));
        let rebuilding = self.begin_rebuild(header).await?;
        while let Some(page) = pages.try_next().await? {
            if self.stop.is_cancelled() {
                return Err(Aborted::Stopped);
            }
            self.memory
                .progress
                .compared
                .fetch_add((page.users.len() + page.rows.len()) as u64, Relaxed);
            planner.page(&page);
            if let Some(executor) = &rebuilding {
                put_back(executor, &mut planner).await?;
            }
        }
        let plan = planner.finish();
        self.memory
            .verified
            .note(header, &plan, self.settings.page_slots);
        crate::metrics::stage("look", began.elapsed());
        Ok(plan)
    }

    /// Reads the pages of a drop, in order of slots.
    fn pages<'h>(
        &'h self,
        header: &'h DropHeader,
    ) -> impl Stream<Item = Result<SlotRange, CollectError>> + 'h {
        let stores = self.stores;
        let ranges = header.ranges(self.settings.page_slots).into_iter();
        stream::iter(ranges.map(move |range| collect::redis_page(stores, header, range)))
            .buffered(AHEAD)
            .map(move |seen| async move {
                let (range, seen) = seen?;
                collect::page(stores, header, range, seen).await
            })
            .buffered(AHEAD)
    }

    /// Whether the drop has been closed long enough to be sealed, according to both Redis's clock
    /// and this host's: if either is wrong, users may still be admitted.
    fn old_enough_to_seal(&self, header: &DropHeader) -> bool {
        let closed = header.facts.drop.closes_at.map(|at| at.timestamp_millis());
        let now_ms = header
            .facts
            .read_at_ms
            .min(chrono::Utc::now().timestamp_millis());
        closed.is_some_and(|at| at.saturating_add(self.settings.policy.in_flight_ms) < now_ms)
    }
}

/// Whether a change of settings may explain the finding.
fn by_settings(item: &Planned) -> bool {
    matches!(item.kind, Kind::OverAdmitted | Kind::CountMismatch)
}

/// The drops for the next round.
#[derive(Default)]
struct Again {
    drops: Vec<(Coupon, Drop)>,
    wait: Duration,
    /// Coupons that were closed and are now verified.
    verified: Vec<CouponId>,
}

/// Why a drop is compared again.
#[derive(Default)]
struct Next {
    /// Whether the next comparison must show if the repairs took effect, or what is left after an
    /// operator's change.
    compare_again: bool,
    /// Time to wait before the next round, because an admission is too recent to judge and a caller
    /// waits for the result.
    wait: Duration,
}
