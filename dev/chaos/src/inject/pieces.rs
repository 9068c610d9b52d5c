//! Deletes a single piece of data, or restores older keys of a coupon into the running Redis.

use anyhow::Result;
use firstcome_testkit::{MadeCoupon, PrefixedKeys};

use super::effect::Effect;
use super::redis::{forgotten, people};
use crate::fault::{DropKey, FaultyStore};
use crate::system::{SystemUnderTest, number};
use crate::wait::pause;

/// Returns the key of a drop or its coupon.
pub(super) fn key_of(redis: &PrefixedKeys, coupon: &MadeCoupon, key: DropKey) -> String {
    match key {
        DropKey::Claimants | DropKey::Revoked | DropKey::Sizes => {
            redis.own(&format!("{{{}}}:{}", coupon.id, key.name()))
        }
        other => redis.of_drop(coupon.id, coupon.drop, other.name()),
    }
}

pub(super) async fn lose_key(system: &SystemUnderTest, key: DropKey) -> Result<Effect> {
    let _alone = system.single()?.alone(FaultyStore::Redis).await;
    let redis = system.redis();
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let name = key_of(&redis, coupon, key);
    let deleted: u64 = redis.try_command(&["DEL", &name]).await?;
    Ok(Effect::now(deleted > 0, format!("{deleted} keys deleted")))
}

pub(super) async fn lose_member(system: &SystemUnderTest, key: DropKey) -> Result<Effect> {
    let _alone = system.single()?.alone(FaultyStore::Redis).await;
    let redis = system.redis();
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let name = key_of(&redis, coupon, key);
    let [pick, remove] = match key {
        DropKey::Meta | DropKey::Times | DropKey::Claimants | DropKey::Revoked | DropKey::Sizes => {
            ["HRANDFIELD", "HDEL"]
        }
        _ => ["ZRANDMEMBER", "ZREM"],
    };
    let member = match redis.try_command::<Option<Vec<u8>>>(&[pick, &name]).await {
        // The key contains garbage.
        Err(error) if error.code() == Some("WRONGTYPE") => None,
        member => member?,
    };
    let Some(member) = member else {
        return Ok(Effect::now(false, "the key has no member"));
    };
    let words: [&[u8]; 3] = [remove.as_bytes(), name.as_bytes(), &member];
    let removed: u64 = redis.try_command(&words).await?;
    Ok(Effect::now(removed > 0, String::from_utf8_lossy(&member)))
}

pub(super) async fn lose_row(system: &SystemUnderTest) -> Result<Effect> {
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let of = format!("FROM issued_coupons WHERE drop_id = {}", coupon.drop);
    let before = number(system, &format!("SELECT COUNT(*) {of}")).await;
    // Another fault may affect MySQL at this moment.
    let delete = format!("DELETE {of} ORDER BY slot DESC LIMIT 1");
    let deleted = system.world.sql.rows(&delete).await;
    let took = deleted.is_ok() && before.is_ok_and(|rows| rows > 0);
    Ok(Effect::now(took, "the row with the highest slot"))
}

pub(super) async fn restore_rows(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let of = format!("FROM issued_coupons WHERE drop_id = {}", coupon.drop);
    // Another fault may affect MySQL at this moment.
    let Ok(kept) = number(system, &format!("SELECT COALESCE(MAX(slot), 0) {of}")).await else {
        return Ok(Effect::now(false, "MySQL did not answer"));
    };
    pause(age_ms).await;
    let newer = format!("{of} AND slot > {kept}");
    let lost = number(system, &format!("SELECT COUNT(*) {newer}")).await;
    let deleted = system.world.sql.rows(&format!("DELETE {newer}")).await;
    let took = deleted.is_ok() && lost.is_ok_and(|rows| rows > 0);
    Ok(Effect::now(took, format!("the rows above slot {kept}")))
}

/// Copies keys with `DUMP` and restores them with `RESTORE` after `age_ms`.
pub(super) async fn restore_keys(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let _alone = system.single()?.alone(FaultyStore::Redis).await;
    let redis = system.redis();
    let Some(coupon) = system.coupons().first() else {
        return Ok(Effect::now(false, "no coupon"));
    };
    let of_coupon = redis.own(&format!("{{{}}}:", coupon.id));
    let kept = redis.dump().await;
    pause(age_ms).await;
    let before = people(system).await?;
    for (key, (dump, _)) in kept {
        // A key that was deleted meanwhile has no dump.
        if key.starts_with(&of_coupon) && !dump.is_empty() {
            let words: [&[u8]; 5] = [b"RESTORE", key.as_bytes(), b"0", &dump, b"REPLACE"];
            redis.try_command::<()>(&words).await?;
        }
    }
    Ok(forgotten(before, people(system).await?))
}
