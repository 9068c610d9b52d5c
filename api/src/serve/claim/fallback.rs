//! The backup table as the second store of an admission that Kafka has not acknowledged. MySQL sees nothing of this while Kafka
//! answers; while it does not, one statement takes whatever has come together.

use std::time::Duration;

use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::{Db, DbError, dead_letters};
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Most claims that wait for their turn; more are not kept, and their people are asked to try again.
const QUEUE: usize = 16_384;

/// Most rows of one statement.
const AT_ONCE: usize = 1_000;

/// Keeps claims in the backup table.
pub(crate) struct Backup {
    queue: mpsc::Sender<Pending>,
    deadline: Duration,
}

struct Pending {
    claim: ClaimEvent,
    kept: oneshot::Sender<bool>,
}

impl Backup {
    /// Starts the one task that writes. It ends when this is dropped.
    pub(crate) fn new(db: Db, deadline: Duration) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE);
        tokio::spawn(write(db, pending, deadline));
        Self { queue, deadline }
    }

    /// Whether the table holds the claim, by the deadline. `false`: it may or may not.
    pub(crate) async fn keep(&self, claim: &ClaimEvent) -> bool {
        let (kept, answer) = oneshot::channel();
        if self.queue.try_send(Pending { claim: claim.clone(), kept }).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(self.deadline, answer).await, Ok(Ok(true)))
    }
}

async fn write(db: Db, mut pending: mpsc::Receiver<Pending>, deadline: Duration) {
    let mut batch = Vec::new();
    let mut failing = false;
    while pending.recv_many(&mut batch, AT_ONCE).await > 0 {
        // Whoever was told 503 by now comes again.
        batch.retain(|one| !one.kept.is_closed());
        if batch.is_empty() {
            continue;
        }
        let claims: Vec<ClaimEvent> = batch.iter().map(|one| one.claim.clone()).collect();
        let written = insert(&db, claims, deadline).await;
        match &written {
            Ok(()) => counter!("firstcome_claims_backed_up_total").increment(batch.len() as u64),
            Err(error) if !failing => {
                tracing::warn!(%error, claims = batch.len(), "claims that Kafka has not acknowledged could not be kept in the backup table");
            }
            Err(_) => {}
        }
        failing = written.is_err();
        for one in batch.drain(..) {
            // Nobody waits any more: the row is there all the same, and the reconciler deals with it.
            let _ = one.kept.send(written.is_ok());
        }
    }
}

/// One statement, and once more where MySQL refused it at once: two processes that keep the same claims can deadlock.
async fn insert(db: &Db, claims: Vec<ClaimEvent>, deadline: Duration) -> Result<(), DbError> {
    let begun = Instant::now();
    let again = claims.clone();
    let once = async |claims: Vec<ClaimEvent>, limit| {
        let keep =
            async move |conn: &mut firstcome_shared::mysql::Conn| dead_letters::keep_unpublished(conn, &claims).await;
        db.run_within(limit, "keep claims that are not published", keep).await
    };
    match once(claims, deadline).await {
        Err(DbError::Query { .. }) if begun.elapsed() < deadline => {
            once(again, deadline.saturating_sub(begun.elapsed())).await
        }
        other => other,
    }
}
