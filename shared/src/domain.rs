//! Domain types that validate their values when they are parsed.

use std::fmt;
use std::str::FromStr;

use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types::{BigInt, Text};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;

/// Parses a positive number in its canonical form only. Forms such as `05` and `+5` are invalid,
/// because they would bypass a gateway's rate limits by path.
pub fn canonical_number(text: &str) -> Option<i64> {
    let has_one_form = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if has_one_form {
        text.parse().ok()
    } else {
        None
    }
}

/// Coupon ID.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = BigInt)]
#[serde(transparent)]
pub struct CouponId(pub i64);

/// Drop ID, unique across coupons.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = BigInt)]
#[serde(transparent)]
pub struct DropId(pub i64);

/// A coupon ID and a drop ID as read from a store. Neither is known to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedDrop {
    pub coupon: CouponId,
    pub drop: DropId,
}

/// The slot number of a claim: from 1 to the drop's quantity. At any time, each number of a drop
/// belongs to at most one user.
pub type Slot = u32;

impl fmt::Display for CouponId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DropId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A user, as named by the gateway or the token: 1–128 characters of `A–Z a–z 0–9 . _ @ + - | : =
/// /`, but not `.` or `..`, which URL libraries remove from paths.
///
/// `Debug` masks it, so that logs cannot reveal it by accident. `Display` shows it in full, for
/// keys and rows.
#[derive(
    Clone,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = Text)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "u-37")]
#[schema(pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._@+|:=/-]{1,128}$")]
pub struct UserId(String);

/// Replaces the hidden part of a masked id.
pub const HIDDEN: &str = "•••";

/// The text is not a user id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a user id has 1 to 128 characters of A-Z a-z 0-9 . _ @ + - | : = /, and is not . or ..")]
pub struct BadUserId;

impl UserId {
    /// Maximum length of a user id, in characters.
    pub const MAX_LEN: usize = 128;

    /// Wraps an ID read from a store without validation. An ID that was written manually may be
    /// invalid, but still identifies a user.
    pub fn from_store(text: String) -> Self {
        Self(text)
    }

    /// Whether a string is a valid id. Ids from [`UserId::from_store`] may be invalid.
    pub fn has_form(text: &str) -> bool {
        (1..=Self::MAX_LEN).contains(&text.len())
            && !matches!(text, "." | "..")
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._@+-|:=/".contains(&byte))
    }

    /// Returns the id in full. In logs and mails, use [`UserId::masked`].
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Masks the ID, so that it does not identify the user but usually differs from those of other
    /// users. Shows the first character and the last one or two, and nothing of an ID of up to
    /// three characters. Of an e-mail address, shows these characters of the name and the first
    /// character of the host.
    pub fn masked(&self) -> String {
        const SHORT: usize = 3;
        if self.0.chars().count() <= SHORT {
            return HIDDEN.to_owned();
        }
        let (name, host) = self
            .0
            .split_once('@')
            .map_or((&*self.0, None), |(name, host)| (name, Some(host)));
        let host = host.map_or_else(String::new, |host| {
            let first: String = host.chars().take(1).collect();
            format!("@{first}{HIDDEN}")
        });
        let name: Vec<char> = name.chars().collect();
        if name.len() <= SHORT {
            return format!("{HIDDEN}{host}");
        }
        let last = name.len() - ((name.len() - 2) / 2).min(2);
        let last: String = name[last..].iter().collect();
        format!("{}{HIDDEN}{last}{host}", name[0])
    }
}

impl FromStr for UserId {
    type Err = BadUserId;

    fn from_str(text: &str) -> Result<Self, BadUserId> {
        if Self::has_form(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(BadUserId)
    }
}

impl TryFrom<String> for UserId {
    type Error = BadUserId;

    fn try_from(text: String) -> Result<Self, BadUserId> {
        text.parse()
    }
}

impl From<UserId> for String {
    fn from(user: UserId) -> Self {
        user.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// Scope in which a user may hold one coupon.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    IntoStaticStr,
    EnumString,
    Serialize,
    Deserialize,
    ToSchema,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = Text)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum OncePer {
    /// One coupon in total, however many drops there are.
    Coupon,
    /// One coupon per drop.
    Drop,
}

impl OncePer {
    /// Returns the value used in JSON, Redis and MySQL.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Whether a character is invisible but may affect the surrounding text: direction marks and
/// overrides, joiners, soft hyphens, fillers, variation selectors, tags and specials.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffd}' | '\u{e0000}'..='\u{e0fff}')
}

/// Returns the first character of a text that a name must not contain. Names appear in mail
/// subjects, terminals and pages: line breaks, characters that reverse text, and invisible
/// characters, which make two names look alike, are invalid. The joiner and the selector of emoji
/// are allowed.
pub fn unfit_in_a_name(text: &str) -> Option<char> {
    text.chars().find(|&c| {
        let is_of_emoji = matches!(c, '\u{200d}' | '\u{fe0f}');
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{2800}')
            || (is_invisible(c) && !is_of_emoji)
    })
}

/// A claim of a user on a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimOfSlot {
    pub slot: Slot,
    pub user: UserId,
    /// When the user was admitted, in Unix milliseconds by Redis's clock, if known.
    pub at_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_positive_numbers_in_canonical_form_are_accepted() {
        assert_eq!(canonical_number("5"), Some(5));
        for other in "|0|05|+5|-5| 5|5 |5.0|0x5|٥|9223372036854775808".split('|') {
            assert_eq!(canonical_number(other), None, "{other:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsed_numbers_and_user_ids_equal_their_text(text in ".{0,140}", number in 1_i64..) {
            proptest::prop_assert!(canonical_number(&text).is_none_or(|number| number.to_string() == text));
            proptest::prop_assert_eq!(canonical_number(&number.to_string()), Some(number));
            if let Ok(user) = text.parse::<UserId>() {
                proptest::prop_assert_eq!(user.as_str(), &text);
                proptest::prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
            }
        }
    }

    #[test]
    fn invalid_user_ids_are_refused() {
        for good in [
            "u",
            "u-37",
            "A.b_c@d+e-9",
            "auth0|5f7c",
            "urn:sub=1",
            "mR2fY/3kQ+8hXw==",
            "f:6d8a1f0e-3c1b-4f8e-9d3a-1b2c3d4e5f60:firstname.lastname@subsidiary.example.co.kr",
            "...",
            &"x".repeat(128),
        ] {
            assert_eq!(good.parse::<UserId>().unwrap().as_str(), good);
        }
        let long = "x".repeat(129);
        for bad in ["", " ", "a b", "ü", ".", "..", "a;b", "a\n", "<b>", &long] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn masked_id_does_not_identify_the_user() {
        let user = |id: &str| id.parse::<UserId>().unwrap();
        for short in ["7", "a", "42", "999", "bob", "@", "a@b", "u1"] {
            assert_eq!(user(short).masked(), HIDDEN, "{short}");
        }
        for (id, masked) in [
            ("u-37", "u•••7"),
            ("customer-4711", "c•••11"),
            ("4711", "4•••1"),
            ("100000", "1•••00"),
            ("person-005@example.com", "p•••05@e•••"),
            ("al@example.com", "•••@e•••"),
        ] {
            assert_eq!(user(id).masked(), masked);
        }
        assert_eq!(format!("{:?}", user("alice@example.com")), "a•••e@e•••");
    }
}
