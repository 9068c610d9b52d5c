//! A worker of a campaign, with separate servers.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;

use crate::run::{ScheduleResult, panicked, run};
use crate::schedule::FaultSchedule;
use crate::servers::ProxiedServers;

/// Number of schedules after which a worker starts new servers, because topics and logs accumulate.
const FRESH_AFTER: u32 = 40;

/// The servers of a worker, which are replaced from time to time.
pub struct CampaignWorker {
    servers: Option<Arc<ProxiedServers>>,
    used: u32,
    deadline: Duration,
}

impl CampaignWorker {
    /// Creates a worker whose schedules must be exact within this time after the last fault.
    pub fn new(deadline: Duration) -> Self {
        Self {
            servers: None,
            used: 0,
            deadline,
        }
    }

    /// Runs a schedule on the servers of the previous one, or on new ones.
    ///
    /// # Errors
    ///
    /// Fails if the harness fails. This counts as a failure of the schedule, because its cause may
    /// be in the product, for example a program that does not start.
    pub async fn run(&mut self, schedule: &FaultSchedule, folder: &Path) -> Result<ScheduleResult> {
        let servers = if let Some(servers) = self.servers.take().filter(|_| self.used < FRESH_AFTER)
        {
            servers
        } else {
            self.used = 0;
            Arc::new(ProxiedServers::start().await?)
        };
        self.used += 1;
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        // A panic of the harness ends only this schedule, not the campaign.
        let running = AssertUnwindSafe(run(&servers, schedule, folder, self.deadline));
        let ran = running.catch_unwind().await;
        let ran = ran.map_err(|panic| panicked(panic.as_ref()))??;
        let restored = servers.restore().await;
        restored.context("the servers are unusable")?;
        self.servers = Some(servers);
        Ok(ran)
    }
}
