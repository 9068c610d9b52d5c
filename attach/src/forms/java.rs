//! Java serialisation of `String` and `Long`.

/// Begins each object stream.
pub(super) const MAGIC: &[u8] = b"\xac\xed";
/// A `String`: `TC_STRING`, two bytes of length, and modified UTF-8.
const TEXT: &[u8] = b"\xac\xed\0\x05t";
/// A `Long`: the descriptions of its class and of `Number`. Eight bytes follow.
const NUMBER: &[u8] =
    b"\xac\xed\0\x05sr\0\x0ejava.lang.Long;\x8b\xe4\x90\xcc\x8f#\xdf\x02\0\x01J\0\x05value\
    xr\0\x10java.lang.Number\x86\xac\x95\x1d\x0b\x94\xe0\x8b\x02\0\0xp";

pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    if let Some(number) = bytes.strip_prefix(NUMBER) {
        let number = i64::from_be_bytes(number.try_into().ok()?);
        return Some(number.to_string());
    }
    let [_, _, letters @ ..] = bytes.strip_prefix(TEXT)? else {
        return None;
    };
    // Modified UTF-8 differs from UTF-8 in zero and beyond U+FFFF, which no id has.
    let text = str::from_utf8(letters).ok()?;
    (self::text(text) == bytes).then(|| text.to_owned())
}

/// Serialises a text with the class of this other object.
pub(super) fn like(example: &[u8], text: &str) -> Option<Vec<u8>> {
    if !example.starts_with(NUMBER) {
        return Some(self::text(text));
    }
    let number: i64 = text.parse().ok()?;
    Some([NUMBER, &number.to_be_bytes()[..]].concat())
}

/// Serialises a `String`, of at most 65,535 bytes.
pub(super) fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or_default();
    [TEXT, &length.to_be_bytes()[..], text.as_bytes()].concat()
}
