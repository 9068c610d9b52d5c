//! Text in a CSV that a spreadsheet would change.

/// Puts a `'` before text that spreadsheets would change, because they take it for a formula, even
/// in quotes, or for a number.
pub fn guarded(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) || would_change_as_number(&text) {
        return format!("'{text}");
    }
    text
}

/// Whether a spreadsheet shows and saves this text in another form: a number of more than 11 digits
/// is rounded, leading zeros are lost, and `1E5`, `1-2` and `1:2` become a number, a date and a
/// time.
fn would_change_as_number(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_kept = is_number && text.len() <= 11 && (text.len() == 1 || !text.starts_with('0'));
    let is_like_one = text.bytes().all(|it| b"0123456789.:/+-eE".contains(&it));
    text.as_bytes().first().is_some_and(u8::is_ascii_digit) && is_like_one && !is_kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_escapes_what_a_spreadsheet_would_change() {
        for (text, written) in [
            ("u-37", "u-37"),
            ("a=b@c", "a=b@c"),
            ("=1+1", "'=1+1"),
            ("+49", "'+49"),
            ("-2", "'-2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("=\"x\"", "'=\"x\""),
            ("107693000000000000001", "'107693000000000000001"),
            ("00123", "'00123"),
            ("1e5", "'1e5"),
            ("3/4", "'3/4"),
            ("12345678901", "12345678901"),
            ("0", "0"),
            (
                "0a1b2c3d-1111-4222-8333-444455556666",
                "0a1b2c3d-1111-4222-8333-444455556666",
            ),
        ] {
            assert_eq!(guarded(text.to_owned()), written);
        }
    }
}
