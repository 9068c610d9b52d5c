//! Faults in which MySQL refuses, blocks, cannot write, or comes back with older data.

use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_harness::{LOCK_WAITS, MadeCoupon, OldCopy, TABLE_LOCK_WAITS};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::redis::{files_up_to, has_ended};
use crate::effect::Effect;
use crate::fault::FaultyStore::Mysql;
use crate::system::SystemUnderTest;
use crate::wait::{lasting, pause, until};

pub(super) async fn read_only(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Mysql).await;
    let mysql = &system.servers.mysql;
    mysql.query("SET GLOBAL super_read_only = ON").await?;
    let during = lasting(ms).await;
    mysql.query("SET GLOBAL super_read_only = OFF").await?;
    mysql.query("SET GLOBAL read_only = OFF").await?;
    Ok(Effect::lasting(during, true, "writes were refused"))
}

/// Locks the drop's slot limits from another client.
pub(super) async fn locks(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(Mysql).await;
    let before = counter(system, "lock_timeouts").await?;
    let mut other = other_client(system).await?;
    // A suspended consumer keeps its locks for as long as it is suspended.
    let patient = "SET SESSION innodb_lock_wait_timeout = 60";
    for statement in [patient, "BEGIN", &lock_drop(coupon)] {
        other.query_drop(statement).await?;
    }
    let during = lasting(ms + 1_500).await;
    let waits = system.number(LOCK_WAITS).await?;
    other.query_drop("ROLLBACK").await?;
    other.disconnect().await?;
    let timeouts = counter(system, "lock_timeouts").await? - before;
    let note = format!("{timeouts} lock waits timed out, {waits} waited at the end");
    Ok(Effect::lasting(during, waits + timeouts > 0, note))
}

/// Rows that make a transaction heavier than a batch. If two transactions deadlock, MySQL rolls
/// back the lighter one.
const BALLAST: &str = "INSERT INTO ballast WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n";

/// Repeatedly takes the locks of the product's writers from another client, in the opposite order.
pub(super) async fn deadlocks(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(Mysql).await;
    let before = counter(system, "lock_deadlocks").await?;
    let begun = Instant::now();
    let mut other = other_client(system).await?;
    let ballast = "CREATE TABLE IF NOT EXISTS ballast (id INT PRIMARY KEY)";
    other.query_drop(ballast).await?;
    // With its first row, a batch takes a shared lock on the drop's slot limit (a foreign key). It
    // then locks the positions of its other rows. This client takes these locks in the opposite
    // order.
    let rows = "SELECT slot FROM issued_coupons WHERE drop_id";
    let rows = format!("{rows} = {} FOR UPDATE", coupon.drop);
    while begun.elapsed() < Duration::from_millis(ms + 1_000) {
        other.query_drop("BEGIN").await?;
        let both = async {
            other.query_drop(BALLAST).await?;
            other.query_drop(&rows).await?;
            pause(60).await;
            other.query_drop(lock_drop(coupon)).await
        };
        match both.await {
            Ok(()) | Err(mysql_async::Error::Server(_)) => {}
            Err(error) => return Err(error.into()),
        }
        other.query_drop("ROLLBACK").await?;
        pause(20).await;
    }
    let during = begun..Instant::now();
    other.disconnect().await?;
    let met = counter(system, "lock_deadlocks").await? - before;
    Ok(Effect::lasting(during, met > 0, format!("{met} deadlocks")))
}

/// Locks the table of rows from another client, or all tables against writes.
pub(super) async fn hang(system: &SystemUnderTest, writes: bool, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Mysql).await;
    let mut other = other_client(system).await?;
    let lock = if writes {
        "FLUSH TABLES WITH READ LOCK"
    } else {
        "LOCK TABLES issued_coupons WRITE"
    };
    other.query_drop(lock).await?;
    let during = lasting(ms).await;
    let waiting = system.number(TABLE_LOCK_WAITS).await;
    other.query_drop("UNLOCK TABLES").await?;
    other.disconnect().await?;
    let waiting = waiting?;
    let note = format!("{waiting} statements waited at the end");
    Ok(Effect::lasting(during, waiting > 0, note))
}

/// Prevents MySQL's files from growing. MySQL exits when it cannot write its log, or is killed at
/// the end, and is then restarted.
pub(super) async fn disk_full(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Mysql).await;
    let pid = system.servers.pid(Mysql)?;
    let begun = Instant::now();
    files_up_to(pid, 1)?;
    let ended = until(Duration::from_millis(ms + 2_000), || has_ended(pid)).await;
    let during = begun..Instant::now();
    system.servers.kill(Mysql).await?;
    system.servers.start_again(Mysql).await?;
    Ok(Effect::lasting(
        during,
        true,
        format!("MySQL exited: {ended}"),
    ))
}

/// Copies the rows, waits for `age_ms`, and deletes the rows that are not in the copy. Has no
/// effect if MySQL does not answer because of another fault.
pub(super) async fn restore_rows(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let sql = &system.world.sql;
    let old = format!("old_rows_{:08x}", rand::random::<u32>());
    let copy = format!("CREATE TABLE {old} SELECT drop_id, slot, user_id FROM issued_coupons");
    if sql.rows(&copy).await.is_err() {
        return Ok(Effect::now(false, "MySQL did not answer"));
    }
    pause(age_ms).await;
    let newer = format!(
        "FROM issued_coupons i LEFT JOIN {old} o USING (drop_id, slot, user_id) WHERE o.slot IS NULL"
    );
    let lost = system.number(&format!("SELECT COUNT(*) {newer}")).await;
    let deleted = sql.rows(&format!("DELETE i {newer}")).await;
    drop(sql.rows(&format!("DROP TABLE {old}")).await);
    let note = format!("rows forgotten: {lost:?}, deleted: {}", deleted.is_ok());
    let took = deleted.is_ok() && lost.is_ok_and(|lost| lost > 0);
    Ok(Effect::now(took, note))
}

/// Deletes all rows of a table. Has no effect if there are none.
pub(super) async fn lose_table(system: &SystemUnderTest, table: &str) -> Effect {
    let lose = "SET FOREIGN_KEY_CHECKS = 0; DELETE FROM";
    let lose = format!("{lose} {table}; SET FOREIGN_KEY_CHECKS = 1");
    change_rows(system, table, &lose).await
}

/// Adds a number to the stored position of each partition. Has no effect if each stays at 0.
pub(super) async fn move_positions(system: &SystemUnderTest, by: i64) -> Effect {
    let next = format!("GREATEST(0, CAST(next_offset AS SIGNED) + {by})");
    let moved = format!("topic_positions WHERE next_offset <> {next}");
    let go = format!("UPDATE topic_positions SET next_offset = {next}");
    change_rows(system, &moved, &go).await
}

/// Runs a statement that changes the rows of `of`, a table with its condition.
async fn change_rows(system: &SystemUnderTest, of: &str, statement: &str) -> Effect {
    let found = system.number(&format!("SELECT COUNT(*) FROM {of}")).await;
    let changed = system.world.sql.rows(statement).await;
    let took = changed.is_ok() && found.as_ref().is_ok_and(|rows| *rows > 0);
    Effect::now(
        took,
        format!("{found:?} rows, changed: {}", changed.is_ok()),
    )
}

/// Kills MySQL and restarts it with an older copy of its data.
pub(super) async fn old_database(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let servers = &system.servers;
    let _alone = servers.alone(Mysql).await;
    servers.mysql.freeze().await?;
    let old = OldCopy::of(servers.mysql.data_dir());
    servers.mysql.thaw().await?;
    let old = old?;
    pause(age_ms).await;
    servers.kill(Mysql).await?;
    old.put_back(servers.mysql.data_dir())?;
    servers.start_again(Mysql).await?;
    Ok(Effect::now(true, "everything written since is forgotten"))
}

fn lock_drop(coupon: &MadeCoupon) -> String {
    let lock = "SELECT drop_id FROM slot_limits WHERE drop_id";
    format!("{lock} = {} FOR UPDATE", coupon.drop)
}

async fn other_client(system: &SystemUnderTest) -> Result<Conn> {
    let conn = Conn::from_url(system.world.sql.url());
    Ok(tokio::time::timeout(Duration::from_secs(5), conn).await??)
}

/// Reads a counter of InnoDB.
async fn counter(system: &SystemUnderTest, name: &str) -> Result<u64> {
    let counter = "SELECT `COUNT` FROM information_schema.innodb_metrics WHERE name";
    system.number(&format!("{counter} = '{name}'")).await
}
