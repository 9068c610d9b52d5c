//! `--once`: passes until every difference that the first one saw is over, is old enough to be a
//! finding, or cannot become older, and then, if a plan is confirmed, one that repairs. It needs no
//! database of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use firstcome_shared::report::Run;
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::pass::{Confirm, PassOptions, State, Stopped};

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
            is_requested: true,
            dry_run: true,
            confirm: Confirm::default(),
            ..options.clone()
        };
        let mut passed = self.clock.now();
        self.pass(&looking, run, stop).await?;
        let until = self.clock.now();
        while self.wait(until, passed, stop).await? {
            passed = self.clock.now();
            self.pass(&looking, run, stop).await?;
        }
        if options.dry_run || options.confirm.is_empty() {
            return Ok(());
        }
        let repairing = PassOptions {
            is_requested: true,
            ..options.clone()
        };
        self.pass(&repairing, run, stop).await
    }

    /// Waits until a further pass can tell more than the last one, which began at this time.
    /// Returns whether there is one.
    async fn wait(
        &self,
        until: Duration,
        passed: Duration,
        stop: &CancellationToken,
    ) -> Result<bool, Stopped> {
        loop {
            self.advance(Some(self.database.clone())).await;
            let now = self.clock.now();
            if let Some(is_another) = self.state.lock().await.next(until, passed, now) {
                return Ok(is_another);
            }
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

impl State {
    /// Returns whether a further pass is to be made; `None`: not yet.
    fn next(&self, until: Duration, passed: Duration, now: Duration) -> Option<bool> {
        let memories = self.blocks.values().flat_map(BTreeMap::values);
        let mut waiting = memories.filter(|it| it.waits(until, passed)).peekable();
        let is_another = waiting.peek().is_some();
        let is_early = waiting.any(|memory| memory.ripens(until, now));
        (!is_early).then_some(is_another)
    }
}
