//! Removes quoted values from stores' error messages before they reach logs, findings and mails,
//! because the values may be user ids.

use std::fmt::Display;

/// The words after which redis-rs quotes a whole reply.
const REPLY: &str = "response was";

/// The words before a quoted name of the schema: in MySQL's messages, they precede tables, columns
/// and keys, never values.
const BEFORE_NAMES: [&str; 8] = [
    "for key ",
    "column ",
    "Column ",
    "Field ",
    "table ",
    "Table ",
    "constraint ",
    "parameter ",
];

/// Returns an error's text without the values in quotes, and without a quoted reply. Names of the
/// schema stay. An unterminated quote hides the rest.
pub fn without_values(error: impl Display) -> String {
    let text = error.to_string();
    let cut = text.find(REPLY);
    let shown = cut.map_or(&*text, |at| {
        text[..at].trim_end_matches([' ', '(', ',', '-'])
    });
    let mut out = String::with_capacity(shown.len());
    let mut before = ' ';
    let mut quote = None;
    let mut letters = shown.chars().peekable();
    while let Some(letter) = letters.next() {
        let ends_word = !letters.peek().is_some_and(|next| next.is_alphanumeric());
        if quote.is_none() {
            out.push(letter);
            // An apostrophe within a word does not open a quote.
            let opens = matches!(letter, '\'' | '"') && !before.is_alphanumeric();
            let before_quote = out.trim_end_matches(['\'', '"']);
            if opens && BEFORE_NAMES.iter().any(|word| before_quote.ends_with(word)) {
                let name = letters.by_ref().take_while(|next| *next != letter);
                out.extend(name);
                out.push(letter);
            } else if opens {
                quote = Some(letter);
                out.push('…');
            }
        } else if quote == Some(letter) && ends_word {
            // A quotation mark before a letter or digit belongs to the value.
            quote = None;
            out.push(letter);
        }
        before = letter;
    }
    out.extend(quote);
    out.extend(cut.map(|_| '…'));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_error_keeps_names_of_the_schema_but_no_values() {
        for (error, shown) in [
            (
                "Duplicate entry '7-u-1' for key 'issued_coupons.one_each'",
                "Duplicate entry '…' for key 'issued_coupons.one_each'",
            ),
            (
                "Field 'id' doesn't have a default value",
                "Field 'id' doesn't have a default value",
            ),
            (
                "The table 'issued_coupons' is full",
                "The table 'issued_coupons' is full",
            ),
            (
                "Incorrect string value: 'u-1' for column 'user_id' at row 1",
                "Incorrect string value: '…' for column 'user_id' at row 1",
            ),
        ] {
            assert_eq!(without_values(error), shown);
        }
    }

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
