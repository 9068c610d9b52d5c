//! `--once`: passes until every difference that the first one saw is either over or old enough to
//! be a finding, and then, if a plan is confirmed, one that repairs. It needs no database of ours.

use std::time::Duration;

use firstcome_shared::report::Run;
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::memory::Memory;
use crate::pass::{PassOptions, Shown, State, Stopped};

/// Time between two readings of the queue.
const POLL: Duration = Duration::from_millis(250);

impl Engine {
    pub async fn once(
        &self,
        options: &PassOptions,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<Shown, Stopped> {
        let looking = PassOptions {
            is_requested: true,
            dry_run: true,
            confirm: None,
            campaign: options.campaign,
        };
        let mut shown = self.pass(&looking, run, stop).await?;
        let until = self.clock.now();
        while self.wait(until, stop).await? {
            shown = self.pass_again(&looking, run, stop).await?;
        }
        if options.dry_run || options.confirm.is_none() {
            return Ok(shown);
        }
        let repairing = PassOptions {
            is_requested: true,
            ..options.clone()
        };
        self.pass_again(&repairing, run, stop).await
    }

    async fn pass_again(
        &self,
        options: &PassOptions,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<Shown, Stopped> {
        run.drops.clear();
        run.findings.clear();
        self.pass(options, run, stop).await
    }

    /// Waits until a further pass can tell more. Returns whether there is one.
    async fn wait(&self, until: Duration, stop: &CancellationToken) -> Result<bool, Stopped> {
        loop {
            self.advance(Some(self.database.clone())).await;
            let now = self.clock.now();
            let state = self.state.lock().await;
            if !state.any(|memory| memory.has_young(until, now, None)) {
                return Ok(false);
            }
            if !state.any(|memory| memory.has_young(until, now, Some(now))) {
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

impl State {
    fn any(&self, is_so: impl Fn(&Memory) -> bool) -> bool {
        let mut memories = self.blocks.values().flat_map(|block| block.values());
        memories.any(is_so)
    }
}
