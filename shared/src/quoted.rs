//! Removes quoted values from stores' error messages before they reach logs, findings and mails,
//! because the values may be user ids.

use std::fmt::Display;

/// The words after which redis-rs quotes a whole reply.
const REPLY: &str = "response was";

/// Returns an error's text without the values in quotes, and without a quoted reply.
pub fn without_values(error: impl Display) -> String {
    let text = error.to_string();
    let (text, is_cut) = match text.find(REPLY) {
        Some(at) => (text[..at].trim_end_matches([' ', '(', ',', '-']), true),
        None => (text.as_str(), false),
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, sign, after)) = opening(rest) {
        out.push_str(before);
        out.push(sign);
        out.push('…');
        out.push(sign);
        // An unterminated quote hides the rest.
        rest = end_of(after, sign).map_or("", |end| &after[end..]);
    }
    out.push_str(rest);
    if is_cut {
        out.push('…');
    }
    out
}

/// Returns the text before the next value, its quotation mark, and the text after that mark. An
/// apostrophe within a word does not open a quote.
fn opening(text: &str) -> Option<(&str, char, &str)> {
    let opens = |at: usize| {
        text[..at]
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_alphanumeric())
    };
    let (at, sign) = text.match_indices(['\'', '"']).find(|(at, _)| opens(*at))?;
    Some((&text[..at], sign.chars().next()?, &text[at + sign.len()..]))
}

/// Returns the index after a value's closing mark. A mark within a word belongs to the value.
fn end_of(text: &str, sign: char) -> Option<usize> {
    let ends = |end: &usize| {
        text[*end..]
            .chars()
            .next()
            .is_none_or(|after| !after.is_alphanumeric())
    };
    text.match_indices(sign)
        .map(|(at, mark)| at + mark.len())
        .find(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn quoted_ids_are_always_removed(id in "[A-Za-z0-9._@+|:=/-]{1,128}", slot in 0_u32..1_000) {
            let errors = [
                format!("Duplicate entry '{slot}-{id}-0' for key 'one_each'"),
                format!("can't be read: \"{id}\" at 5"),
                format!("ParseError (response was array([bulk-string('\"{id}\"')]))"),
            ];
            let others = [
                format!("Duplicate entry '{slot}-x-0' for key 'one_each'"),
                "can't be read: \"x\" at 5".to_owned(),
                "ParseError (response was array([bulk-string('\"x\"')]))".to_owned(),
            ];
            for (error, other) in errors.iter().zip(&others) {
                proptest::prop_assert_eq!(without_values(error), without_values(other));
            }
        }
    }
}
