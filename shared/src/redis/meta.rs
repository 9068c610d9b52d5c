//! What admission must know of a drop, as its `meta` hash holds it.

use std::collections::HashMap;

use crate::coupon::{Coupon, Drop};
use crate::domain::{OncePer, Slot};

/// The fields of a drop's `meta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropMeta {
    pub quantity: Slot,
    /// First instant of the window, Unix milliseconds.
    pub opens_at_ms: i64,
    /// First instant after it; `None` stays open.
    pub closes_at_ms: Option<i64>,
    /// Nobody is admitted while this is set.
    pub paused: bool,
    /// In which scope one person may hold one.
    pub once_per: OncePer,
    pub waiting_list: u32,
    /// An operator closed it before its time: nobody is promoted any more but those with a broken
    /// promise.
    pub closed_early: bool,
}

impl DropMeta {
    /// What MySQL says the fields must be.
    pub fn of(coupon: &Coupon, drop: &Drop) -> Self {
        Self {
            quantity: drop.quantity,
            opens_at_ms: drop.opens_at.timestamp_millis(),
            closes_at_ms: drop.closes_at.map(|at| at.timestamp_millis()),
            paused: coupon.paused,
            once_per: coupon.once_per,
            waiting_list: coupon.waiting_list,
            closed_early: drop.closed_early,
        }
    }

    /// Field and value, flat, as `HSET` takes them.
    pub fn fields(&self) -> Vec<String> {
        let closes = self.closes_at_ms.map(|ms| ms.to_string()).unwrap_or_default();
        [
            ("quantity", self.quantity.to_string()),
            ("opens_at_ms", self.opens_at_ms.to_string()),
            ("closes_at_ms", closes),
            ("paused", u8::from(self.paused).to_string()),
            ("once_per", self.once_per.as_str().to_owned()),
            ("waiting_list", self.waiting_list.to_string()),
            ("closed_early", u8::from(self.closed_early).to_string()),
        ]
        .into_iter()
        .flat_map(|(field, value)| [field.to_owned(), value])
        .collect()
    }

    /// Reads the hash; `None` where it is missing or a field can't be read, which admission takes
    /// for not loaded alike.
    pub fn read(fields: &HashMap<String, String>) -> Option<Self> {
        let closes = fields.get("closes_at_ms").map_or("", String::as_str);
        Some(Self {
            quantity: fields.get("quantity")?.parse().ok()?,
            opens_at_ms: fields.get("opens_at_ms")?.parse().ok()?,
            closes_at_ms: if closes.is_empty() { None } else { Some(closes.parse().ok()?) },
            paused: fields.get("paused").is_some_and(|p| p == "1"),
            once_per: fields.get("once_per")?.parse().ok()?,
            waiting_list: fields.get("waiting_list")?.parse().ok()?,
            closed_early: fields.get("closed_early").is_some_and(|early| early == "1"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for closes_at_ms in [None, Some(9)] {
            let meta = DropMeta {
                quantity: 3,
                opens_at_ms: 5,
                closes_at_ms,
                paused: true,
                once_per: OncePer::Drop,
                waiting_list: 2,
                closed_early: closes_at_ms.is_some(),
            };
            let fields: HashMap<_, _> = meta.fields().chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect();
            assert_eq!(DropMeta::read(&fields), Some(meta));
        }
        assert_eq!(DropMeta::read(&HashMap::new()), None);
    }
}
