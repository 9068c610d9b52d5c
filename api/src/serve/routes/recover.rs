//! What comes before a change of a coupon: settings that MySQL has lost are recovered from Redis
//! (docs/decisions/0026-mysql-gone-back.md).

use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::recover::{RecoverError, recover};
use tokio::time::timeout;

use super::refusals::mysql_unavailable;
use crate::serve::state::Services;

/// For so long Redis is asked what MySQL has lost.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// Before a change: it must not count past what MySQL has lost, nor undo it. A silent Redis delays
/// no change for long of what Redis does not have.
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
