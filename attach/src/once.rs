//! `--once`: passes until every difference that the first one saw is either over or old enough to
//! be a finding, and then, if a plan is confirmed, one that repairs. It needs no database of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use firstcome_shared::report::Run;
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::pass::{PassOptions, Stopped};

/// Time between two readings of the queue.
const POLL: Duration = Duration::from_millis(250);

impl Engine {
    pub async fn once(
        &self,
        options: &PassOptions,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let looking = PassOptions {
            dry_run: true,
            ..options.clone()
        };
        self.pass(&looking, run, stop).await?;
        let until = self.clock.now();
        while self.wait(until, stop).await? {
            self.pass(&looking, run, stop).await?;
        }
        if options.confirm.is_some() {
            self.pass(options, run, stop).await?;
        }
        Ok(())
    }

    /// Waits until a further pass can tell more. Returns whether there is one.
    async fn wait(&self, until: Duration, stop: &CancellationToken) -> Result<bool, Stopped> {
        loop {
            self.advance().await;
            let now = self.clock.now();
            let state = self.state.lock().await;
            let memories = state.blocks.values().flat_map(BTreeMap::values);
            let mut young = memories.filter(|memory| memory.has_young(until, now, None));
            if young.clone().next().is_none() {
                return Ok(false);
            }
            if !young.any(|memory| memory.has_young(until, now, Some(now))) {
                return Ok(true);
            }
            drop(state);
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}
