//! Whole keys and tables are lost, older copies are restored, positions are moved, or the topic is
//! created again. (Faults of single members and fields are out of scope: DESIGN, section 1.)

use anyhow::Result;
use firstcome_testkit::{MadeCoupon, OldCopy, PrefixedKeys};

use super::effect::Effect;
use super::redis::{forgotten, people};
use crate::fault::{DropKey, FaultyStore, LostTable};
use crate::system::{SystemUnderTest, number};
use crate::wait::pause;

/// Returns the key of a drop or its coupon.
pub(super) fn key_of(redis: &PrefixedKeys, coupon: &MadeCoupon, key: DropKey) -> String {
    if key.is_of_coupon() {
        redis.own(&format!("{{{}}}:{}", coupon.id, key.name()))
    } else {
        redis.of_drop(coupon.id, coupon.drop, key.name())
    }
}

pub(super) async fn lose_keys(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    keys: impl IntoIterator<Item = DropKey>,
) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let redis = system.redis();
    let keys = keys.into_iter().map(|key| key_of(&redis, coupon, key));
    let words: Vec<String> = std::iter::once("DEL".to_owned()).chain(keys).collect();
    let deleted: u64 = redis.try_command(&words).await?;
    Ok(Effect::now(deleted > 0, format!("{deleted} keys deleted")))
}

/// Copies keys with `DUMP` and restores them with `RESTORE` after `age_ms`.
pub(super) async fn restore_keys(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    age_ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let redis = system.redis();
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

/// Deletes the rows that were inserted meanwhile.
pub(super) async fn restore_rows(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let old = format!("old_rows_{:08x}", rand::random::<u32>());
    let copy = format!("CREATE TABLE {old} SELECT drop_id, slot, user_id FROM issued_coupons");
    // Another fault may affect MySQL at this moment.
    if system.world.sql.rows(&copy).await.is_err() {
        return Ok(Effect::now(false, "MySQL did not answer"));
    }
    pause(age_ms).await;
    let newer = format!(
        "FROM issued_coupons i LEFT JOIN {old} o USING (drop_id, slot, user_id) WHERE o.slot IS NULL"
    );
    let lost = number(system, &format!("SELECT COUNT(*) {newer}")).await;
    let deleted = system.world.sql.rows(&format!("DELETE i {newer}")).await;
    drop(system.world.sql.rows(&format!("DROP TABLE {old}")).await);
    let lost = lost.unwrap_or_default();
    Ok(Effect::now(
        deleted.is_ok() && lost > 0,
        format!("{lost} rows forgotten"),
    ))
}

/// Kills MySQL and restarts it with an older copy of its data.
pub(super) async fn old_database(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let servers = &system.servers;
    let _alone = servers.alone(FaultyStore::Mysql).await;
    servers.mysql.freeze().await?;
    let old = OldCopy::of_folder(servers.mysql.data_dir());
    servers.mysql.thaw().await?;
    let old = old?;
    pause(age_ms).await;
    servers.kill(FaultyStore::Mysql).await?;
    old.put_back_into(servers.mysql.data_dir())?;
    servers.start_again(FaultyStore::Mysql).await?;
    Ok(Effect::now(true, "everything written since is forgotten"))
}

/// Deletes all rows of a table without checking references.
pub(super) async fn lose_table(system: &SystemUnderTest, table: LostTable) -> Result<Effect> {
    let delete = format!(
        "SET FOREIGN_KEY_CHECKS = 0; DELETE FROM {}; SET FOREIGN_KEY_CHECKS = 1",
        table.name()
    );
    // Another fault may affect MySQL at this moment.
    let deleted = system.world.sql.rows(&delete).await;
    Ok(Effect::now(deleted.is_ok(), "all its rows"))
}

pub(super) async fn move_positions(system: &SystemUnderTest, by: i64) -> Result<Effect> {
    let moved = format!(
        "UPDATE topic_positions SET next_offset = GREATEST(0, CAST(next_offset AS SIGNED) + {by})"
    );
    // Another fault may affect MySQL at this moment.
    let changed = system.world.sql.rows(&moved).await;
    Ok(Effect::now(changed.is_ok(), "of every partition"))
}

pub(super) async fn recreate_topic(system: &SystemUnderTest) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Kafka).await;
    system.world.topic.recreate().await;
    Ok(Effect::now(true, "with the same settings"))
}
