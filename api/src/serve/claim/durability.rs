//! A yes is told only when a second store beside Redis holds it: the topic, else the backup table (docs/decisions/0008).

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, Slot};
use firstcome_shared::event::ClaimEvent;
use metrics::counter;

use crate::serve::claim::fallback::Backup;
use crate::serve::claim::publisher::Publisher;
use crate::serve::claim::singleflight::{Held, Holder, Taken, Turn};

pub(crate) struct Promises {
    held: Held,
    publisher: Publisher,
    backup: Backup,
}

impl Promises {
    /// With nothing known to be held.
    pub(crate) fn new(publisher: Publisher, backup: Backup) -> Self {
        Self { held: Held::default(), publisher, backup }
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Sees to it that a second store holds an admission, and says which took it; the topic, where that was long ago. `None`:
    /// neither did in time, so that nothing may be promised. `admitted_at_ms` is Redis's, if it knows; `quantity` the drop's.
    ///
    /// Publishing twice is a no-op for the consumer, so that a process that does not know publishes again.
    pub(crate) async fn secure(&self, claim: &ClaimEvent, admitted_at_ms: Option<i64>, quantity: Slot) -> Taken {
        let mark = self.held.mark(claim.drop_id, claim.slot, &claim.user_id, admitted_at_ms);
        match self.held.turn(mark, quantity) {
            Turn::Held => Some(Holder::Topic),
            Turn::Another(mut result) => {
                // An error: whoever worked on it is gone, and what came of it is not known.
                result.wait_for(Option::is_some).await.ok().and_then(|taken| (*taken)?)
            }
            Turn::Mine(work) => {
                let taken = self.hand_over(claim).await;
                work.ended(taken);
                taken
            }
        }
    }

    async fn hand_over(&self, claim: &ClaimEvent) -> Taken {
        let published = self.publisher.publish(claim).await;
        crash_point(Point::ClaimPublished);
        if published {
            return Some(Holder::Topic);
        }
        let kept = self.backup.keep(claim).await;
        crash_point(Point::ClaimKept);
        if !kept {
            counter!("firstcome_claims_not_held_total").increment(1);
            tracing::debug!(drop = %claim.drop_id, slot = claim.slot, "an admission is held by Redis alone and is not promised");
        }
        kept.then_some(Holder::Backup)
    }

    /// Forgets what is known of drops that are not among these.
    pub(crate) fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        self.held.keep_only(wanted);
    }
}
