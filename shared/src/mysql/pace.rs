//! Measures how soon admitted users got their rows. Reads a sample of slots, so that the cost does
//! not grow with the size of the drop.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sql::row;
use super::{Db, DbResult, list};
use crate::domain::{DropId, Slot};
use crate::sql;

/// Sample size for one drop.
const SLOTS: u32 = 100;

row! {
    /// When a slot was given, and when its row was written.
    #[derive(PartialEq, Eq, Serialize, Deserialize, ToSchema)]
    pub struct SlotTimes {
        pub slot: u32,
        pub claimed_at: DateTime<Utc>,
        /// Null while there is no row.
        pub issued_at: Option<DateTime<Utc>>,
    }
}

/// Returns the slots that [`Db::pace`] reads.
pub fn sampled(quantity: Slot) -> Vec<Slot> {
    let most = SLOTS.min(quantity);
    let slot = |n: u32| 1 + u64::from(n) * u64::from(quantity) / u64::from(most);
    (0..most)
        .filter_map(|n| Slot::try_from(slot(n)).ok())
        .collect()
}

impl Db {
    /// Reads a sample of a drop's rows in order of slot, which is the order of admission.
    pub async fn pace(&self, drop: DropId, quantity: Slot) -> DbResult<Vec<SlotTimes>> {
        let sample =
            "SELECT {columns} FROM issued_coupons WHERE drop_id = ? AND slot IN (?) ORDER BY slot";
        let sample = sql!(sample, drop, list(sampled(quantity)));
        self.all("read a drop's pace", sample).await
    }
}
