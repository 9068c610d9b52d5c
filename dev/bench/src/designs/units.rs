//! Design I: one row per free unit. Claims lock different rows (`SKIP LOCKED`), so transactions do
//! not wait for each other.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::time::sleep;

use super::micro_batch::{Given, UnitStore, insert, quoted};
use super::{DesignArgs, DesignReply};

/// Errors after which the transaction is retried: duplicate key and deadlock.
const AGAIN: [u16; 2] = [1062, 1213];

pub(super) struct Units {
    table: String,
    /// Lowest unit that may be free. Deleted rows stay in the index until MySQL purges them, and
    /// each search would pass over them.
    from: AtomicU32,
}

impl Units {
    pub(super) fn new(args: &DesignArgs) -> Self {
        Self {
            table: args.design.table(),
            from: AtomicU32::new(0),
        }
    }

    /// Gives a unit to each of these users without one, as long as free units are found.
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
        let winners = users
            .iter()
            .copied()
            .filter(|user| !holders.contains(*user));
        let winners: Vec<(&str, u32)> = winners.zip(slots).collect();
        let mut given = Given::default();
        if let Some((_, last)) = winners.last().copied() {
            let taken: Vec<String> = winners.iter().map(|(_, slot)| slot.to_string()).collect();
            let rows = insert(table, winners.iter().copied());
            conn.query_drop(format!(
                "DELETE FROM units_{table} WHERE coupon_id = 1 AND slot IN ({}); {rows}; COMMIT",
                taken.join(",")
            ))
            .await?;
            self.from.fetch_max(last + 1, Ordering::Relaxed);
        } else {
            conn.query_drop("ROLLBACK").await?;
        }
        let accepted = |(user, slot): (&str, u32)| (user.to_owned(), DesignReply::Accepted(slot));
        given.replies.extend(winners.into_iter().map(accepted));
        let already = holders.into_iter().map(|user| (user, DesignReply::Already));
        given.replies.extend(already);
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
            // A transaction that rolled back may have freed units below `from`.
            if self.from.swap(0, Ordering::Relaxed) > 0 {
                continue;
            }
            // Units that another transaction is about to take still count, because it may roll
            // back.
            let left = format!("SELECT EXISTS (SELECT 1 FROM units_{})", self.table);
            if conn.query_first(left).await? == Some(false) {
                let all_gone = true;
                return Ok(Given {
                    all_gone,
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
