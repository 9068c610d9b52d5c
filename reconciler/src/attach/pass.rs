//! A pass over the campaigns of a file: the first look at each, one wait for claims that may be on
//! their way, the second look at those that differ, repairs, and the report. A store that is away
//! ends the pass with a `stalled` finding, and nothing is repaired.

use chrono::Utc;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::UserId;
use firstcome_shared::mysql::held_back::ShownRepairs;
use firstcome_shared::mysql::processes::{PassLock, Work};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::check::{Shape, check};
use super::config::{Mode, Target};
use super::judge::{Facts, Judged, judge};
use super::keys::Keys;
use super::read::{Look, Numbers, Reader};
use super::repair;
use super::sql::Sql;
use super::{AttachError, Attached, Ours};
use crate::context::{PassError, PassRequest};
use crate::passes::PassResult;
use crate::record;
use crate::report::{self, DropReport, Examined, Finding, Kind, Outcome, Run};
use crate::run::{blank, fail};

/// A pass repairs a fifth of the quantity without a confirmation, and at least fifty.
const LIMIT_PART: u64 = 5;
const LIMIT_AT_LEAST: u64 = 50;

impl Attached {
    /// Runs one pass, and records it in our tables. A store of theirs that is away is a finding.
    pub async fn pass(
        &self,
        request: &PassRequest,
        run_id: &str,
        stop: &CancellationToken,
    ) -> PassResult {
        let mut run = blank(request, run_id);
        let Some(ours) = &self.ours else {
            Pass::new(self, request, run_id, stop.clone())
                .run(&mut run)
                .await;
            return Ok(run);
        };
        let lock = match PassLock::take(&ours.settings, Work::Pass, request.patience).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(PassError::Busy),
            Err(error) => {
                fail(&mut run, &error.into());
                return Ok(run);
            }
        };
        if let Err(error) = record::begin(&ours.db, &run, request).await {
            fail(&mut run, &error.into());
        } else {
            self.progress.begin(run_id);
            crash_point(Point::RunBegun);
            // Ends between two repairs if the process stops or the lock is lost.
            let working = stop.child_token();
            let end = working.clone().drop_guard();
            let (cancel, lost) = (working.clone(), lock.lost().clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = lost.cancelled() => cancel.cancel(),
                    () = cancel.cancelled() => {}
                }
            });
            Pass::new(self, request, run_id, working)
                .run(&mut run)
                .await;
            drop(end);
            if lock.lost().is_cancelled() {
                fail(&mut run, &PassError::LockLost);
            }
        }
        crash_point(Point::RunDone);
        record::finish(&ours.db, &run, request.confirm, false).await;
        crash_point(Point::RunRecorded);
        for name in request.counts_for {
            if let Err(error) = record::remember(&ours.db, name, Utc::now()).await {
                tracing::warn!(%error, name, "that it ran could not be noted");
            }
        }
        lock.release().await;
        Ok(run)
    }

    /// Checks every campaign against their stores. Returns sentences for the operator.
    pub async fn check(&self) -> Result<Vec<String>, AttachError> {
        let mut keys = Keys::new(&self.redis);
        let mut sql = Sql::connect(&self.theirs, self.file.max_rows_per_second).await?;
        let mut told = Vec::new();
        for campaign in &self.file.campaigns {
            for target in campaign.drops(Utc::now()) {
                let name = target.name();
                let checked = check(&target, &mut sql, &mut keys).await;
                let shape = checked.map_err(|error| match error {
                    AttachError::Misfit(why) => {
                        AttachError::Misfit(format!("campaign {name:?}: {why}"))
                    }
                    other => other,
                })?;
                told.extend(shape.warnings.iter().map(|it| format!("{name}: {it}")));
            }
        }
        Ok(told)
    }
}

/// A target that differed at the first look.
struct Suspect<'a> {
    target: Target<'a>,
    shape: Shape,
    first: Look,
}

struct Pass<'a> {
    attached: &'a Attached,
    request: &'a PassRequest,
    run_id: &'a str,
    stop: CancellationToken,
    keys: Keys,
}

impl<'a> Pass<'a> {
    fn new(
        attached: &'a Attached,
        request: &'a PassRequest,
        run_id: &'a str,
        stop: CancellationToken,
    ) -> Self {
        let keys = Keys::new(&attached.redis);
        Self {
            attached,
            request,
            run_id,
            stop,
            keys,
        }
    }

    /// Compares and repairs everything that the request asks for.
    async fn run(mut self, run: &mut Run) {
        let compared = self.both_looks(run).await;
        run.finished_at = Some(Utc::now());
        run.partial = compared.is_err() || self.request.coupon.is_some();
        match compared {
            Ok(()) => {}
            Err(AttachError::Stopped) => return fail(run, &PassError::Stopped),
            Err(error) => run
                .findings
                .push(Finding::report(Kind::Stalled, error.to_string())),
        }
        run.status = run.final_status();
    }

    async fn both_looks(&mut self, run: &mut Run) -> Result<(), AttachError> {
        let mut sql = self.connect().await?;
        let mut suspects = Vec::new();
        let is_asked = |id| self.request.coupon.is_none_or(|asked| asked == id);
        let campaigns = self.attached.file.campaigns.iter();
        for campaign in campaigns.filter(|it| is_asked(it.coupon_id())) {
            for target in campaign.drops(Utc::now()) {
                if self.stop.is_cancelled() {
                    return Err(AttachError::Stopped);
                }
                match first_look(target, &mut sql, &mut self.keys.clone()).await {
                    Ok(it) if !judge(&it.first.and(it.first.clone(), &target)).is_empty() => {
                        suspects.push(it);
                    }
                    Ok(it) => {
                        let numbers = [it.first.numbers; 2];
                        run.drops
                            .push(report_of(&target, it.first.quantity, numbers));
                    }
                    Err(error) => left_out(run, &target, error)?,
                }
            }
        }
        drop(sql);
        let due = |it: &Suspect<'_>| it.first.began + it.target.campaign.in_flight;
        suspects.sort_by_key(due);
        for suspect in suspects {
            tokio::select! {
                () = sleep_until(due(&suspect)) => {}
                () = self.stop.cancelled() => return Err(AttachError::Stopped),
            }
            // Their MySQL may have closed a connection that waited.
            let mut sql = self.connect().await?;
            match self.settle(&suspect, &mut sql).await {
                Ok(report) => run.drops.push(report),
                Err(error) => left_out(run, &suspect.target, error)?,
            }
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Sql, AttachError> {
        Sql::connect(
            &self.attached.theirs,
            self.attached.file.max_rows_per_second,
        )
        .await
    }

    /// Looks again at a target that differs, and repairs it.
    async fn settle(
        &mut self,
        suspect: &Suspect<'_>,
        sql: &mut Sql,
    ) -> Result<DropReport, AttachError> {
        let Suspect {
            target,
            shape,
            first,
        } = suspect;
        let keys = &mut self.keys.clone();
        let mut reader = Reader {
            target: *target,
            shape,
            sql,
            keys,
        };
        let second = reader.look().await?;
        let facts = first.and(second, target);
        let judged = judge(&facts);
        let mut findings: Vec<Finding> = judged.iter().map(|it| finding(it, target)).collect();
        let ours = self.attached.ours.as_ref();
        if let Some(ours) = ours.filter(|_| target.campaign.mode == Mode::Repair) {
            let planned = judged
                .iter()
                .enumerate()
                .filter(|(_, it)| it.repair.is_some());
            let planned: Vec<(usize, &Judged)> = planned.collect();
            for (at, _) in &planned {
                findings[*at].needs_person = false;
                findings[*at].result = Outcome::Planned;
            }
            let now = self
                .allowed(ours, &facts, target, planned, &mut findings)
                .await?;
            for (at, (result, why)) in repair::apply(&mut reader, &now, &self.stop).await? {
                findings[at].result = result;
                add_reason(&mut findings[at], &why);
            }
        }
        let is_changed = findings.iter().any(|it| it.result == Outcome::Applied);
        let after = if is_changed {
            reader.numbers().await?
        } else {
            facts.numbers
        };
        Ok(told(target, &facts, findings, after))
    }

    /// Returns the repairs that may be made now. The others wait for an operator, who confirms
    /// exactly those that were shown.
    async fn allowed<'j>(
        &self,
        ours: &Ours,
        facts: &Facts,
        target: &Target<'_>,
        mut planned: Vec<(usize, &'j Judged)>,
        findings: &mut [Finding],
    ) -> Result<Vec<(usize, &'j Judged)>, AttachError> {
        let (number, limit) = (planned.len() as u64, target.campaign.repair_limit);
        let limit = limit.unwrap_or((facts.quantity / LIMIT_PART).max(LIMIT_AT_LEAST));
        let is_held = |it: &Judged| number > limit || it.needs_confirmation;
        let PassRequest {
            confirm, dry_run, ..
        } = *self.request;
        let held: Vec<(usize, &Judged)> = planned
            .iter()
            .copied()
            .filter(|(_, it)| is_held(it))
            .collect();
        if !held.is_empty() {
            let now = shown(&held);
            let before = ours.db.shown_repairs(target.drop_id()).await?;
            if !confirm || dry_run || before != Some(now) {
                let is_seen = confirm || dry_run;
                ours.db
                    .hold_back(target.drop_id(), now, self.run_id, is_seen)
                    .await?;
                planned.retain(|(_, it)| !is_held(it));
                if number > limit {
                    let why = format!("{number} repairs at once are more than {limit}");
                    held.iter()
                        .for_each(|(at, _)| add_reason(&mut findings[*at], &why));
                }
            }
        }
        Ok(if dry_run { Vec::new() } else { planned })
    }
}

async fn first_look<'a>(
    target: Target<'a>,
    sql: &mut Sql,
    keys: &mut Keys,
) -> Result<Suspect<'a>, AttachError> {
    let shape = check(&target, sql, keys).await?;
    let first = Reader {
        target,
        shape: &shape,
        sql,
        keys,
    }
    .look()
    .await?;
    Ok(Suspect {
        target,
        shape,
        first,
    })
}

/// Reports a campaign that could not be compared, so that the others can. Returns the error if a
/// store is away.
fn left_out(run: &mut Run, target: &Target<'_>, error: AttachError) -> Result<(), AttachError> {
    if error.is_away() {
        return Err(error);
    }
    let detail = format!("{} is not compared: {error}", target.name());
    run.findings.push(Finding {
        coupon_id: Some(target.campaign.coupon_id()),
        ..Finding::report(Kind::Stalled, detail)
    });
    Ok(())
}

/// The number of repairs, and a hash of them in any order.
fn shown(repairs: &[(usize, &Judged)]) -> ShownRepairs {
    let hash = |(_, it): &(usize, &Judged)| {
        let hash = Sha256::digest(format!("{:?}", it.repair));
        hash[..8]
            .iter()
            .fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte))
    };
    ShownRepairs {
        number: u32::try_from(repairs.len()).unwrap_or(u32::MAX),
        fingerprint: repairs.iter().map(hash).fold(0, u64::wrapping_add),
    }
}

/// A difference that is not repaired: a person does it, or time does.
fn finding(judged: &Judged, target: &Target<'_>) -> Finding {
    let user = judged.user.clone().map(UserId::from_store);
    let action = judged.action();
    let found = Finding::new(judged.kind, action, Outcome::Skipped, judged.detail.clone());
    Finding {
        coupon_id: Some(target.campaign.coupon_id()),
        drop_id: Some(target.drop_id()),
        needs_person: !judged.waits,
        ..found.of(None, user.as_ref())
    }
}

fn add_reason(finding: &mut Finding, why: &str) {
    if !why.is_empty() {
        finding.detail = format!("{}; {why}", finding.detail);
    }
}

/// Reports a target with its differences.
fn told(target: &Target<'_>, facts: &Facts, findings: Vec<Finding>, after: Numbers) -> DropReport {
    let mut report = report_of(target, facts.quantity, [facts.numbers, after]);
    let is_closed = |it: &&Finding| it.kind == Kind::FailedClaim && it.result == Outcome::Applied;
    let closed = findings.iter().filter(is_closed).count() as u64;
    report.before.in_flight = facts.in_flight;
    report.before.failed_claims = facts.failed.len() as u64;
    report.after.failed_claims = report.before.failed_claims.saturating_sub(closed);
    report.examined.failed_claims = report.before.failed_claims;
    report.exact &= findings.iter().all(|it| it.result == Outcome::Applied);
    DropReport { findings, ..report }
}

fn report_of(target: &Target<'_>, quantity: u64, [before, after]: [Numbers; 2]) -> DropReport {
    let numbers = |it: Numbers| report::Numbers {
        count: it.count.unwrap_or_default(),
        users: it.size.unwrap_or_default(),
        rows: it.rows,
        ..report::Numbers::default()
    };
    let quantity = u32::try_from(quantity).unwrap_or(u32::MAX);
    DropReport {
        coupon_name: target.name(),
        exact: after.rows <= u64::from(quantity),
        before: numbers(before),
        after: numbers(after),
        examined: Examined {
            users: before.size.unwrap_or_default(),
            rows: before.rows,
            failed_claims: 0,
        },
        ..DropReport::begun(target.campaign.coupon_id(), target.drop_id(), quantity)
    }
}
