//! Texts that others wrote (names of coupons, errors of stores, payloads) made fit for one line of
//! a subject or a mail.

use std::collections::HashSet;

use firstcome_shared::domain::{UserId, is_invisible};

/// Longest part of a text that is taken over, in characters, unless said otherwise.
pub(super) const LONGEST: usize = 300;

/// One line without control, direction and invisible characters, with single spaces, of `longest`
/// characters at most.
pub(super) fn line(text: &str, longest: usize) -> String {
    let visible = text.chars().filter(|c| !is_invisible(*c)).map(|c| if c.is_control() { ' ' } else { c });
    let visible: String = visible.collect();
    let single: String = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    if single.chars().count() <= longest {
        return single;
    }
    let kept: String = single.chars().take(longest.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A person's id as a mail may show it.
pub(super) fn person(id: &str) -> String {
    id.parse::<UserId>().map_or_else(|_| "•••".to_owned(), |user| user.masked())
}

/// [`line`] of a detail, with the ids of these people masked, and all that looks like an e-mail
/// address.
pub(super) fn detail(text: &str, people: &HashSet<&str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_id_char) {
        out.push_str(&rest[..start]);
        let end = rest[start..].find(|c| !is_id_char(c)).map_or(rest.len(), |len| start + len);
        out.push_str(&masked_word(&rest[start..end], people));
        rest = &rest[end..];
    }
    out.push_str(rest);
    line(&out, LONGEST)
}

/// Characters a user id may have.
fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '+' | '-' | '|' | ':' | '=')
}

fn masked_word(word: &str, people: &HashSet<&str>) -> String {
    // An id at the end of a sentence has the full stop on it.
    let bare = word.trim_end_matches('.');
    let hide = |word: &str| people.contains(word) || word.contains('@');
    if hide(word) {
        person(word)
    } else if hide(bare) {
        format!("{}{}", person(bare), &word[bare.len()..])
    } else if let Some((before, after)) = word.split_once(BETWEEN) {
        let sign = &word[before.len()..word.len() - after.len()];
        format!("{}{sign}{}", masked_word(before, people), masked_word(after, people))
    } else {
        word.to_owned()
    }
}

/// Signs that an id may have, and that may as well stand before or after one.
const BETWEEN: [char; 3] = ['|', ':', '='];

/// Every run of digits becomes one `#`.
pub(super) fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_one_visible_line() {
        for (text, expected) in [
            ("Winter coupon", "Winter coupon"),
            ("a\r\nBcc: x@example.com", "a Bcc: x@example.com"),
            ("a\u{2028}b\u{0085}c\u{000b}d", "a b c d"),
            ("evil\u{202e}gpj.exe", "evilgpj.exe"),
            ("a\u{200b}\u{2066}\u{e0041}\u{feff}b", "ab"),
            ("  many   spaces\t", "many spaces"),
            ("쿠폰 🎁", "쿠폰 🎁"),
            ("\0\u{1b}[31m", "[31m"),
        ] {
            assert_eq!(line(text, 60), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_name_is_cut_where_it_can_be_seen() {
        assert_eq!(line(&"x".repeat(61), 60), format!("{}…", "x".repeat(59)));
        assert_eq!(line(&"가".repeat(60), 60).chars().count(), 60);
    }

    #[test]
    fn ids_in_details_are_masked() {
        let people = HashSet::from(["customer-4711", "u-3"]);
        let masked = |text| detail(text, &people);
        assert_eq!(masked("slot 3 is held by customer-4711."), "slot 3 is held by c•••11.");
        assert_eq!(masked("u-3 and u-33"), "u••• and u-33");
        assert_eq!(masked("payload of bob@example.com, twice"), "payload of b•••@e•••, twice");
        assert_eq!(masked("user=u-3: not u-3|4"), "user=u•••: not u•••|4");
        assert_eq!(person("not an id"), "•••");
    }
}
