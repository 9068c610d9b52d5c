//! Compares the rows in MySQL with the promises, without using the product's code.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::answer::PromisedSlot;

/// The rows of one coupon, compared with the promises.
#[derive(Debug, Default)]
pub struct Rows {
    pub all: usize,
    pub by_consumer: usize,
    /// Number of rows on a slot outside the quantity of their drop.
    pub over_issued: usize,
    /// Number of additional rows of the same user: in the coupon or, if it may be claimed once per
    /// drop, in one of its drops.
    pub duplicates: usize,
    /// Users who were promised a coupon but have no row with the promised drop and slot.
    pub promised_without_row: BTreeSet<String>,
    /// The drop, slot and user of each row.
    pub holders: Vec<(i64, u32, String)>,
}

impl Rows {
    #[allow(clippy::implicit_hasher, reason = "a tally has only this one")]
    pub async fn read(
        conn: &mut Conn,
        coupon: i64,
        promises: &HashMap<String, PromisedSlot>,
    ) -> Result<Self> {
        let sql = "SELECT i.drop_id, i.slot, i.user_id, i.issued_by = 'consumer', d.quantity, \
                       IF(c.once_per = 'drop', i.drop_id, 0) \
                   FROM issued_coupons i \
                       JOIN drops d ON d.id = i.drop_id \
                       JOIN coupons c ON c.id = i.coupon_id \
                   WHERE i.coupon_id = ?";
        let rows: Vec<(i64, u32, String, bool, u32, i64)> = conn
            .exec(sql, (coupon,))
            .await
            .context("the rows can't be read")?;
        let mut read = Self {
            all: rows.len(),
            ..Self::default()
        };
        read.promised_without_row.extend(promises.keys().cloned());
        let mut holders = BTreeSet::new();
        for (drop_id, slot, user, by_consumer, quantity, scope) in rows {
            read.by_consumer += usize::from(by_consumer);
            read.over_issued += usize::from(!(1..=quantity).contains(&slot));
            if promises.get(&user) == Some(&PromisedSlot { drop_id, slot }) {
                read.promised_without_row.remove(&user);
            }
            read.duplicates += usize::from(!holders.insert((scope, user.clone())));
            read.holders.push((drop_id, slot, user));
        }
        Ok(read)
    }

    /// Whether the number of rows equals the quantity, with one per user, and every promise has its
    /// row on its slot.
    pub fn exact(&self, quantity: u32) -> bool {
        self.all == quantity as usize
            && self.over_issued + self.duplicates == 0
            && self.promised_without_row.is_empty()
    }

    /// Returns the rows of a table for the terminal.
    pub fn rows(&self) -> Vec<(String, String)> {
        let counts = [
            ("rows", self.all),
            ("  by the consumer", self.by_consumer),
            ("  by the reconciler", self.all - self.by_consumer),
            ("promises without a row", self.promised_without_row.len()),
            ("over-issued", self.over_issued),
            ("duplicates", self.duplicates),
        ];
        counts
            .map(|(what, count)| (what.to_owned(), count.to_string()))
            .into()
    }
}
