//! Runs commands of `docs/OPERATIONS.md` that belong to another case, and moves stored positions.

use anyhow::Result;

use super::effect::Effect;
use crate::fault::{FaultyStore, PastedCommand};
use crate::system::SystemUnderTest;

pub(super) async fn run(system: &SystemUnderTest, command: PastedCommand) -> Result<Effect> {
    match command {
        PastedCommand::ForgetUser => forget_user(system).await,
        PastedCommand::ForgetDrop => forget_drop(system).await,
        PastedCommand::SkipMessages => {
            let skip = "UPDATE topic_positions SET fault = 'gap', fault_at = UTC_TIMESTAMP(3), \
                        fault_offset = next_offset, next_offset = next_offset + 3, before_print = 0";
            Ok(change_positions(system, skip).await)
        }
        PastedCommand::RereadTopic => {
            Ok(change_positions(system, "DELETE FROM topic_positions").await)
        }
    }
}

pub(super) async fn move_positions(system: &SystemUnderTest, by: i64) -> Result<Effect> {
    let moved = format!(
        "UPDATE topic_positions SET next_offset = GREATEST(0, CAST(next_offset AS SIGNED) + {by})"
    );
    Ok(change_positions(system, &moved).await)
}

async fn change_positions(system: &SystemUnderTest, sql: &str) -> Effect {
    // Another fault may affect MySQL at this moment.
    let changed = system.world.sql.rows(sql).await;
    Effect::now(changed.is_ok(), "of every partition")
}

/// Removes a user who may have a row, as if the ID were invalid.
async fn forget_user(system: &SystemUnderTest) -> Result<Effect> {
    let _alone = system.single()?.alone(FaultyStore::Redis).await;
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let redis = system.redis();
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    // Another fault may have replaced the key.
    let words = ["ZRANGE", &users, "4", "4", "BYSCORE"];
    let found = redis.try_command::<Vec<String>>(&words).await;
    let Some(person) = found.ok().and_then(|mut found| found.pop()) else {
        return Ok(Effect::now(false, "slot 4 has no user"));
    };
    redis.try_command::<()>(&["ZREM", &users, &person]).await?;
    let claimants = redis.claimants(coupon.id);
    redis
        .try_command::<()>(&["HDEL", &claimants, &person])
        .await?;
    Ok(Effect::now(true, "the user of slot 4"))
}

async fn forget_drop(system: &SystemUnderTest) -> Result<Effect> {
    let _alone = system.single()?.alone(FaultyStore::Redis).await;
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let redis = system.redis();
    let names = ["meta", "users", "count", "free", "times", "waiting"];
    let keys = names.map(|name| redis.of_drop(coupon.id, coupon.drop, name));
    let words: Vec<&str> = std::iter::once("DEL")
        .chain(keys.iter().map(String::as_str))
        .collect();
    let deleted: u64 = redis.try_command(&words).await?;
    Ok(Effect::now(deleted > 0, format!("{deleted} keys deleted")))
}
