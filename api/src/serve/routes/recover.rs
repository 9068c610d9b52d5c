//! Recovery before a change of a coupon: settings that MySQL has lost are recovered from Redis
//! (docs/decisions/0026-mysql-gone-back.md).

use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::recover::{RecoverError, recover};
use tokio::time::timeout;

use super::refusals::mysql_unavailable;
use crate::serve::state::Services;

/// Maximum wait for Redis when looking for settings that MySQL has lost.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// Must precede a change, which must neither reuse a revision that MySQL has lost nor undo lost
/// settings. If Redis does not answer, changes of settings that Redis does not store are delayed
/// only briefly.
pub(super) async fn recover_lost(services: &Services, id: CouponId) -> Result<(), Problem> {
    let why = match timeout(ASKED_FOR, services.redis.revision(id)).await {
        Ok(Ok(_)) => match recover(&services.mysql.operators, &services.redis, id).await {
            Ok(None) => return Ok(()),
            Ok(Some(lost)) => {
                tracing::warn!(coupon = %id, changes = lost.changes, "MySQL had lost settings, which Redis has");
                return Ok(());
            }
            Err(RecoverError::Db(error)) => {
                return Err(mysql_unavailable(&error, "nothing was changed"));
            }
            Err(RecoverError::Redis(error)) => error.to_string(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(elapsed) => elapsed.to_string(),
    };
    tracing::warn!(why, coupon = %id, "Redis could not be asked what MySQL has lost");
    Ok(())
}
