//! Design I: one row per free unit, in a pool of limited size. Claims lock different rows (`SKIP
//! LOCKED`), so transactions do not wait for each other.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::time::sleep;

use super::micro_batch::{Given, UnitStore, insert, quoted};
use super::{DesignArgs, DesignReply};

/// Size of the pool of free units. Deleted rows stay in the index until MySQL purges them, and each
/// search passes over them. The pool is therefore small and refilled from the stock row.
const POOL: u32 = 1_000;
/// Errors after which the transaction is retried: duplicate key and deadlock.
const AGAIN: [u16; 2] = [1062, 1213];

pub(super) struct Units {
    table: String,
    quantity: u32,
    /// Lowest unit that may be free, so that recently deleted units are not searched again.
    from: AtomicU32,
}

impl Units {
    pub(super) fn new(args: &DesignArgs) -> Self {
        Self {
            table: args.design.table(),
            quantity: args.quantity,
            from: AtomicU32::new(0),
        }
    }

    /// Inserts rows for the next units when only a few are left. Returns true if neither stock nor
    /// units are left. Units that another transaction is about to take still count, because that
    /// transaction may roll back.
    async fn refill(&self, conn: &mut Conn) -> Result<bool> {
        let table = &self.table;
        let mut results = conn
            .query_iter(format!(
                "START TRANSACTION;
                 SELECT remaining FROM stock_{table} WHERE coupon_id = 1 FOR UPDATE;
                 SELECT COUNT(*) FROM units_{table} WHERE coupon_id = 1"
            ))
            .await?;
        results.collect::<u8>().await?;
        let remaining = results
            .collect::<u32>()
            .await?
            .first()
            .copied()
            .unwrap_or(0);
        let free = results
            .collect::<u32>()
            .await?
            .first()
            .copied()
            .unwrap_or(0);
        results.drop_result().await?;
        let more = POOL.saturating_sub(free).min(remaining);
        if more == 0 {
            conn.query_drop("ROLLBACK").await?;
            return Ok(remaining + free == 0);
        }
        let first = self.quantity - remaining + 1;
        let units: Vec<String> = (first..first + more)
            .map(|slot| format!("(1,{slot})"))
            .collect();
        conn.query_drop(format!(
            "INSERT INTO units_{table} VALUES {};
             UPDATE stock_{table} SET remaining = remaining - {more} WHERE coupon_id = 1; COMMIT",
            units.join(",")
        ))
        .await?;
        Ok(false)
    }

    /// Gives units to these users, or to none of them if no unit is free.
    async fn take(&self, conn: &mut Conn, users: &[&str]) -> Result<Given> {
        let table = &self.table;
        let list = quoted(users);
        let from = self.from.load(Ordering::Relaxed);
        let mut results = conn
            .query_iter(format!(
                "START TRANSACTION;
                 SELECT user_id FROM {table} WHERE coupon_id = 1 AND user_id IN ({list});
                 SELECT slot FROM units_{table} WHERE coupon_id = 1 AND slot >= {from}
                     ORDER BY slot LIMIT {} FOR UPDATE SKIP LOCKED",
                users.len()
            ))
            .await?;
        results.collect::<u8>().await?;
        let holders: HashSet<String> = results.collect().await?.into_iter().collect();
        let slots: Vec<u32> = results.collect().await?;
        results.drop_result().await?;
        let winners: Vec<(&str, u32)> = users
            .iter()
            .copied()
            .filter(|user| !holders.contains(*user))
            .zip(slots)
            .collect();
        let mut given = Given::default();
        given
            .replies
            .extend(holders.into_iter().map(|user| (user, DesignReply::Already)));
        let Some((_, last)) = winners.last().copied() else {
            conn.query_drop("ROLLBACK").await?;
            return Ok(given);
        };
        let taken: Vec<String> = winners.iter().map(|(_, slot)| slot.to_string()).collect();
        let delete = format!(
            "DELETE FROM units_{table} WHERE coupon_id = 1 AND slot IN ({})",
            taken.join(",")
        );
        conn.query_drop(format!(
            "{delete}; {}; COMMIT",
            insert(table, winners.iter().copied())
        ))
        .await?;
        self.from.fetch_max(last + 1, Ordering::Relaxed);
        given.replies.extend(
            winners
                .into_iter()
                .map(|(user, slot)| (user.to_owned(), DesignReply::Accepted(slot))),
        );
        Ok(given)
    }
}

impl UnitStore for Units {
    /// One transaction can run while the other waits for the disk.
    const TRANSACTIONS: usize = 2;

    async fn give(&self, conn: &mut Conn, users: &[&str]) -> Result<Given> {
        loop {
            match self.take(conn, users).await {
                Ok(given) if given.replies.is_empty() => {}
                Err(error) if comes_again(&error) => {
                    conn.query_drop("ROLLBACK").await?;
                    continue;
                }
                other => return other,
            }
            // A transaction that rolled back has freed units below `from`.
            if self.from.swap(0, Ordering::Relaxed) > 0 {
                continue;
            }
            if self.refill(conn).await? {
                return Ok(Given {
                    all_gone: true,
                    ..Given::default()
                });
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn comes_again(error: &anyhow::Error) -> bool {
    let server = error.downcast_ref().and_then(|error| match error {
        mysql_async::Error::Server(error) => Some(error.code),
        _ => None,
    });
    server.is_some_and(|code| AGAIN.contains(&code))
}
