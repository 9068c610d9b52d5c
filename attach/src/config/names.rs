//! Guesses from the name of a column what it is for.

use super::{Campaign, Scalar};

/// Parts of the names of columns whose values often change after a row was inserted.
const CHANGING: [&str; 8] = [
    "used", "active", "valid", "redeem", "expired", "enabled", "_yn", "flag",
];

/// Parts of the names of columns that may say that a coupon was taken back.
const TAKEN_BACK: [&str; 10] = [
    "status", "state", "delet", "del_", "cancel", "revok", "refund", "return", "withdr", "void",
];

/// Parts of the names of columns that are often filled after a row was inserted.
const FILLED_LATER: [&str; 8] = [
    "updat", "modif", "order", "pay", "paid", "sent", "notif", "complet",
];

pub(crate) fn has_part(name: &str, parts: &[&str]) -> bool {
    let name = name.to_lowercase();
    parts.iter().any(|part| name.contains(part))
}

/// Whether a column may say that a coupon was taken back.
pub(crate) fn may_be_taken_back(name: &str) -> bool {
    has_part(name, &TAKEN_BACK)
}

/// Whether a column may be filled, or changed, after a row was inserted.
pub(crate) fn may_change_later(name: &str) -> bool {
    has_part(name, &CHANGING) || has_part(name, &FILLED_LATER) || may_be_taken_back(name)
}

impl Campaign {
    /// Columns of `where` whose values may change later, such as a status or the time of a soft
    /// deletion.
    pub(crate) fn changing(&self) -> Vec<&String> {
        let columns = self.rows.of.iter().filter(|(name, value)| {
            let is_flag = value.all().iter().any(|it| matches!(it, Scalar::Flag(_)));
            let is_null = value.all().iter().all(Scalar::is_null);
            let is_day = value.text().is_some_and(|it| it.contains("{date"));
            let is_named = has_part(name, &CHANGING) || may_be_taken_back(name);
            let is_flag = is_flag && !self.told_apart_by.contains(*name);
            is_null || is_flag || is_named && !is_day
        });
        columns.map(|it| it.0).collect()
    }
}
