//! Decides whether the total is exact and every promise was kept. Compares MySQL's rows with the
//! answers, without using the product's code.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use firstcome_stack::MysqlServer;

use crate::answer::PromisedSlot;
use crate::measure::{CountedRow, Database};
use crate::rows::unkept;

/// The rows and dead letters of one coupon with one drop.
#[derive(Debug, Clone, Default)]
pub struct Proof {
    /// Number of coupons on offer.
    pub quantity: u32,
    pub rows: usize,
    /// Number of rows that the consumer wrote.
    pub by_consumer: usize,
    /// Number of rows that the reconciler wrote.
    pub by_reconciler: usize,
    /// Number of rows beyond the quantity, or on a slot outside 1..=quantity.
    pub over_issued: usize,
    /// Number of additional rows of the same user.
    pub duplicates: usize,
    /// Users who were promised a coupon but have no row with the promised drop and slot.
    pub promised_without_row: BTreeSet<String>,
    /// Claims that the consumer could not write, by reason, with the number of unresolved ones.
    pub refused: Vec<RefusedClaims>,
    /// Milliseconds from the last admission to the last row.
    pub settled_after_ms: i64,
}

/// Dead letters with the same reason.
#[derive(Debug, Clone)]
pub struct RefusedClaims {
    pub reason: String,
    pub count: u64,
    /// Number of unresolved dead letters.
    pub open: u64,
}

impl Proof {
    /// Reads and compares the tables.
    pub async fn read(
        mysql: &MysqlServer,
        coupon_id: i64,
        quantity: u32,
        promises: &HashMap<String, PromisedSlot>,
    ) -> Result<Self> {
        let mut database = Database::open(&mysql.database_url("firstcome")).await?;
        let rows = database.rows(coupon_id).await?;
        database.conn.disconnect().await?;
        let mut proof = Self::compare(&rows, quantity, promises);
        proof.refused = refused(mysql).await?;
        proof.settled_after_ms = settled_after_ms(mysql, coupon_id).await?;
        Ok(proof)
    }

    fn compare(
        rows: &[CountedRow],
        quantity: u32,
        promises: &HashMap<String, PromisedSlot>,
    ) -> Self {
        let in_range = rows
            .iter()
            .filter(|row| (1..=quantity).contains(&row.promise.slot))
            .count();
        let holders: BTreeSet<&str> = rows.iter().map(|row| row.user_id.as_str()).collect();
        let by_consumer = rows.iter().filter(|row| row.by_consumer).count();
        Self {
            quantity,
            rows: rows.len(),
            by_consumer,
            by_reconciler: rows.len() - by_consumer,
            over_issued: rows
                .len()
                .saturating_sub(quantity as usize)
                .max(rows.len() - in_range),
            duplicates: rows.len() - holders.len(),
            promised_without_row: unkept(promises, rows),
            ..Self::default()
        }
    }

    /// Whether the number of rows equals the quantity, with one per user, and every promise has its
    /// row on its slot.
    pub fn exact(&self) -> bool {
        self.rows == self.quantity as usize
            && self.over_issued == 0
            && self.duplicates == 0
            && self.promised_without_row.is_empty()
    }

    /// Counts the claims that the consumer could not write.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.iter().map(|refused| refused.count).sum()
    }

    /// Counts the unresolved dead letters.
    pub fn refused_open(&self) -> u64 {
        self.refused.iter().map(|refused| refused.open).sum()
    }
}

async fn refused(mysql: &MysqlServer) -> Result<Vec<RefusedClaims>> {
    let sql = "SELECT reason, COUNT(*), COUNT(*) - COUNT(resolved_at) FROM firstcome.failed_claims
               GROUP BY reason ORDER BY reason";
    let read = |row: Vec<String>| {
        let [reason, count, open] = <[String; 3]>::try_from(row).ok().context("three columns")?;
        Ok(RefusedClaims {
            reason,
            count: count.parse()?,
            open: open.parse()?,
        })
    };
    mysql.query(sql).await?.into_iter().map(read).collect()
}

async fn settled_after_ms(mysql: &MysqlServer, coupon_id: i64) -> Result<i64> {
    let sql = format!(
        "SELECT COALESCE(TIMESTAMPDIFF(MICROSECOND, MAX(claimed_at), MAX(issued_at)) DIV 1000, 0)
         FROM firstcome.issued_coupons WHERE coupon_id = {coupon_id}"
    );
    let rows = mysql.query(&sql).await?;
    ensure!(
        rows.len() == 1 && rows[0].len() == 1,
        "MySQL returned no time"
    );
    Ok(rows[0][0].parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slot: u32, user_id: &str) -> CountedRow {
        CountedRow {
            promise: PromisedSlot { drop_id: 1, slot },
            user_id: user_id.into(),
            by_consumer: slot != 2,
        }
    }

    fn promised(promises: &[(&str, u32)]) -> HashMap<String, PromisedSlot> {
        promises
            .iter()
            .map(|(user_id, slot)| {
                (
                    (*user_id).into(),
                    PromisedSlot {
                        drop_id: 1,
                        slot: *slot,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn result_is_exact_if_every_promise_has_its_row_and_no_other_row_exists() {
        let proof = Proof::compare(
            &[row(1, "a"), row(2, "b")],
            2,
            &promised(&[("a", 1), ("b", 2)]),
        );
        assert!(proof.exact());
        assert_eq!((proof.by_consumer, proof.by_reconciler), (1, 1));
    }

    #[test]
    fn reports_promises_with_a_wrong_slot_or_without_a_row() {
        let proof = Proof::compare(
            &[row(1, "b"), row(2, "a")],
            2,
            &promised(&[("a", 1), ("b", 1), ("c", 3)]),
        );
        assert!(!proof.exact());
        assert_eq!(
            proof.promised_without_row.iter().collect::<Vec<_>>(),
            ["a", "c"]
        );
    }

    #[test]
    fn surplus_missing_and_duplicate_rows_are_not_exact() {
        let none = HashMap::new();
        assert!(!Proof::compare(&[row(1, "a")], 2, &none).exact());
        let too_many = Proof::compare(&[row(1, "a"), row(2, "b"), row(3, "c")], 2, &none);
        assert_eq!((too_many.over_issued, too_many.exact()), (1, false));
        assert_eq!(
            Proof::compare(&[row(1, "a"), row(3, "b")], 2, &none).over_issued,
            1
        );
        let twice = Proof::compare(&[row(1, "a"), row(2, "a")], 2, &none);
        assert_eq!((twice.duplicates, twice.exact()), (1, false));
    }
}
