//! Bulkheads: each part of the API has its own MySQL connections, so that a part that waits for
//! MySQL does not delay the others.

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::mysql::{Db, DbSettings};

#[derive(Clone)]
pub(crate) struct Bulkheads {
    /// Writes rows of claims that Kafka has not acknowledged. Only one task uses it.
    pub(crate) fallback: Db,
    /// Reads of users. They fail fast, because there may be very many.
    pub(crate) questions: Db,
    pub(crate) operators: Db,
    pub(crate) catalogue: Db,
}

impl Bulkheads {
    pub(crate) fn new(mysql: &DbSettings, question_timeout: Duration) -> anyhow::Result<Self> {
        let pool = |pool_size, limit| {
            Db::new(&DbSettings {
                pool_size,
                limit,
                ..mysql.clone()
            })
            .context("DATABASE_URL can't be used")
        };
        let [fallback, questions, operators, catalogue] = shares(mysql.pool_size);
        Ok(Self {
            fallback: pool(fallback, mysql.limit)?,
            questions: pool(questions, question_timeout.min(mysql.limit))?,
            operators: pool(operators, mysql.limit)?,
            catalogue: pool(catalogue, mysql.limit)?,
        })
    }
}

/// Returns how many of `total` connections each part gets, in the order of the fields. Each part
/// gets at least one.
fn shares(total: usize) -> [usize; 4] {
    let quarter = (total / 4).max(1);
    [
        1,
        total.saturating_sub(1 + 2 * quarter).max(1),
        quarter,
        quarter,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_the_connections_and_each_gets_at_least_one() {
        for total in 1..200 {
            let shares = shares(total);
            assert_eq!(shares.iter().sum::<usize>(), total.max(4), "{shares:?}");
            assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
        }
        assert_eq!(shares(8), [1, 3, 2, 2]);
    }
}
