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
    let text = read_letters(bytes.strip_prefix(TEXT)?.get(2..)?)?;
    // Only the canonical form is accepted, so that a member is not added beside itself.
    let is_canonical = self::text(&text).as_deref() == Some(bytes);
    is_canonical.then_some(text)
}

/// Serialises a text as the class of another member.
pub(super) fn like(example: &[u8], text: &str) -> Option<Vec<u8>> {
    if !example.starts_with(NUMBER) {
        return self::text(text);
    }
    let number: i64 = text.parse().ok()?;
    Some([NUMBER, &number.to_be_bytes()[..]].concat())
}

/// Serialises a `String`, of at most 65,535 bytes.
pub(super) fn text(text: &str) -> Option<Vec<u8>> {
    let mut letters = Vec::with_capacity(text.len());
    for unit in text.encode_utf16() {
        let [low, middle, high] = [unit & 0x3f, (unit >> 6) & 0x3f, unit >> 12];
        let bytes = match unit {
            1..0x80 => vec![unit],
            0 | 0x80..0x800 => vec![0xc0 | (unit >> 6), 0x80 | low],
            0x800.. => vec![0xe0 | high, 0x80 | middle, 0x80 | low],
        };
        letters.extend(bytes.into_iter().filter_map(|byte| u8::try_from(byte).ok()));
    }
    let length = u16::try_from(letters.len()).ok()?;
    Some([TEXT, &length.to_be_bytes()[..], &letters].concat())
}

/// Reads modified UTF-8: UTF-16 in groups of one to three bytes.
fn read_letters(mut bytes: &[u8]) -> Option<String> {
    let mut units = Vec::with_capacity(bytes.len());
    loop {
        let (unit, rest) = match bytes {
            [] => return String::from_utf16(&units).ok(),
            [a @ 0..0x80, rest @ ..] => (u16::from(*a), rest),
            [a @ 0xc0..0xe0, b, rest @ ..] => (bits(*a, 5) << 6 | bits(*b, 6), rest),
            [a @ 0xe0..0xf0, b, c, rest @ ..] => {
                (bits(*a, 4) << 12 | bits(*b, 6) << 6 | bits(*c, 6), rest)
            }
            _ => return None,
        };
        units.push(unit);
        bytes = rest;
    }
}

/// Returns the lowest bits of a byte.
fn bits(byte: u8, number: u8) -> u16 {
    u16::from(byte & ((1 << number) - 1))
}
