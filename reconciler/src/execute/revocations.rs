//! Completes revocations that a crash or a loss of Redis has left incomplete, and resolves their
//! dead letters.

use firstcome_shared::coupon::Coupon;
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::dead_letters::Resolution;
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::Redis;

use super::{ExecuteError, Executor, RepairAttempt};
use crate::collect::snapshot::HalfRevoked;
use crate::plan::Planned;

impl Executor<'_> {
    /// Carries out the steps of a revocation, starting from the first missing one
    /// (docs/decisions/0013-revoking.md).
    pub(super) async fn revoke(&self, half: &HalfRevoked) -> Result<RepairAttempt, ExecuteError> {
        let revocation = &half.revocation;
        let once_per = self.facts.once_per();
        if half.has_row {
            self.db.take_out_row(revocation.id, once_per).await?;
        }
        let until = self.redis.revoke(&self.keys, once_per, revocation).await?;
        if revocation.is_to_be_ended() {
            let ended = self.db.end_revocation(revocation, until).await?;
            self.redis.revoke(&self.keys, once_per, &ended).await?;
        }
        Ok(RepairAttempt::Done(None))
    }

    pub(super) async fn resolve_revoked(
        &self,
        run: &[Planned],
    ) -> Result<Vec<RepairAttempt>, ExecuteError> {
        let resolution = |item: &Planned| {
            Some(Resolution {
                id: item.dead_letter?,
                how: "revoked",
                detail: "its claim was given back or revoked".to_owned(),
            })
        };
        let resolutions = run.iter().filter_map(resolution).collect();
        self.db
            .resolve_dead_letters(resolutions, self.run_id)
            .await?;
        Ok(vec![RepairAttempt::Done(None); run.len()])
    }
}

/// Writes all revocations of a coupon to Redis, including those of sealed drops. This must happen
/// before its users are restored after a loss, and before the coupon opens.
pub(crate) async fn restore_revocations(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
) -> Result<(), ExecuteError> {
    let mut after = 0;
    while restore_revocations_after(db, redis, coupon, &mut after)
        .await?
        .is_some()
    {}
    Ok(())
}

/// Writes the page of revocations after ID `after` to Redis, and advances `after`. Returns `None`
/// if no revocation is left.
pub(super) async fn restore_revocations_after(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    after: &mut i64,
) -> Result<Option<Vec<Revocation>>, ExecuteError> {
    let page = db.revocations_after(coupon.id, None, *after).await?;
    let Some((last, _)) = page.last() else {
        return Ok(None);
    };
    *after = last.id;
    let all: Vec<_> = page.into_iter().map(|(revocation, _)| revocation).collect();
    redis
        .restore_revoked(coupon.id, coupon.once_per, &all)
        .await?;
    Ok(Some(all))
}
