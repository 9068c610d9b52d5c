//! `--once`: passes until every difference that the first one saw is either over or old enough to
//! be a finding. It needs no database of ours.

use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_shared::report::{Finding, Outcome, Run};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::memory::Wait;
use crate::pass::{PassOptions, Shown, State, Stopped};

/// Time between two readings of the queue.
const POLL: Duration = Duration::from_millis(250);

impl Engine {
    /// Passes, and waits between them, as long as a difference of the first pass may become a
    /// finding.
    pub async fn once(
        &self,
        options: &PassOptions,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<Shown, Stopped> {
        let options = PassOptions {
            is_requested: true,
            ..options.clone()
        };
        let mut applied = Applied::default();
        let mut shown = self.pass(&options, run, stop).await?;
        let until = self.clock.now();
        while self.wait(until, stop).await? {
            applied.take(run);
            shown = self.pass(&options, run, stop).await?;
        }
        applied.give_back(run);
        Ok(shown)
    }

    /// Waits until a further pass can tell more. Returns whether there is one.
    async fn wait(&self, until: Duration, stop: &CancellationToken) -> Result<bool, Stopped> {
        loop {
            self.advance().await;
            match self.state.lock().await.waits_for(until, self.clock.now()) {
                Wait::Nothing => return Ok(false),
                Wait::Look => return Ok(true),
                Wait::Time => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

impl State {
    fn waits_for(&self, until: Duration, now: Duration) -> Wait {
        let campaigns = self
            .memories
            .values()
            .map(|memory| memory.waits_for(until, now));
        let checks = self.checks.values().map(|check| check.waits_for(now));
        let waits: Vec<Wait> = campaigns.chain(checks).collect();
        // One pass for all, once nothing has to wait for longer.
        waits.into_iter().max().unwrap_or(Wait::Nothing)
    }
}

/// Repairs of earlier passes, which the last one does not find any more.
#[derive(Default)]
struct Applied(Vec<(DropId, Finding)>);

impl Applied {
    fn take(&mut self, run: &mut Run) {
        for drop in run.drops.drain(..) {
            let id = drop.drop_id;
            let applied = drop
                .findings
                .into_iter()
                .filter(|it| it.result == Outcome::Applied);
            self.0.extend(applied.map(|finding| (id, finding)));
        }
        run.findings.clear();
    }

    fn give_back(self, run: &mut Run) {
        for (id, finding) in self.0 {
            if let Some(drop) = run.drops.iter_mut().find(|drop| drop.drop_id == id) {
                drop.before.rows = drop.before.rows.saturating_sub(1);
                drop.findings.push(finding);
            }
        }
    }
}
