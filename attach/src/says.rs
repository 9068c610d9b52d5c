//! The sentences of findings, and the commands that a person may run. A sentence has no name of a
//! user, since it reaches mails; a command has, and is shown to operators only.
//!
//! Each command is guarded: it changes nothing if what it rests on has changed meanwhile.

use firstcome_shared::report::wording::count;

use crate::file::{CountKey, Counts, KeyKind, Promised, UsersKey, fill};
use crate::judge::{Comparison, Numbers};
use crate::look::Target;

pub const UNISSUED: &str = "promised, and no row came";
pub const EVENT_OF_LOST: &str = "a failed event of a promised user, and no row came";
pub const EVENT_WITH_ROW: &str = "a failed event whose user has a row: look at it, and close it";
pub const EVENT_WITHOUT_PROMISE: &str = "a failed event whose user is promised nothing";
pub const DUPLICATE_ROW: &str = "the user has two rows that count: delete one; a unique key (ALTER \
    TABLE … ADD UNIQUE) would refuse it";
pub const NO_NUMBER: &str = "promised, and no whole number, as the column of issued is: your \
    database might read it as another user, so no row is written";

/// Describes a row that counts, of a user without a promise.
pub fn missing_admission(target: &Target<'_>) -> String {
    let said = "the user has a row that counts, and no promise";
    match &target.block.promised {
        Promised::Keys(keys) => match keys.first() {
            Some(key) => {
                let command = add_user(key, target, None, "USER").unwrap_or_default();
                format!(
                    "{said}, and could claim again. If nothing was given back, this changes \
                    nothing twice: {command}"
                )
            }
            None => said.to_owned(),
        },
        Promised::Select(_) | Promised::NotDescribed => said.to_owned(),
    }
}

pub fn over_promised(compared: &Comparison, quantity: u64) -> String {
    let more = compared.owed.saturating_sub(quantity);
    format!(
        "{} owed, and the quantity is {quantity}: {more} too many. Nobody is named or repaired, \
        since promised may hold everybody who asked",
        count(compared.owed, "coupon is", "coupons are")
    )
}

pub fn over_issued(coupons: u64, quantity: u64) -> String {
    format!("rows count {coupons} coupons, and the quantity is {quantity}")
}

/// Describes a counter that differs, with the command that compares before it adds.
pub fn count_mismatch(target: &Target<'_>, count: &CountKey, numbers: &Numbers) -> String {
    let counter = match numbers.counter {
        Some(value) => format!(
            "the counter is {value}, so {} were given out",
            numbers.given
        ),
        None => "the counter is missing".to_owned(),
    };
    let command = move_count(target, count, numbers);
    format!(
        "{counter}, and {} are owed. This adds only if nothing changed: {command}",
        numbers.owed
    )
}

pub fn apart(compared: &Comparison, promised: &[String], issued: &[String]) -> String {
    let shapes = |names: &[String]| {
        let shapes: Vec<String> = names.iter().map(|name| shape(name)).collect();
        shapes.join(", ")
    };
    format!(
        "the names do not meet: {} in both stores, {} only promised (such as {}), {} only with a \
        row (such as {}): do promised and issued mean the same campaign, and the same form?",
        compared.in_both,
        compared.lacking,
        shapes(promised),
        compared.strangers,
        shapes(issued)
    )
}

pub fn key_gone(target: &Target<'_>, coupons: u64) -> String {
    let name = match &target.block.promised {
        Promised::Keys(keys) => keys.first().map(|key| fill(&key.name, &target.id)),
        Promised::Select(_) | Promised::NotDescribed => None,
    };
    format!(
        "{} holds nobody, and rows count {coupons} coupons: it has expired, or has another name. \
        Leave the campaign out of each once it is over",
        name.map_or_else(|| "promised".to_owned(), |name| format!("key {name:?}"))
    )
}

/// Shows how a name is written, without its letters and digits.
fn shape(name: &str) -> String {
    let letter = |letter: char| match letter {
        '0'..='9' => '9',
        'a'..='z' => 'a',
        'A'..='Z' => 'A',
        letter if letter.is_ascii_punctuation() => letter,
        _ => '?',
    };
    name.chars().take(40).map(letter).collect()
}

/// Returns the command that adds a user, written as this example is; `None` if programs may write
/// it in several ways.
pub fn add_user(
    key: &UsersKey,
    target: &Target<'_>,
    example: Option<&[u8]>,
    user: &str,
) -> Option<String> {
    let name = quoted(&key.name_in(&target.id));
    let member = match example {
        Some(example) => quoted(&key.members.like(example, user)?),
        None => quoted(user.as_bytes()),
    };
    Some(match &key.kind {
        KeyKind::Set => format!("SADD {name} {member}"),
        KeyKind::SortedSet => format!("ZADD {name} NX SCORE {member}"),
        KeyKind::Hash(_) => format!("HSETNX {name} {member} VALUE"),
        KeyKind::Keys => {
            let (before, after) = key.around_user(&target.id);
            let name = key.key_form.key(&format!("{before}{user}{after}"));
            format!("SET {} VALUE NX", quoted(&name))
        }
    })
}

/// Returns the command that moves the counter if it still has the value that was seen.
fn move_count(target: &Target<'_>, count: &CountKey, numbers: &Numbers) -> String {
    let key = quoted(&count.form.key(&fill(&count.key, &target.id)));
    let field = count.field.as_ref().map(|field| {
        let field = fill(field, &target.id);
        quoted(&count.form.field(&field))
    });
    let owed = i64::try_from(numbers.owed).unwrap_or(i64::MAX);
    let wanted = match (count.counts, target.quantity) {
        (Counts::Down, Some(quantity)) => i64::try_from(quantity).unwrap_or(i64::MAX) - owed,
        (Counts::Down, None) | (Counts::Up, _) => owed,
    };
    match (numbers.counter, field) {
        (None, None) => format!("SET {key} {wanted} NX"),
        (None, Some(field)) => format!("HSETNX {key} {field} {wanted}"),
        (Some(seen), None) => format!(
            "EVAL \"if redis.call('GET',KEYS[1])==ARGV[1] then return \
            redis.call('INCRBY',KEYS[1],ARGV[2]) end\" 1 {key} {seen} {}",
            wanted.saturating_sub(seen)
        ),
        (Some(seen), Some(field)) => format!(
            "EVAL \"if redis.call('HGET',KEYS[1],ARGV[3])==ARGV[1] then return \
            redis.call('HINCRBY',KEYS[1],ARGV[3],ARGV[2]) end\" 1 {key} {seen} {} {field}",
            wanted.saturating_sub(seen)
        ),
    }
}

/// Writes bytes as redis-cli reads them.
fn quoted(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:@{}/+|=,".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            byte => text = format!("{text}\\x{byte:02x}"),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_redis_cli_reads_them() {
        for (bytes, expected) in [
            (&b"c:{7}:users"[..], "c:{7}:users"),
            (b"a b", "\"a b\""),
            (
                b"\xac\xed\0\x05t\0\x0242",
                "\"\\xac\\xed\\x00\\x05t\\x00\\x0242\"",
            ),
            (b"say \"hi\"", "\"say \\\"hi\\\"\""),
        ] {
            assert_eq!(quoted(bytes), expected);
        }
    }

    #[test]
    fn shape_shows_how_a_name_is_written_and_no_letter_of_it() {
        assert_eq!(shape("user:42"), "aaaa:99");
        assert_eq!(shape("3F2a-11"), "9A9a-99");
        assert_eq!(shape("김"), "?");
    }
}
