//! Start-up of the daemon: the one place that waits for the stores. It waits for as long as it
//! takes, since a daemon that ended would be started again and again, each time for less than the
//! patience after which somebody is mailed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::config::StartError;
use firstcome_shared::mysql::runs::LAST_SUCCESS_AT;
use firstcome_shared::mysql::{Db, DbError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::schedule::{CronSchedule, ScheduledJob};
use crate::notify::Notifier;
use crate::pass::Reconciler;
use crate::passes::mail;
use crate::{record, stores};

/// How long a store is waited for until that counts as a pass that failed.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A pass of another daemon that ended well so lately shows that one works.
const LATELY: TimeDelta = TimeDelta::minutes(2);

/// Waits for the stores and loads the schedules. While a store is away, that is mailed as it is
/// when passes fail. `None` if `stop` came first.
///
/// # Errors
/// If a store answers and refuses this process, or its settings could lose promises.
pub(super) async fn wait_for_stores(
    reconciler: &mut Reconciler,
    notifier: &Notifier,
    crons: &[(ScheduledJob, &str)],
    tolerance: TimeDelta,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Vec<CronSchedule>>> {
    let began = Utc::now();
    let mut said = String::new();
    loop {
        let next = Instant::now() + ATTEMPT;
        let (store, reason) = match stores::check(&reconciler.stores, ATTEMPT, stop).await {
            Ok(()) => match schedules(&reconciler.stores.db, crons, tolerance).await? {
                Ok(schedules) => return Ok(Some(schedules)),
                Err(error) => ("MySQL".to_owned(), error.to_string()),
            },
            Err(StartError::Stopped(_)) => return Ok(None),
            Err(StartError::Missing { store, reason, .. }) => (store, reason),
            Err(refused @ StartError::Refused(_)) => return Err(refused.into()),
        };
        if said != store {
            tracing::warn!(reason, "waiting for {store}; passes begin once it answers");
            said = store;
        }
        if !another_works(&reconciler.stores.db, began, Utc::now()).await {
            let run = reconciler.cannot_begin(reason).await;
            mail(notifier, &run).await;
        }
        // A store that refuses at once, as a MySQL without a free connection does, gets a pause
        // too.
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

async fn schedules(
    db: &Db,
    crons: &[(ScheduledJob, &str)],
    tolerance: TimeDelta,
) -> anyhow::Result<Result<Vec<CronSchedule>, DbError>> {
    let mut schedules = Vec::with_capacity(crons.len());
    for (event, text) in crons {
        match CronSchedule::last_run(db, *event).await {
            Ok(last) => schedules.push(CronSchedule::new(*event, text, last, tolerance)?),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(schedules))
}

/// Whether another daemon makes passes: only this one lost its way to a store, then.
async fn another_works(db: &Db, began: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    let last = record::recall(db, LAST_SUCCESS_AT).await.ok().flatten();
    last.is_some_and(|at| at > began && now - at < LATELY)
}
