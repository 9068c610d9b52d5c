//! A pass over the campaigns of a file: the first look at each, one wait for claims that may be on
//! their way or in queues, the second look at those that differ, repairs, and the report. A MySQL
//! or Redis that is away ends the pass with a `stalled` finding, and nothing more is repaired.

use std::collections::BTreeSet;

use chrono::Utc;
use firstcome_shared::domain::CouponId;
use firstcome_shared::hash::hash64;
use firstcome_shared::mysql::held_back::{Asked, Confirmation, ShownRepairs};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check::check;
use crate::config::{Campaign, Mode, Target};
use crate::facts::{Facts, Numbers};
use crate::held::{HeldBecause, Plan, why_held};
use crate::judge::{Judged, Judgement, Repair, judge};
use crate::keys::Keys;
use crate::queue::{Passed, Queue};
use crate::read::{Look, Reader};
use crate::repair::{self, LooksSaw};
use crate::shape::Shape;
use crate::sql::Sql;
use crate::trust::{Known, identity, is_proof};
use crate::{Answer, AttachError, Attached, Ours};
use firstcome_shared::report::{self, Cause, DropReport, Examined, Finding, Kind, Outcome, Run};

/// Default limit of the repairs of one target in a pass: a fifth of the quantity, or fifty if that
/// is more. If there are more, all of them need a confirmation.
const LIMIT_PART: u64 = 5;
const LIMIT_AT_LEAST: u64 = 50;

/// The process was asked to stop, or lost the lock of passes.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

impl Attached {
    /// Compares and repairs this campaign, or all. A store of theirs that is away is a finding.
    pub async fn compare(
        &self,
        campaign: Option<CouponId>,
        asked: Asked,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let run_id = run.run_id.clone();
        let mut pass = Pass {
            attached: self,
            campaign,
            asked,
            run_id: &run_id,
            stop: stop.clone(),
            keys: Keys::new(&self.redis),
        };
        let compared = pass.compare_all(run).await;
        run.partial = compared.is_err() || campaign.is_some();
        match compared {
            Ok(()) => {}
            Err(AttachError::Stopped) => return Err(Stopped),
            Err(error) => run.findings.push(Finding {
                cause: error.cause(),
                ..Finding::report(Kind::Stalled, error.to_string())
            }),
        }
        Ok(())
    }

    /// Connects to their MySQL. If any campaign is repaired, refuses replicas of MySQL and Redis.
    async fn connect(&self, keys: &mut Keys) -> Answer<Sql> {
        let mut sql = Sql::connect(&self.theirs, self.file.max_rows_per_second).await?;
        if self.file.repairs() {
            sql.must_be_primary().await?;
            // In a cluster, commands go to primaries anyway.
            if !self.file.redis_cluster {
                keys.must_be_primary().await?;
            }
        }
        Ok(sql)
    }

    /// Checks every campaign against their stores. Returns notes for the operator.
    pub async fn check(&self) -> Answer<BTreeSet<String>> {
        let mut keys = Keys::new(&self.redis);
        let mut sql = self.connect(&mut keys).await?;
        // The drops of two days have the same notes, of which the set keeps one.
        let mut notes = BTreeSet::new();
        for campaign in &self.file.campaigns {
            let name = &campaign.name;
            for target in campaign.drops(Utc::now()) {
                let shape = check(&target, &mut sql, &mut keys)
                    .await
                    .map_err(|error| error.in_campaign(name))?;
                let warnings = shape.warning.into_iter().chain(shape.notes);
                notes.extend(warnings.map(|it| format!("{name}: {it}")));
                let mut queue = Queue::new(&target, keys.clone(), &self.queues);
                let lists = queue
                    .check()
                    .await
                    .map_err(|error| error.in_campaign(name))?;
                notes.extend(lists.into_iter().map(|it| format!("{name}: {it}")));
            }
        }
        Ok(notes)
    }
}

/// A target after its first look. Only a target that differs gets a second look.
struct Suspect<'a> {
    target: Target<'a>,
    shape: Shape,
    first: Look,
}

impl Suspect<'_> {
    /// Waits until the second look may begin.
    async fn wait(
        self,
        attached: &Attached,
        keys: Keys,
        deadline: Instant,
    ) -> (Self, Answer<Passed>) {
        let queue = Queue::new(&self.target, keys, &attached.queues);
        let passed = queue.pass(self.first.ended, deadline).await;
        (self, passed)
    }
}

struct Pass<'a> {
    attached: &'a Attached,
    /// Only this campaign; `None`: all.
    campaign: Option<CouponId>,
    asked: Asked,
    run_id: &'a str,
    stop: CancellationToken,
    keys: Keys,
}

impl Pass<'_> {
    /// Compares and repairs everything that was asked for.
    async fn compare_all(&mut self, run: &mut Run) -> Answer<()> {
        let mut sql = self.attached.connect(&mut self.keys).await?;
        let mut suspects = Vec::new();
        let is_asked = |id| self.campaign.is_none_or(|asked| asked == id);
        let campaigns = self.attached.file.campaigns.iter();
        for campaign in campaigns.filter(|it| is_asked(it.coupon_id())) {
            for target in campaign.drops(Utc::now()) {
                repair::must_go_on(&self.stop)?;
                let looked = first_look(target, &mut sql, &mut self.keys.clone()).await;
                let looked = match looked {
                    Ok(suspect) => self.must_have_whole_quantity(suspect).await,
                    Err(error) => Err(error),
                };
                match looked {
                    Ok(suspect) => {
                        let facts = suspect.first.and(suspect.first.clone(), &target);
                        let judged = judge(&facts);
                        if judged.found.is_empty() {
                            self.learn(&target, &facts, &judged).await?;
                            let report = drop_report(&target, &facts, judged, facts.now);
                            run.drops.push(report);
                        } else {
                            suspects.push(suspect);
                        }
                    }
                    Err(error) => {
                        let is_lost = matches!(error, AttachError::Lost(_));
                        report_unreadable(run, &target, error)?;
                        if is_lost {
                            sql = self.attached.connect(&mut self.keys).await?;
                        }
                    }
                }
            }
        }
        drop(sql);
        let deadline = Instant::now() + self.attached.queues.patience;
        let mut waiting: FuturesUnordered<_> = suspects
            .into_iter()
            .map(|suspect| suspect.wait(self.attached, self.keys.clone(), deadline))
            .collect();
        loop {
            let next = tokio::select! {
                next = waiting.next() => next,
                () = self.stop.cancelled() => return Err(AttachError::Stopped),
            };
            let Some((suspect, passed)) = next else {
                break;
            };
            let passed = match passed {
                Ok(passed) => passed,
                Err(error) => {
                    report_unreadable(run, &suspect.target, error)?;
                    continue;
                }
            };
            // Connect again: their MySQL may have closed a connection that waited, or an earlier
            // statement may have broken it.
            let mut sql = self.attached.connect(&mut self.keys).await?;
            if let Err(error) = self.repair_suspect(&suspect, passed, &mut sql, run).await {
                report_unreadable(run, &suspect.target, error)?;
            }
        }
        Ok(())
    }

    /// Refuses a quantity that falls with each row, as a number of coupons left does.
    async fn must_have_whole_quantity<'s>(&self, suspect: Suspect<'s>) -> Answer<Suspect<'s>> {
        let target = &suspect.target;
        let known = match &self.attached.ours {
            Some(ours) if target.campaign.quantity_sql.is_some() => {
                ours.known_quantity(target.drop_id()).await?
            }
            _ => None,
        };
        let Look {
            quantity, numbers, ..
        } = &suspect.first;
        if known.is_some_and(|it| it.falls_to(*quantity, numbers.rows)) {
            let why = "quantity_sql: it fell by as many as rows came, as what is left does: select \
                the whole quantity";
            return Err(AttachError::Misfit(why.to_owned()));
        }
        Ok(suspect)
    }

    /// Trusts the mapping if a clean look proves it, and remembers the quantity of every clean
    /// look. While a sale hides a counter that is too high, a look is not clean: somebody may be
    /// adding to the counter what they have already added to the quantity.
    async fn learn(&self, target: &Target<'_>, facts: &Facts, judged: &Judgement) -> Answer<()> {
        let Some(ours) = self.attached.ours.as_ref().filter(|_| judged.is_clean()) else {
            return Ok(());
        };
        if is_proof(facts, judged) {
            ours.trust(&self.attached.file, target.campaign).await?;
        }
        if target.campaign.quantity_sql.is_some() {
            let known = Known {
                quantity: facts.quantity,
                rows: Some(facts.now.rows),
            };
            ours.remember_quantity(target.drop_id(), known).await?;
        }
        Ok(())
    }

    /// Looks again at a target that differs, repairs it, and reports it, even if a store goes away
    /// between two repairs.
    async fn repair_suspect(
        &mut self,
        suspect: &Suspect<'_>,
        passed: Passed,
        sql: &mut Sql,
        run: &mut Run,
    ) -> Answer<()> {
        let target = &suspect.target;
        let shape = &suspect.shape;
        let keys = &mut self.keys.clone();
        let mut reader = Reader {
            target: *target,
            shape,
            sql,
            keys,
        };
        let now = Utc::now();
        reader.sql.set_zone(target.offset(now).as_deref()).await?;
        let mut second = reader.read_all().await?;
        let odd = std::mem::take(&mut second.odd);
        let spelling = second.spelling;
        let mut facts = suspect.first.and(second, target);
        reader.find_dated_late(&mut facts).await?;
        let may_double = may_double(suspect, &facts, passed).await?;
        facts.may_double = target.campaign.mode == Mode::Repair && may_double.is_some();
        facts.unselected.clone_from(&shape.unselected);
        if target.campaign.count.is_some() {
            facts.leaves_out_rows = reader.leaves_out_rows().await?;
        }
        let ours = self.attached.ours.as_ref();
        if let Some(ours) = ours {
            if !facts.sets.unissued.is_empty() || !facts.failed.is_empty() {
                facts.added = ours.added_users(target.drop_id()).await?;
                facts.failing = ours.failing_users(target.drop_id()).await?;
            }
            if stock_may_be_added(target.campaign) {
                let known = ours.known_quantity(target.drop_id()).await?;
                facts.is_quantity_settled = known.is_none_or(|it| it.quantity == facts.quantity);
            }
        }
        let mut judged = judge(&facts);
        self.learn(target, &facts, &judged).await?;
        let mut inserts = judged.found.iter_mut();
        let first = inserts.find(|it| matches!(it.repair, Some(Repair::Insert(..))));
        if let (Some(it), Some(warning)) = (first, may_double) {
            it.finding.detail = format!("{}; {warning}", it.finding.detail);
        }
        let mut ended = Ok(());
        if let Some(ours) = ours.filter(|_| target.campaign.mode == Mode::Repair) {
            let with_repair = judged.found.iter_mut().filter(|it| it.repair.is_some());
            let planned = with_repair.collect();
            let mut approved = self.approved(ours, &facts, target, planned).await?;
            // If the pass ends early, the next one tries those that it did not reach.
            for it in &mut approved {
                it.finding.result = Outcome::Skipped;
            }
            let seen = LooksSaw {
                stock: facts.stock,
                name_users: facts.means.is_some(),
                may_create: facts.now.size == Some(0),
                spelling,
                odd: &odd,
            };
            ended = repair::apply(&mut reader, approved, seen, &self.stop).await;
        }
        let mut after = facts.now;
        if ended.is_ok()
            && judged
                .found
                .iter()
                .any(|it: &Judged| it.finding.result == Outcome::Applied)
        {
            match reader.numbers().await {
                Ok(numbers) => after = numbers,
                Err(error) => ended = Err(error),
            }
        }
        run.drops.push(drop_report(target, &facts, judged, after));
        ended
    }

    /// Returns the repairs that may be made now. The others wait for an operator, who confirms
    /// exactly those that were shown.
    async fn approved<'j>(
        &self,
        ours: &Ours,
        facts: &Facts,
        target: &Target<'_>,
        planned: Vec<&'j mut Judged>,
    ) -> Answer<Vec<&'j mut Judged>> {
        let mut planned = leave_out_returning(ours, target, planned).await?;
        for it in &mut planned {
            it.finding.needs_person = false;
            it.finding.result = Outcome::Planned;
        }
        let file = &self.attached.file;
        let default_limit = (facts.quantity / LIMIT_PART).max(LIMIT_AT_LEAST);
        let plan = Plan {
            is_trusted: ours.trusts(file, target.campaign).await?,
            number: planned.len() as u64,
            limit: target.campaign.repair_limit.unwrap_or(default_limit),
        };
        let mut held = Vec::new();
        let mut now = Vec::new();
        for judged in planned {
            match why_held(plan, judged.doubt) {
                Some(why) => held.push(Held { judged, why }),
                None => now.push(judged),
            }
        }
        if !held.is_empty() {
            let shown = fingerprinted(&held);
            let confirmation = ours
                .db
                .confirmation(target.drop_id(), shown, self.run_id, self.asked)
                .await?;
            if confirmation == Confirmation::Given {
                ours.trust(file, target.campaign).await?;
                now.extend(held.into_iter().map(|it| it.judged));
            } else {
                for it in held {
                    it.judged.hold_back(it.why.after(confirmation));
                }
            }
        }
        if self.asked.dry_run {
            now.clear();
        }
        Ok(now)
    }
}

/// A repair that waits for an operator.
struct Held<'j> {
    judged: &'j mut Judged,
    why: HeldBecause,
}

/// Leaves out repairs that were made twice within an hour, whose differences came back.
async fn leave_out_returning<'j>(
    ours: &Ours,
    target: &Target<'_>,
    mut planned: Vec<&'j mut Judged>,
) -> Answer<Vec<&'j mut Judged>> {
    let twice = ours.repaired_twice(target.drop_id()).await?;
    planned.retain_mut(|it| {
        let came_back = twice.contains(&identity(&it.finding));
        if came_back {
            let why = "it was repaired twice within an hour, and came back: something sets it back";
            it.became((Outcome::Skipped, why.to_owned()));
        }
        !came_back
    });
    Ok(planned)
}

/// Whether a changed quantity in their MySQL may mean that somebody is adding stock to a counter
/// that counts down.
fn stock_may_be_added(campaign: &Campaign) -> bool {
    let counts_down = campaign.count.as_ref().is_some_and(|it| it.means.is_left());
    counts_down && campaign.quantity_sql.is_some()
}

/// Returns the warning that nothing refuses a second row, if a message may come late: with a unique
/// key, MySQL refuses its row, and a queue that has passed holds no such message. But between the
/// looks a user whose claim was rolled back may claim again, with a message behind the ends that
/// were read.
async fn may_double<'s>(
    suspect: &'s Suspect<'_>,
    facts: &Facts,
    mut passed: Passed,
) -> Answer<Option<&'s String>> {
    let Some(warning) = &suspect.shape.warning else {
        return Ok(None);
    };
    let may_wait = suspect.target.campaign.queue.is_empty()
        || facts.is_selling
        || !facts.sets.unissued.is_empty() && passed.has_grown().await?;
    Ok(Some(warning).filter(|_| may_wait))
}

async fn first_look<'a>(target: Target<'a>, sql: &mut Sql, keys: &mut Keys) -> Answer<Suspect<'a>> {
    let shape = check(&target, sql, keys).await?;
    let offset = target.offset(Utc::now());
    sql.set_zone(offset.as_deref()).await?;
    let mut reader = Reader {
        target,
        shape: &shape,
        sql,
        keys,
    };
    let first = reader.read_all().await?;
    Ok(Suspect {
        target,
        shape,
        first,
    })
}

/// Reports a campaign that could not be compared, so that the others can. Returns the error if they
/// cannot be compared either, because a store that all need is away.
fn report_unreadable(run: &mut Run, target: &Target<'_>, error: AttachError) -> Answer<()> {
    if error.is_away() {
        return Err(error);
    }
    let cause = error.cause();
    let why = error.in_campaign(&target.campaign.name).to_string();
    let campaign = match cause {
        // It concerns every campaign that needs the store.
        Cause::Away(_) => None,
        _ => Some(target.campaign.coupon_id()),
    };
    let finding = Finding {
        coupon_id: campaign,
        cause,
        ..Finding::report(Kind::Stalled, why)
    };
    // The drops of two days have the same tables, and often the same error.
    if !run.findings.contains(&finding) {
        run.findings.push(finding);
    }
    Ok(())
}

/// Returns the number of repairs, and a hash that does not depend on their order.
fn fingerprinted(repairs: &[Held<'_>]) -> ShownRepairs {
    ShownRepairs {
        number: u32::try_from(repairs.len()).unwrap_or(u32::MAX),
        fingerprint: repairs
            .iter()
            .map(|it: &Held<'_>| hash64(format!("{:?}", it.judged.repair)))
            .fold(0, u64::wrapping_add),
    }
}

/// Reports a target with its differences.
fn drop_report(
    target: &Target<'_>,
    facts: &Facts,
    judged: Judgement,
    after: Numbers,
) -> DropReport {
    let numbers = |it: Numbers, failed_claims| report::Numbers {
        count: it.count.unwrap_or_default(),
        users: it.size.unwrap_or_default(),
        rows: it.rows,
        failed_claims,
        in_flight: facts.in_flight,
        ..report::Numbers::default()
    };
    let coupon = target.campaign.coupon_id();
    let drop = target.drop_id();
    let findings: Vec<Finding> = judged
        .found
        .into_iter()
        .map(|it: Judged| Finding {
            coupon_id: Some(coupon),
            drop_id: Some(drop),
            ..it.finding
        })
        .collect();
    let closed = findings
        .iter()
        .filter(|it: &&Finding| it.kind == Kind::FailedClaim && it.result == Outcome::Applied)
        .count();
    let before = numbers(facts.now, facts.failed.len() as u64);
    let quantity = u32::try_from(facts.quantity).unwrap_or(u32::MAX);
    let unproven = facts.unproven();
    let is_repaired = findings.iter().all(|it| it.result == Outcome::Applied);
    DropReport {
        coupon_name: target.name(),
        exact: is_repaired
            && !facts.is_selling
            && !judged.counts_unclear
            && unproven.is_none()
            && after.rows <= facts.quantity,
        counts_unclear: judged.counts_unclear,
        unproven,
        before,
        after: numbers(after, (facts.failed.len() - closed) as u64),
        examined: Examined {
            users: before.users,
            rows: before.rows,
            failed_claims: before.failed_claims,
        },
        findings,
        ..DropReport::begun(coupon, drop, quantity)
    }
}
