//! Before a change of a coupon, recovers settings that MySQL has lost from Redis
//! (docs/decisions/0026-mysql-gone-back.md).

use std::time::Duration;

use firstcome_shared::StoreError;
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::recover::recover;
use tokio::time::timeout;

use super::refusals::mysql_unavailable;
use crate::serve::state::Services;

/// Maximum wait for Redis when looking for settings that MySQL has lost.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// Recovers lost settings. Call it before a change, which must neither reuse a revision that MySQL
/// has lost nor undo lost settings. The wait for Redis is short, because changes that do not
/// concern Redis must succeed without it.
pub(super) async fn recover_lost(services: &Services, id: CouponId) -> Result<(), Problem> {
    let why = match timeout(ASKED_FOR, services.redis.revision(id)).await {
        Ok(Ok(_)) => match recover(&services.mysql.operators, &services.redis, id).await {
            Ok(None) => return Ok(()),
            Ok(Some(lost)) => {
                tracing::warn!(coupon = %id, changes = lost.changes, "MySQL had lost settings, which Redis has");
                return Ok(());
            }
            Err(StoreError::Db(error)) => {
                return Err(mysql_unavailable(&error, "nothing was changed"));
            }
            Err(StoreError::Redis(error)) => error.to_string(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(elapsed) => elapsed.to_string(),
    };
    tracing::warn!(why, coupon = %id, "could not check in Redis whether MySQL has lost settings");
    Ok(())
}
