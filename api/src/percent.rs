//! Percent-encoding.

/// Encodes a value for a path or a query: an id may contain `+`, `=`, `|` or `:`, which have a
/// meaning there. Programs that normalize paths would fold `..`, so dots are encoded, too.
pub(crate) fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
