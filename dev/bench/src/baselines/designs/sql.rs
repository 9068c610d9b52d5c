//! The table of rows, and the queries that every design needs.

use anyhow::Result;
use firstcome_stack::MysqlServer;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts};

use super::{Design, DesignArgs};

/// Number of MySQL connections of a design's API. This number is the fastest on two cores.
const CONNECTIONS: usize = 32;
/// MySQL's error code for a duplicate key.
const DUPLICATE: u16 = 1062;

#[derive(Debug, Clone)]
pub(super) struct DesignRows {
    pub(super) pool: Pool,
    query: String,
    has_row: String,
    insert: String,
}

impl DesignRows {
    pub(super) fn new(args: &DesignArgs, connections: usize) -> Result<Self> {
        let table = args.design.table();
        Ok(Self {
            pool: pool(&args.database, connections)?,
            // One statement answers both questions from the unique index alone.
            query: format!(
                "SELECT COUNT(*), COALESCE(MAX(user_id = ?), 0) FROM {table} WHERE coupon_id = 1"
            ),
            has_row: format!("SELECT 1 FROM {table} WHERE coupon_id = 1 AND user_id = ?"),
            insert: format!(
                "INSERT INTO {table} (coupon_id, user_id, slot, issued_at) VALUES (1, ?, ?, UTC_TIMESTAMP(3))"
            ),
        })
    }

    /// Opens every connection and prepares its statement, so that the measurement covers the design
    /// and not its warm-up.
    pub(super) async fn of(args: &DesignArgs) -> Result<Self> {
        let rows = Self::new(args, CONNECTIONS)?;
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut conn = rows.pool.get_conn().await?;
            rows.query(&mut conn, "nobody").await?;
            rows.has_row(&mut conn, "nobody").await?;
            open.push(conn);
        }
        Ok(rows)
    }

    /// Returns the number of rows, and whether this user has one.
    pub(super) async fn query(&self, conn: &mut Conn, user: &str) -> Result<(u32, bool)> {
        let (count, has_row): (u32, u8) = conn
            .exec_first(&self.query, (user,))
            .await?
            .unwrap_or((0, 0));
        Ok((count, has_row != 0))
    }

    pub(super) async fn has_row(&self, conn: &mut Conn, user: &str) -> Result<bool> {
        Ok(conn
            .exec_first::<u8, _, _>(&self.has_row, (user,))
            .await?
            .is_some())
    }

    /// Inserts a row. Returns `false` if this user already has one.
    pub(super) async fn insert(
        &self,
        conn: &mut impl Queryable,
        user: &str,
        slot: u32,
    ) -> Result<bool> {
        match conn.exec_drop(&self.insert, (user, slot)).await {
            Ok(()) => Ok(true),
            Err(mysql_async::Error::Server(error)) if error.code == DUPLICATE => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

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

/// Returns the table for messages that F and G could not insert.
pub fn failed_table(design: Design) -> String {
    format!("failed_{}", design.table())
}

/// Creates the empty tables of a design.
pub async fn prepare(mysql: &MysqlServer, design: Design, quantity: u32) -> Result<()> {
    let table = design.table();
    let failed = failed_table(design);
    for sql in [
        "CREATE DATABASE IF NOT EXISTS bench".to_owned(),
        format!("DROP TABLE IF EXISTS bench.{table}, bench.{failed}, bench.stock_{table}, bench.units_{table}"),
        format!(
            "CREATE TABLE bench.{table} (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, coupon_id BIGINT NOT NULL,
             user_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, slot INT UNSIGNED NOT NULL,
             issued_at DATETIME(3) NOT NULL, UNIQUE KEY one_each (coupon_id, user_id))"
        ),
        format!(
            "CREATE TABLE bench.{failed} (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, payload TEXT, error TEXT)"
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
    Ok(())
}
