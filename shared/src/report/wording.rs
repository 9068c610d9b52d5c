//! The wording of mails and lists: numbers with their nouns, and labels for each action. Also
//! reduces foreign text (names of coupons, errors of stores, payloads) to one harmless line.
//!
//! User IDs are masked when they are inserted ([`person`]), not by searching the finished text,
//! since an ID may equal a number or a word of the text. The detail of a finding contains no IDs.

mod errors;

use std::collections::{BTreeMap, HashSet};

use super::{ActionKind, Finding};
use crate::domain::{HIDDEN, UserId, is_invisible};

pub use errors::{plainly, unavailable};

/// Returns a number with its noun.
pub fn count(n: impl TryInto<u64>, one: &str, many: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{} {}", grouped(n), if n == 1 { one } else { many })
}

pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Capitalizes the first letter.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// Summarizes repairs, for example "3 missing rows written, 1 revoked".
pub fn done<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let mut counts: BTreeMap<ActionKind, u64> = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.action).or_default() += finding.cause.number();
    }
    let phrases = counts.iter().map(|(action, n)| match action {
        // These findings concern a whole coupon or drop, so they have no number.
        ActionKind::WriteSettings | ActionKind::Open | ActionKind::Project => {
            words(*action).done.to_owned()
        }
        ActionKind::Issue => count(*n, words(*action).done, "missing rows written"),
        ActionKind::Resolve
        | ActionKind::Owe
        | ActionKind::Promote
        | ActionKind::Revoke
        | ActionKind::Report => format!("{} {}", grouped(*n), words(*action).done),
    });
    phrases.collect::<Vec<_>>().join(", ")
}

/// The labels of an action.
#[derive(Debug, Clone, Copy)]
pub struct ActionWords {
    /// The label of a completed action.
    pub done: &'static str,
    /// The label of an action that was not carried out.
    pub to_do: &'static str,
}

pub fn words(action: ActionKind) -> ActionWords {
    let (done, to_do) = match action {
        // "Missing", because the row was never written, or was deleted by hand.
        ActionKind::Issue => ("missing row written", "write the row"),
        ActionKind::Owe => ("listed as owed", "list as owed"),
        ActionKind::Promote => (
            "promoted from the waiting list",
            "promote from the waiting list",
        ),
        ActionKind::Revoke => ("revoked", "finish the revocation"),
        ActionKind::Resolve => ("failed claims closed", "close the failed claim"),
        ActionKind::Project => ("written to Redis again", "write to Redis again"),
        ActionKind::WriteSettings => ("settings written again", "write the settings again"),
        ActionKind::Open => ("admission reopened", "reopen admission"),
        ActionKind::Report => ("repaired", "repair"),
    };
    ActionWords { done, to_do }
}

/// Default maximum length of a quoted text, in characters.
pub const LONGEST: usize = 300;

/// Reduces text to one line of at most `longest` characters, with single spaces and without
/// control, direction and invisible characters. The line is cut between words, unless that would
/// lose much of it.
pub fn line(text: &str, longest: usize) -> String {
    let visible: String = text
        .chars()
        .filter(|c| !is_invisible(*c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let single: String = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    if single.chars().count() <= longest {
        return single;
    }
    let kept: String = single.chars().take(longest.saturating_sub(1)).collect();
    let goes_on = single[kept.len()..].starts_with(|c| c != ' ');
    let whole_words = kept
        .rfind(' ')
        .filter(|at| goes_on && *at * 3 > kept.len() * 2);
    let kept = whole_words.map_or(kept.as_str(), |at| &kept[..at]);
    format!("{}…", kept.trim_end_matches([' ', ',', ';', ':', '·', '(']))
}

/// Quotes a word for a shell.
pub fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Masks a user ID for mails.
pub fn person(id: &str) -> String {
    id.parse::<UserId>()
        .map_or_else(|_| HIDDEN.to_owned(), |user| user.masked())
}

/// Like [`line()`], but for text from the database that may contain user IDs: dead letters and
/// findings. Hides words with the IDs of these users, and all e-mail addresses. Keeps IDs that
/// could be a number or a word of the text. Such IDs do not come from errors of stores, because
/// quoted IDs are removed when these errors are recorded.
#[allow(clippy::implicit_hasher)] // all callers use the default hasher
pub fn detail(text: &str, people: &HashSet<&str>) -> String {
    let hidden = people.iter().filter(|id| is_unmistakable(id));
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        if word.contains('@') || hidden.clone().any(|id| word.contains(id)) {
            format!("{HIDDEN} ")
        } else {
            word.to_owned()
        }
    });
    line(&words.collect::<String>(), LONGEST)
}

/// Whether an ID is neither a number nor a possible word of a sentence.
fn is_unmistakable(id: &str) -> bool {
    id.len() > 3
        && !id.bytes().all(|c| c.is_ascii_digit())
        && !id.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_reduced_to_one_visible_line() {
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
    fn long_text_is_cut_visibly_and_between_words_if_possible() {
        assert_eq!(line(&"x".repeat(61), 60), format!("{}…", "x".repeat(59)));
        assert_eq!(line(&"가".repeat(60), 60).chars().count(), 60);
        let wait = "4,120 messages wait";
        for (text, width, cut) in [
            (
                &*format!("{wait}, the oldest for 95 s"),
                24,
                "4,120 messages wait…",
            ),
            (wait, 19, wait),
            ("messages wait, and more", 16, "messages wait…"),
            ("a verylongwordthatgoeson", 12, "a verylongw…"),
        ] {
            assert_eq!(line(text, width), cut);
        }
    }

    #[test]
    fn ids_in_stored_texts_are_masked_unless_they_could_be_words() {
        let people = HashSet::from(["customer-4711", "u-37", "1", "slot", "a"]);
        for (text, masked) in [
            ("slot 3 is held by customer-4711.", "slot 3 is held by •••"),
            ("u-37 and u-33", "••• and u-33"),
            ("payload of bob@example.com, twice", "payload of ••• twice"),
            ("user=u-37: not u-37|4", "••• not •••"),
            ("a failed claim 1 on slot 1", "a failed claim 1 on slot 1"),
        ] {
            assert_eq!(detail(text, &people), masked);
        }
        assert_eq!(person("not an id"), "•••");
    }
}
