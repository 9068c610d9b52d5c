//! Text literals for statements that are not prepared.

use std::fmt::Write as _;

use crate::domain::UserId;

/// Appends a user id as a literal. Ids written manually may contain anything, even quotes, so
/// invalid ids are written in hexadecimal and cannot terminate the literal.
pub(super) fn push_text(sql: &mut String, text: &str) {
    if UserId::has_form(text) {
        sql.push('\'');
        sql.push_str(text);
        sql.push('\'');
    } else {
        sql.push_str("_utf8mb4 X'");
        for byte in text.bytes() {
            // Writing to a `String` does not fail.
            let _ = write!(sql, "{byte:02X}");
        }
        sql.push('\'');
    }
}
