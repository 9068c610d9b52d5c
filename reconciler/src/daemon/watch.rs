//! Watches Redis for losses of data, after which it reopens admission at once even while a pass is
//! running, and for changes that request a pass.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::mysql::processes::Work;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::life::Life;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::versions::OlderStateSeen;
use crate::notify::{Notifier, SeenGate};
use crate::pass::{PassError, Reconciler, Request, new_run_id};
use crate::passes::ended;
use crate::report::{Run, Status, Trigger};

/// Pause after a failed pass, since another store is probably unavailable.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Interval of checks whether Redis still has what admission needs.
const EVERY: Duration = Duration::from_millis(100);

/// Watches Redis until `stop`.
pub(super) async fn redis(
    mut reconciler: Reconciler,
    notifier: Notifier,
    older_state: OlderStateSeen,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen {
        reachable: true,
        life: None,
        latest: None,
    };
    // Whether the last reopening failed. It may have opened the gate but left coupons closed.
    let mut unfinished = false;
    // Another process may be reopening admission. Log this only once, not ten times a second.
    let mut is_told = false;
    let request = Request {
        work: Work::Reopening,
        ..Request::new(Trigger::Startup)
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        unfinished |= older_state.take();
        if !unfinished && seen.is_open(&reconciler.stores.redis).await {
            is_told = false;
            continue;
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!("admission is closed: Redis may have lost data; verifying at once");
        }
        let ran = pass_beside(&mut reconciler, &request, &notifier, &stop).await;
        match &ran {
            Ok(run) => {
                unfinished = run.status == Status::Failed;
                seen.life = seen.latest.take();
            }
            Err(PassError::Busy) => tracing::debug!("another process reopens admission"),
            Err(error) => tracing::error!(%error, "admission cannot be reopened"),
        }
        // A pass can end without opening the gate, for example if the only coupon could not be
        // verified.
        let in_vain = ran.is_ok() && !seen.is_open(&reconciler.stores.redis).await;
        if unfinished || in_vain {
            ticks.reset_after(AFTER_FAILURE);
        }
    }
}

/// The state of Redis as the watch last saw it.
struct Seen {
    reachable: bool,
    /// The servers whose coupons were compared.
    life: Option<Life>,
    /// The servers as last read. A pass compares these or later ones, so a hash slot that moves
    /// during the pass is noticed after it.
    latest: Option<Life>,
}

impl Seen {
    /// Whether there is nothing to reopen: the gate is open, and no hash slot has moved to another
    /// server, where its coupons are closed. Also `true` if Redis can't be reached.
    async fn is_open(&mut self, redis: &Redis) -> bool {
        let gate = match redis.gate().await {
            Ok(gate) => gate,
            Err(error) => {
                if std::mem::replace(&mut self.reachable, false) {
                    tracing::warn!(%error, "Redis cannot be reached");
                }
                return true;
            }
        };
        self.reachable = true;
        let now = gate.life();
        self.latest = Some(now.clone());
        gate.is_open() && *self.life.get_or_insert_with(|| now.clone()) == now
    }
}

/// Runs a pass concurrently with the loop of passes, and reports it.
async fn pass_beside(
    reconciler: &mut Reconciler,
    request: &Request,
    notifier: &Notifier,
    stop: &CancellationToken,
) -> Result<Run, PassError> {
    let started = tokio::time::Instant::now();
    let run_id = new_run_id();
    tracing::debug!(run_id, work = ?request.work, "a pass beside the others");
    let run = reconciler.pass(request, &run_id, stop).await?;
    ended(&run, started, notifier).await;
    Ok(run)
}

/// Reports to the notifier once a second whether admission is open, until `stop`.
pub(super) async fn admission(redis: Redis, notifier: Notifier, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // `redis()` above already logs that Redis is unreachable.
        let gate = match redis.gate_is_open().await {
            Ok(true) => SeenGate::Open,
            Ok(false) => SeenGate::Closed,
            Err(_) => SeenGate::Unreachable,
        };
        if let Err(error) = notifier.admission(gate, Utc::now()).await {
            tracing::debug!(
                error = format!("{error:#}"),
                "the mail about admission is not in the outbox yet"
            );
        }
    }
}

/// Poll interval for coupons to compare.
const CHANGES_EVERY: Duration = Duration::from_millis(250);

/// Maximum wait for another process's pass over a changed coupon.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a pass over each coupon for which an operator's change requests one, until `stop`: for
/// example after a quantity was raised while users wait. Such a pass must wait neither for the next
/// scheduled pass nor for the end of a long one, because until then new users join the waiting list
/// behind the others.
pub(super) async fn changes(
    mut reconciler: Reconciler,
    notifier: Notifier,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(CHANGES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let redis = reconciler.stores.redis.clone();
    let mut pending = VecDeque::new();
    loop {
        tokio::select! {
            // Check `stop` first: a coupon that is taken from Redis during shutdown would be
            // forgotten.
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match redis.take_woken().await {
            Ok(mut coupons) => {
                coupons.retain(|coupon| !pending.contains(coupon));
                pending.extend(coupons);
            }
            Err(error) => {
                tracing::debug!(%error, "Redis could not be asked for coupons to compare");
            }
        }
        while let Some(coupon) = pending.front().copied().filter(|_| !stop.is_cancelled()) {
            // A closed gate needs a pass over everything, which includes this coupon.
            if !redis.gate_is_open().await.unwrap_or(false) {
                break;
            }
            tracing::info!(coupon_id = coupon.0, "a change asks for a pass");
            let work = Work::Change;
            let coupon = Some(coupon);
            let request = Request {
                work,
                coupon,
                patience: PATIENCE,
                ..Request::new(Trigger::Startup)
            };
            match pass_beside(&mut reconciler, &request, &notifier, &stop).await {
                // The next attempt begins with another coupon.
                Ok(run) if run.status == Status::Failed => {
                    pending.rotate_left(1);
                    ticks.reset_after(AFTER_FAILURE);
                    break;
                }
                Ok(_) => {}
                // Another process compares another coupon. This one stays pending.
                Err(PassError::Busy) => break,
                Err(error) => tracing::warn!(%error, "no pass after the change"),
            }
            pending.pop_front();
        }
    }
}
