//! Rebuilds a large drop that Redis has lost, while the drop is being read.

use super::request::Aborted;
use super::steps::Pass;
use crate::collect::DropHeader;
use crate::execute::Executor;
use crate::plan::Planner;

impl Pass<'_> {
    pub(super) fn executor<'h>(&'h self, header: &'h DropHeader) -> Executor<'h> {
        let run = &self.run.run_id;
        Executor::new(self.stores, header, &self.restored, run, self.stop)
    }

    /// Begins to rebuild a large lost drop. Its users are restored while the drop is read, because
    /// millions of them would not fit in memory. Returns `None` for other drops.
    pub(super) async fn begin_rebuild<'h>(
        &'h self,
        header: &'h DropHeader,
    ) -> Result<Option<Executor<'h>>, Aborted> {
        let facts = &header.facts;
        let is_large = header.upper() > self.settings.page_slots;
        if self.request.dry_run || !is_large || !facts.is_lost() || !facts.tail_known {
            return Ok(None);
        }
        self.must_be_same_life().await?;
        let executor = self.executor(header);
        executor.begin_rebuild().await?;
        Ok(Some(executor))
    }
}

/// Restores the users whom the planner has found so far.
pub(super) async fn put_back(
    executor: &Executor<'_>,
    planner: &mut Planner<'_>,
) -> Result<(), Aborted> {
    let holdings = planner.take_holdings();
    // If Redis has lost data since, a later step of the rebuild reports it.
    let taken = executor.rebuild_some(&holdings).await?.unwrap_or(0);
    planner.were_put_back(holdings.len() - taken);
    Ok(())
}
