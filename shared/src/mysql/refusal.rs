//! Classifies the errors of statements by MySQL's text, because diesel passes on little else.
//! `establish` sets `lc_messages`, so that the text is English on every server. For operators,
//! [`StoreRefusal`](crate::report::StoreRefusal) recognizes a server that refuses to work.

use diesel::result::DatabaseErrorKind;
use diesel::result::Error::{self, DatabaseError};

use crate::quoted::without_values;

/// Why MySQL refused a statement because of its data. Retrying does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRefusal {
    /// The row violates a unique key. For an issued coupon: the slot is taken, or the user has one.
    Duplicate,
    /// The statement violates a foreign key. For an issued coupon: the drop does not exist, belongs
    /// to another coupon, or lacks the limit that the row names.
    UnknownDrop,
    /// The slot is outside 1..quantity.
    SlotOutOfRange,
    /// Other invalid data: too long, null, or violating a check.
    BadData,
}

/// Beginnings of MySQL's messages about invalid data. The last two concern text with characters
/// that the column cannot store.
const BAD_DATA: [&str; 5] = [
    "Data too long",
    "Incorrect ",
    "Out of range",
    "Illegal mix of coll",
    "Conversion from coll",
];

/// Returns why a statement was refused. `None` means that its data is not known to be the reason,
/// so that a retry may succeed: for example, MySQL is unavailable, read-only, locked, or full.
pub fn refusal(error: &Error) -> Option<DataRefusal> {
    let DatabaseError(kind, info) = error else {
        return None;
    };
    match kind {
        DatabaseErrorKind::UniqueViolation => Some(DataRefusal::Duplicate),
        DatabaseErrorKind::ForeignKeyViolation => Some(DataRefusal::UnknownDrop),
        DatabaseErrorKind::CheckViolation if info.message().contains("issued_coupons_slot") => {
            Some(DataRefusal::SlotOutOfRange)
        }
        DatabaseErrorKind::CheckViolation | DatabaseErrorKind::NotNullViolation => {
            Some(DataRefusal::BadData)
        }
        _ => {
            let text = info.message();
            if text.starts_with("Out of range value for column 'slot'") {
                Some(DataRefusal::SlotOutOfRange)
            } else if BAD_DATA.iter().any(|p| text.starts_with(p)) {
                Some(DataRefusal::BadData)
            } else {
                None
            }
        }
    }
}

/// Returns the reason why the schema refused a row, without the row's values.
pub(super) fn why_refused(error: &Error) -> Option<String> {
    let said = without_values(error);
    Some(match refusal(error)? {
        DataRefusal::Duplicate => "another row has this slot or this user".to_owned(),
        DataRefusal::UnknownDrop if said.contains("issued_coupons_limit") => {
            "the table `slot_limits` has no limit of this drop".to_owned()
        }
        DataRefusal::SlotOutOfRange => "the slot is not one of the drop's".to_owned(),
        DataRefusal::UnknownDrop | DataRefusal::BadData => said,
    })
}

/// Whether another transaction held a lock on a row for too long.
pub(super) fn is_lock_wait(error: &Error) -> bool {
    matches!(error, DatabaseError(_, info) if info.message().starts_with("Lock wait timeout exceeded"))
}

/// Whether the login lacks the right for the statement.
pub(super) fn is_denied(error: &Error) -> bool {
    matches!(error, DatabaseError(_, info) if info.message().contains(" command denied to user "))
}

/// Whether the transaction was rolled back because it and another one waited for each other.
pub(super) fn is_deadlock(error: &Error) -> bool {
    matches!(error, DatabaseError(_, info) if info.message().starts_with("Deadlock found"))
}

pub(super) fn is_missing_table(error: &Error) -> bool {
    matches!(error, DatabaseError(_, info) if info.message().ends_with("doesn't exist"))
}

/// Formats an error for logs without the row's values: MySQL's message quotes the row, including
/// its user.
pub(super) fn in_logs(error: &Error) -> String {
    if refusal(error).is_some() {
        without_values(error)
    } else {
        error.to_string()
    }
}
