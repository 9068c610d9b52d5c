//! One pass: collect → plan → execute → look again → seal, for every drop in question.
//!
//! Passes are level-triggered: each looks at everything that is not sealed and depends on no message having been seen, so a
//! pass that was missed, or that died, costs time and nothing else.

mod drops;
mod findings;
mod sealed;

#[cfg(test)]
pub(crate) use drops::ROUNDS;

use std::collections::HashMap;

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::keys;
use firstcome_shared::redis::repair::Generation;
use tokio_util::sync::CancellationToken;

use crate::collect::{CollectError, Surroundings};
use crate::engine::{Engine, Request};
use crate::execute::ExecuteError;
use crate::execute::fencing::Watched;
use crate::plan;
use crate::record;
use crate::report::{ActionKind, Kind, Outcome, Run, Status};
use firstcome_shared::mysql::pass_lock::PassLock;

/// Why there was no pass at all.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("another pass is running")]
    Busy,
    /// No such drop or coupon.
    #[error("{0}")]
    NotFound(String),
}

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Collect(#[from] CollectError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error("Redis cannot be reached: {0}")]
    Redis(#[from] firstcome_shared::redis::RedisError),
    #[error(transparent)]
    Mysql(#[from] firstcome_shared::mysql::DbError),
    #[error("the pass lost its lock: its connection to MySQL broke, and another pass may have begun")]
    LockLost,
    #[error("the process was told to stop")]
    Stopped,
}

/// A fresh id for a run; ids sort by time.
pub fn new_run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Engine {
    /// Runs one pass and records it. A pass that fails is a [`Run`] too, with status `failed`.
    pub async fn pass(&self, request: &Request, run_id: &str, stop: &CancellationToken) -> Result<Run, PassError> {
        self.must_exist(request).await?;
        let mut run = blank(request, run_id);
        let lock = match PassLock::take(&self.db_settings, run_id, request.patience).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(PassError::Busy),
            Err(error) => return Ok(self.fail(run, request, &error.into()).await),
        };
        self.record_leftovers().await;
        let mut canary_was_gone = false;
        let ended = match record::begin(&self.db, &run, request.confirm, Self::owner()).await {
            Ok(()) => {
                crash_point(Point::RunBegun);
                // Work under the lock stops when the lock is lost; nothing is cut in the middle of a repair.
                let working = stop.child_token();
                let watch = tokio::spawn({
                    let (lost, working) = (lock.lost().clone(), working.clone());
                    async move {
                        lost.cancelled().await;
                        working.cancel();
                    }
                });
                let ended = self.work(request, &mut run, &mut canary_was_gone, &working).await;
                watch.abort();
                ended
            }
            Err(error) => Err(error.into()),
        };
        let ended = match ended {
            Err(Broken::Stopped | Broken::Execute(ExecuteError::Stopped)) if lock.lost().is_cancelled() => {
                Err(Broken::LockLost)
            }
            Err(Broken::Execute(ExecuteError::Stopped)) => Err(Broken::Stopped),
            other => other,
        };
        let run = match ended {
            Ok(()) => self.finish(run, request).await,
            Err(error) => {
                if canary_was_gone {
                    self.take_canary_back().await;
                }
                self.fail(run, request, &error).await
            }
        };
        lock.release().await;
        Ok(run)
    }

    async fn work(
        &self,
        request: &Request,
        run: &mut Run,
        canary_was_gone: &mut bool,
        stop: &CancellationToken,
    ) -> Result<(), Broken> {
        let mut watched = Watched::new(&self.redis).await?;
        if request.covers_everything() && !request.dry_run {
            // Before anything is looked at: what is emptied from here on takes it away again.
            *canary_was_gone = self.set_canary().await?;
        }
        let drops = self.drops_in_question(request).await?;
        let (around, begun) = self.look_around(request, run, &watched, &drops, stop).await?;
        findings::stalled(self, run, &around);
        if request.covers_everything() {
            let known: HashMap<_, _> = drops.iter().map(|(c, d)| (d.id, c.id)).collect();
            let loose = around.backup.iter().filter(|b| {
                let coupon = b.drop.and_then(|d| known.get(&d));
                coupon.is_none_or(|known| b.coupon.is_some_and(|named| named != *known))
            });
            run.findings.extend(loose.map(|b| {
                let planned = plan::loose(&b.failed);
                findings::of_no_drop(&planned, b.coupon, b.drop)
            }));
        }
        self.go_through(request, run, drops, around, stop).await?;
        if request.deep {
            self.count_sealed(request, run).await?;
        }
        if !watched.gate_was_open {
            self.reopen(request, run, &mut watched, begun).await?;
        } else if request.covers_everything() && !request.dry_run {
            self.losses.clear();
        }
        Ok(())
    }

    /// Whether it was gone.
    async fn set_canary(&self) -> Result<bool, Broken> {
        let key = keys::canary(self.redis.prefix());
        let now = Utc::now().to_rfc3339();
        Ok(redis::cmd("SET").arg(key).arg(now).arg("NX").query_async(&mut self.redis.connection()).await?)
    }

    /// A pass that failed has not made good what the canary was gone for.
    async fn take_canary_back(&self) {
        let key = keys::canary(self.redis.prefix());
        if let Err(error) = redis::cmd("DEL").arg(key).query_async::<()>(&mut self.redis.connection()).await {
            tracing::debug!(%error, "the canary stays; the next scheduled pass looks at everything anyway");
        }
    }

    /// Looks around; where Redis lost something, not before everything from before the loss has reached the topic
    /// or the backup table, or never will.
    async fn look_around(
        &self,
        request: &Request,
        run: &mut Run,
        watched: &Watched,
        drops: &[(Coupon, Drop)],
        stop: &CancellationToken,
    ) -> Result<(Surroundings, bool), Broken> {
        let generations = self.generations(request, drops).await?;
        let mut around = Surroundings { generations, ..self.surroundings(run, watched.gate_was_open).await? };
        let heads = self.collector.heads(drops, &around).await?;
        let begun = heads.iter().any(|h| h.facts.has_opened());
        let lost = (begun && !watched.gate_was_open) || heads.iter().any(|h| h.facts.has_opened() && h.facts.is_lost());
        if lost && !request.dry_run {
            let wait = self.losses.wait_needed(self.settled_after);
            if !wait.is_zero() {
                tracing::warn!(?wait, "Redis lost drops or its scripts: waiting for what may still be on its way");
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => return Err(Broken::Stopped),
                }
                run.findings.retain(|finding| finding.kind != Kind::Stalled);
                let generations = self.generations(request, drops).await?;
                around = Surroundings { generations, ..self.surroundings(run, watched.gate_was_open).await? };
            }
        }
        Ok((around, begun))
    }

    /// The generation that every write of this pass names. It is read before the topic and kept for the whole pass: what Redis
    /// loses from here on, the next pass rebuilds, after waiting for what may still be on its way.
    async fn generations(
        &self,
        request: &Request,
        drops: &[(Coupon, Drop)],
    ) -> Result<HashMap<CouponId, Generation>, Broken> {
        let mut generations = HashMap::new();
        for (coupon, _) in drops {
            if generations.contains_key(&coupon.id) {
                continue;
            }
            let found = match self.redis.generation(coupon.id).await? {
                None if !request.dry_run => Some(self.redis.ensure_generation(coupon.id).await?),
                found => found,
            };
            generations.extend(found.map(|generation| (coupon.id, generation)));
        }
        Ok(generations)
    }

    pub(super) async fn surroundings(&self, run: &mut Run, gate_was_open: bool) -> Result<Surroundings, Broken> {
        let (mut around, kafka) = self.collector.surroundings().await?;
        around.gate_closed = !gate_was_open;
        if let Some(error) = kafka {
            let detail = format!("the topic cannot be read, so what is on its way is not known: {error:#}");
            run.error = Some(detail.clone());
            run.findings.push(findings::told(Kind::Stalled, ActionKind::Report, detail));
        }
        Ok(around)
    }

    /// Opens the gate again, if this pass saw everything and left nothing behind.
    async fn reopen(&self, request: &Request, run: &mut Run, watched: &mut Watched, begun: bool) -> Result<(), Broken> {
        let mut finding = findings::told(
            Kind::RedisLost,
            ActionKind::GrantLicence,
            "Redis is new, was restarted, or failed over; admission was closed".to_owned(),
        );
        finding.needs_person = false;
        let whole = run.error.is_none() && run.drops.iter().all(findings::is_whole);
        finding.result = if request.dry_run {
            Outcome::Planned
        } else if !request.covers_everything() || !whole {
            finding.detail.push_str("; it stays closed, since not everything could be verified");
            finding.needs_person = true;
            Outcome::Failed
        } else if self.grant(watched).await? {
            self.losses.clear();
            finding.detail.push_str("; every drop was verified and it is open again");
            Outcome::Applied
        } else {
            finding.detail.push_str("; Redis changed while it was verified, so it stays closed until the next pass");
            Outcome::Failed
        };
        tracing::info!(result = finding.result.as_str(), "admission gate: {}", finding.detail);
        // A new Redis before the first drop is nothing to tell anybody about.
        if begun || finding.result != Outcome::Applied {
            run.findings.push(finding);
        }
        Ok(())
    }

    async fn grant(&self, watched: &mut Watched) -> Result<bool, Broken> {
        crash_point(Point::GateDue);
        let granted = watched.grant(&self.redis).await?;
        crash_point(Point::GateOpened);
        Ok(granted)
    }

    async fn finish(&self, mut run: Run, request: &Request) -> Run {
        run.finished_at = Some(Utc::now());
        run.status = findings::status(&run);
        if run.error.is_some() {
            run.status = Status::Failed;
        }
        self.keep(&run, request).await;
        run
    }

    async fn fail(&self, mut run: Run, request: &Request, error: &Broken) -> Run {
        run.finished_at = Some(Utc::now());
        run.status = Status::Failed;
        run.stopped = matches!(error, Broken::Stopped);
        run.error = Some(error.to_string());
        run.findings.push(findings::told(Kind::Stalled, ActionKind::Report, error.to_string()));
        tracing::error!(run_id = run.run_id, %error, "the pass failed");
        self.keep(&run, request).await;
        run
    }

    async fn keep(&self, run: &Run, request: &Request) {
        crash_point(Point::RunDone);
        if let Err(error) = record::finish(&self.db, run, request.confirm, Self::owner()).await {
            tracing::warn!(run_id = run.run_id, %error, "the run could not be recorded yet");
            let mut waiting = self.unrecorded.lock();
            // Bounded: an hour without MySQL at two passes a minute.
            if waiting.len() < 120 {
                waiting.push((run.clone(), request.confirm));
            }
        }
        crash_point(Point::RunRecorded);
        if run.status == Status::Clean && !run.dry_run {
            self.forget_old_runs().await;
        }
    }

    /// Only after a good pass: what the last good one was stays known through any time of trouble.
    async fn forget_old_runs(&self) {
        if let Err(error) = record::forget_old(&self.db, self.clean_runs_kept).await {
            tracing::warn!(%error, "old runs stay in the table until the next pass");
        }
    }

    /// Records runs that ended while MySQL was away.
    async fn record_leftovers(&self) {
        let waiting = std::mem::take(&mut *self.unrecorded.lock());
        for (run, confirmed) in waiting {
            if let Err(error) = record::finish(&self.db, &run, confirmed, Self::owner()).await {
                tracing::warn!(run_id = run.run_id, %error, "the run could not be recorded yet");
                self.unrecorded.lock().push((run, confirmed));
            }
        }
    }
}

fn blank(request: &Request, run_id: &str) -> Run {
    Run {
        run_id: run_id.to_owned(),
        trigger: request.trigger,
        dry_run: request.dry_run,
        deep: request.deep,
        partial: !request.covers_everything(),
        stopped: false,
        status: Status::Running,
        started_at: Utc::now(),
        finished_at: None,
        error: None,
        findings: Vec::new(),
        drops: Vec::new(),
    }
}
