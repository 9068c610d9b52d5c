//! The last refusal of a store. A store that answers may still refuse claims. The refusal is kept
//! for a while, because the next claim, which would be refused too, may come much later.

use std::time::Duration;

use firstcome_shared::report::{FailureCause, StoreRefusal};
use parking_lot::RwLock;
use tokio::time::Instant;

/// How long a refusal is reported after the last claim that met it, or after it was renewed.
pub(super) const TOLD_FOR: Duration = Duration::from_secs(60);

pub(super) struct LastRefusal {
    store: FailureCause,
    seen: RwLock<Option<(String, Instant)>>,
}

impl LastRefusal {
    pub(super) fn new(store: FailureCause) -> Self {
        Self {
            store,
            seen: RwLock::default(),
        }
    }

    /// Notes the outcome of a write. An error that is not a refusal changes nothing.
    pub(super) fn note(&self, error: Option<&str>) {
        let Some(why) = error else {
            *self.seen.write() = None;
            return;
        };
        if StoreRefusal::from_error(self.store, why).is_some() {
            *self.seen.write() = Some((why.to_owned(), Instant::now()));
        }
    }

    pub(super) fn get(&self) -> Option<String> {
        let seen = self.seen.read().clone();
        seen.filter(|(_, at)| at.elapsed() < TOLD_FOR)
            .map(|(why, _)| why)
    }

    /// Lets a refusal that is still reported count as met now, because it probably stands, but no
    /// claim meets it.
    pub(super) fn renew(&self) {
        if let Some((_, at)) = &mut *self.seen.write()
            && at.elapsed() < TOLD_FOR
        {
            *at = Instant::now();
        }
    }

    /// Pretends that more time has passed since the refusal.
    #[cfg(test)]
    pub(super) fn grow_older(&self, by: Duration) {
        if let Some((_, at)) = &mut *self.seen.write() {
            *at -= by;
        }
    }
}
