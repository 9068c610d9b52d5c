//! Claims that already have a row, mostly of earlier, sealed drops. Concurrent lookups share one
//! query per drop and results are cached, so that a winner who retries for days costs one query and
//! no message.

use std::collections::{HashMap, HashSet};

use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::{Conn, Db, issued};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::bounded_cache::BoundedCache;

/// Maximum number of lookups per round, and of lookups that wait for the next round.
const QUEUE: usize = 1_000;

/// Claims kept in memory; at most twice as many.
const REMEMBERED: usize = 50_000;

/// The part of a claim that a row can confirm.
type ClaimedSlot = (DropId, Slot, UserId);

pub(super) struct IssuedClaims {
    remembered: Mutex<BoundedCache<ClaimedSlot, ()>>,
    lookups: mpsc::Sender<(ClaimedSlot, oneshot::Sender<bool>)>,
}

impl IssuedClaims {
    /// Starts the lookup task. It ends when this is dropped.
    pub(super) fn new(questions: Db) -> Self {
        let (lookups, pending) = mpsc::channel(QUEUE);
        tokio::spawn(look_up(questions, pending));
        Self {
            remembered: BoundedCache::new(REMEMBERED).into(),
            lookups,
        }
    }

    /// Whether this claim has a row, or `None` if MySQL did not answer.
    pub(super) async fn has_row(&self, event: &ClaimEvent) -> Option<bool> {
        let claim = (event.drop_id, event.slot, event.user_id.clone());
        if self.remembered.lock().get(&claim).is_some() {
            return Some(true);
        }
        let (answer, answered) = oneshot::channel();
        self.lookups.try_send((claim.clone(), answer)).ok()?;
        let has_row = answered.await.ok()?;
        if has_row {
            self.remembered.lock().insert(claim, ());
        }
        Some(has_row)
    }
}

async fn look_up(questions: Db, mut pending: mpsc::Receiver<(ClaimedSlot, oneshot::Sender<bool>)>) {
    let mut round = Vec::new();
    while pending.recv_many(&mut round, QUEUE).await > 0 {
        let mut slots: HashMap<DropId, HashSet<Slot>> = HashMap::new();
        for ((drop, slot, _), _) in &round {
            slots.entry(*drop).or_default().insert(*slot);
        }
        let find = async move |conn: &mut Conn| {
            let mut found = HashMap::new();
            for (drop, slots) in slots {
                let rows =
                    issued::on_slots(conn, drop, &slots.into_iter().collect::<Vec<_>>()).await?;
                found.extend(
                    rows.into_iter()
                        .map(|row| ((drop, row.slot), UserId::from_store(row.user_id))),
                );
            }
            Ok(found)
        };
        match questions.run("find rows of claims", find).await {
            Ok(found) => {
                for ((drop, slot, user), answer) in round.drain(..) {
                    // Fails if the caller was dropped.
                    let _ = answer.send(found.get(&(drop, slot)) == Some(&user));
                }
            }
            Err(error) => {
                tracing::debug!(%error, claims = round.len(), "could not look up whether claims have rows");
                round.clear();
            }
        }
    }
}
