//! Design J: one counter row in MySQL, locked by the transaction of a whole batch.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::micro_batch::{Given, UnitStore, insert, quoted};
use super::{DesignArgs, DesignReply};

pub(super) struct CounterRow {
    table: String,
    quantity: u32,
}

impl CounterRow {
    pub(super) fn new(args: &DesignArgs) -> Self {
        Self {
            table: args.design.table(),
            quantity: args.quantity,
        }
    }
}

impl UnitStore for CounterRow {
    /// A second transaction would only wait for the counter.
    const TRANSACTIONS: usize = 1;

    /// Takes two round trips. No other request inserts between them, because the counter is locked.
    async fn give(&self, conn: &mut Conn, users: &[&str]) -> Result<Given> {
        let table = &self.table;
        let list = quoted(users);
        let mut results = conn
            .query_iter(format!(
                "START TRANSACTION;
                 SELECT remaining FROM stock_{table} WHERE coupon_id = 1 FOR UPDATE;
                 SELECT user_id FROM {table} WHERE coupon_id = 1 AND user_id IN ({list})"
            ))
            .await?;
        results.collect::<u8>().await?;
        let remaining = results
            .collect::<u32>()
            .await?
            .first()
            .copied()
            .unwrap_or(0);
        let holders: HashSet<String> = results.collect().await?.into_iter().collect();
        results.drop_result().await?;
        let winners: Vec<(&str, u32)> = users
            .iter()
            .copied()
            .filter(|user| !holders.contains(*user))
            .zip(self.quantity - remaining + 1..=self.quantity)
            .collect();
        if winners.is_empty() {
            conn.query_drop("ROLLBACK").await?;
        } else {
            let rows = insert(table, winners.iter().copied());
            let taken = winners.len();
            conn.query_drop(format!(
                "{rows}; UPDATE stock_{table} SET remaining = remaining - {taken} WHERE coupon_id = 1; COMMIT"
            ))
            .await?;
        }
        let all_gone = remaining as usize == winners.len();
        let mut replies: HashMap<_, _> = winners
            .into_iter()
            .map(|(user, slot)| (user.to_owned(), DesignReply::Accepted(slot)))
            .collect();
        replies.extend(holders.into_iter().map(|user| (user, DesignReply::Already)));
        Ok(Given { replies, all_gone })
    }
}
