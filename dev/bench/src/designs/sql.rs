//! The tables of the designs, and their connections.

use anyhow::Result;
use firstcome_stack::MysqlServer;
use mysql_async::{Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts};

use super::Design;

/// Number of MySQL connections of design D's API. This number is the fastest on two cores.
pub(super) const CONNECTIONS: usize = 32;

/// Creates a pool whose connections stay open, with Firstcome's settings.
pub(super) fn pool(url: &str, connections: usize) -> Result<Pool> {
    let constraints = PoolConstraints::new(connections, connections).unwrap_or_default();
    let options = OptsBuilder::from_opts(Opts::from_url(url)?)
        .prefer_socket(Some(false))
        .setup(vec!["SET SESSION transaction_isolation = 'READ-COMMITTED'"])
        .pool_opts(
            PoolOpts::default()
                .with_constraints(constraints)
                .with_reset_connection(false),
        );
    Ok(Pool::new(options))
}

/// Creates the empty tables of a design. Only design i has a row for each unit.
pub async fn prepare(mysql: &MysqlServer, design: Design, quantity: u32) -> Result<()> {
    let table = design.table();
    for sql in [
        "CREATE DATABASE IF NOT EXISTS bench".to_owned(),
        format!("DROP TABLE IF EXISTS bench.{table}, bench.stock_{table}, bench.units_{table}"),
        format!(
            "CREATE TABLE bench.{table} (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, coupon_id BIGINT NOT NULL,
             user_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, slot INT UNSIGNED NOT NULL,
             issued_at DATETIME(3) NOT NULL, UNIQUE KEY one_each (coupon_id, user_id))"
        ),
        format!("CREATE TABLE bench.stock_{table} (coupon_id BIGINT NOT NULL PRIMARY KEY, remaining INT NOT NULL)"),
        format!("INSERT INTO bench.stock_{table} VALUES (1, {quantity})"),
        format!(
            "CREATE TABLE bench.units_{table} (coupon_id BIGINT NOT NULL, slot INT UNSIGNED NOT NULL,
             PRIMARY KEY (coupon_id, slot))"
        ),
    ] {
        mysql.query(&sql).await?;
    }
    if design == Design::I {
        let units: Vec<_> = (1..=quantity).map(|slot| format!("(1,{slot})")).collect();
        for part in units.chunks(10_000) {
            let sql = format!("INSERT INTO bench.units_{table} VALUES {}", part.join(","));
            mysql.query(&sql).await?;
        }
    }
    Ok(())
}
