//! The lock of a lane, which one process in the whole system holds: *sweep* compares everything at
//! open gates, *urgent* begins eras, projects and opens. Correctness does not depend on the locks:
//! every repair is idempotent, checks its precondition, and is fenced by the coupon's era.

use std::time::Duration;

use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::mysql::{DbError, DbSettings};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::context::PassError;

/// A lane, and the token by which its work ends between two repairs: the process stops, or the lock
/// is lost.
pub(crate) struct Lane {
    lock: PassLock,
    pub(crate) working: CancellationToken,
    /// Ends the token with the lane.
    _end: DropGuard,
}

impl Lane {
    /// Takes the lock, or returns `None` if another process has it for longer than `patience`.
    pub(crate) async fn take(
        db: &DbSettings,
        work: Work,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, DbError> {
        let lock = tokio::select! {
            lock = PassLock::take(db, work, patience) => lock?,
            () = stop.cancelled() => None,
        };
        Ok(lock.map(|lock| {
            let working = stop.child_token();
            let (cancel, lost) = (working.clone(), lock.lost().clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = lost.cancelled() => cancel.cancel(),
                    () = cancel.cancelled() => {}
                }
            });
            Self {
                _end: working.clone().drop_guard(),
                lock,
                working,
            }
        }))
    }

    /// Tells work that was stopped by the loss of the lock from work that the process stopped.
    pub(crate) fn checked<T>(&self, ended: Result<T, PassError>) -> Result<T, PassError> {
        match ended {
            Err(PassError::Stopped) if self.lock.lost().is_cancelled() => Err(PassError::LockLost),
            other => other,
        }
    }

    pub(crate) async fn release(self) {
        self.lock.release().await;
    }
}
