//! What the schema refuses, told apart from what is merely broken.

use diesel::result::{DatabaseErrorKind, Error};

/// A statement that MySQL understood and refused because of what it would have written. Trying again changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A unique key: the slot is taken, the person has one, or the code exists.
    Duplicate,
    /// No such drop, or a drop of another coupon.
    UnknownDrop,
    /// The slot is outside 1..quantity.
    SlotOutOfRange,
    /// Anything else about the data: too long, not null, a check.
    BadData,
}

/// Whether an error is a refusal. `None` means that the call may be tried again: MySQL is away, read-only, locked, or full.
pub fn refusal(error: &Error) -> Option<Refusal> {
    let Error::DatabaseError(kind, info) = error else { return None };
    match kind {
        DatabaseErrorKind::UniqueViolation => Some(Refusal::Duplicate),
        DatabaseErrorKind::ForeignKeyViolation => Some(Refusal::UnknownDrop),
        DatabaseErrorKind::CheckViolation => Some(Refusal::SlotOutOfRange),
        DatabaseErrorKind::NotNullViolation => Some(Refusal::BadData),
        _ => {
            let text = info.message();
            if text.starts_with("firstcome: slot") || text.starts_with("Out of range value for column 'slot'") {
                Some(Refusal::SlotOutOfRange)
            } else if ["Data too long", "Incorrect ", "Out of range", "firstcome: "].iter().any(|p| text.starts_with(p))
            {
                Some(Refusal::BadData)
            } else {
                None
            }
        }
    }
}
