//! Percent-encodes values for paths and queries.

/// Encodes a value for a path or a query, because an ID may contain `+`, `=`, `|` or `:`. Also
/// encodes dots, because programs that normalize paths remove `..`.
pub(crate) fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
