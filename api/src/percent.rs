//! Percent-encoding.

/// A value as it stands in a path or a query: an id may have a `+`, `=`, `|` or `:`, which mean
/// something there. A path is `..` for programs that fold paths, so dots are encoded too.
pub(crate) fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
