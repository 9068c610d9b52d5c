//! Derives codes from a claim and a key of the installation, so that a rewritten row gets the code
//! that its user was shown. A code contains drop and slot, which are the primary key of its row, so
//! that no index on codes is needed (docs/decisions/0011-slot-limits.md).
//!
//! A code is a number in base 32, 20 digits in groups of four: 8 for the drop, 4 for the slot, and 8
//! secret ones. A slot that needs more than 20 bits has 8 digits.

use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound as _, Utc};
use hmac::digest::InvalidLength;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization as _;

use crate::claim::Claim;
use crate::domain::{DropId, Slot};

/// The key from which an installation's codes are derived.
#[derive(Clone)]
pub struct CodeKey {
    /// Shared, because the state is large and many futures hold the key.
    hmac: Arc<Hmac<Sha256>>,
}

impl CodeKey {
    /// # Errors
    /// Never returns an error: keys of any length are accepted.
    pub fn new(secret: &[u8]) -> Result<Self, InvalidLength> {
        Ok(Self {
            hmac: Arc::new(Hmac::new_from_slice(secret)?),
        })
    }

    /// Derives the code of a claim made at this time.
    pub(super) fn code(&self, claim: &Claim, claimed_at: DateTime<Utc>) -> String {
        let secret = self.secret_part(claim, claimed_at);
        code_with_secret(claim.drop_id, claim.slot, secret)
    }

    /// Derives 40 bits of HMAC-SHA256, which cannot be guessed without the key.
    fn secret_part(&self, claim: &Claim, claimed_at: DateTime<Utc>) -> u64 {
        let mut mac = Hmac::clone(&self.hmac);
        // Rounds the time as its column does, because passes read it from there.
        let claimed_at_ms = claimed_at.round_subsecs(3).timestamp_millis();
        let drop = claim.drop_id;
        let slot = claim.slot;
        let user = claim.user_id.as_str();
        mac.update(format!("{drop}:{slot}:{claimed_at_ms}:{user}").as_bytes());
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        digest[..5]
            .iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte))
    }
}

/// Letters and digits that cannot be confused (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

const DROP_DIGITS: usize = 8;
const SECRET_DIGITS: usize = 8;
/// Digits of most slots, and of those that do not fit into them.
const SLOT_DIGITS: [usize; 2] = [4, 8];
/// The first slot with more digits.
const LONG_SLOTS: Slot = 1 << 20;
const GROUP: usize = 4;

/// Returns the code of a slot with the lowest 40 of these bits as its secret part.
pub fn code_with_secret(drop: DropId, slot: Slot, secret: u64) -> String {
    let slot_digits = SLOT_DIGITS[usize::from(slot >= LONG_SLOTS)];
    let parts = [
        (drop.0.cast_unsigned(), DROP_DIGITS),
        (slot.into(), slot_digits),
        (secret, SECRET_DIGITS),
    ];
    let digits = parts.into_iter().flat_map(|(number, width)| {
        (0..width)
            .rev()
            .map(move |place| digit(number >> (5 * place)))
    });
    let mut code = String::with_capacity(DROP_DIGITS + slot_digits + SECRET_DIGITS + 5);
    for (place, digit) in digits.enumerate() {
        if place > 0 && place % GROUP == 0 {
            code.push('-');
        }
        code.push(digit);
    }
    code
}

/// Returns the digit for the lowest five bits.
fn digit(bits: u64) -> char {
    char::from(ALPHABET[usize::try_from(bits & 31).unwrap_or_default()])
}

/// The code of an issued coupon, parsed from what a user typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CouponCode {
    pub drop: DropId,
    pub slot: Slot,
    /// The code in the form in which its row stores it.
    pub text: String,
}

/// The text does not have the form of a code, so no row needs to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text does not have the form of a code")]
pub struct MalformedCode;

impl FromStr for CouponCode {
    type Err = MalformedCode;

    /// Parses what a user typed or pasted: only the letters and digits count, in lower case, in full
    /// width, or those that are mistaken for digits, too. So it does not matter how groups are
    /// separated, what stands around the code, or which invisible characters a mail program has
    /// added. Words before the code are left out. `code` alone consists of digits, and would make it
    /// one with a long slot.
    fn from_str(typed: &str) -> Result<Self, MalformedCode> {
        let typed: String = typed.nfkc().collect();
        let after_code = after_word(&typed, |word| word.eq_ignore_ascii_case("code"));
        // No code contains one of these letters.
        let after_words = after_word(&typed, |word| {
            word.to_lowercase().contains(['i', 'l', 'o', 'u'])
        });
        Self::from_digits(after_code)
            .or_else(|MalformedCode| Self::from_digits(&typed))
            .or_else(|MalformedCode| Self::from_digits(after_words))
    }
}

impl CouponCode {
    fn from_digits(typed: &str) -> Result<Self, MalformedCode> {
        let digits: Vec<u64> = typed
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(value)
            .collect::<Option<_>>()
            .ok_or(MalformedCode)?;
        let others = DROP_DIGITS + SECRET_DIGITS;
        if !SLOT_DIGITS.iter().any(|slot| others + slot == digits.len()) {
            return Err(MalformedCode);
        }
        let (drop, rest) = digits.split_at(DROP_DIGITS);
        let (slot, secret) = rest.split_at(rest.len() - SECRET_DIGITS);

        let drop = DropId(number(drop).cast_signed());
        let slot = Slot::try_from(number(slot)).map_err(|_| MalformedCode)?;
        let text = code_with_secret(drop, slot, number(secret));
        Ok(Self { drop, slot, text })
    }
}

fn number(digits: &[u64]) -> u64 {
    digits.iter().fold(0, |number, digit| number << 5 | digit)
}

/// Returns the text after the last word like this.
fn after_word(text: &str, is_like_this: impl Fn(&str) -> bool) -> &str {
    let separates = |letter: char| !letter.is_ascii_alphanumeric();
    let mut left = text;
    let mut after = text;
    for word in text.split_inclusive(separates) {
        left = &left[word.len()..];
        if is_like_this(word.trim_end_matches(separates)) {
            after = left;
        }
    }
    after
}

/// Returns the value of the digit that was meant by a typed letter.
fn value(typed: char) -> Option<u64> {
    let meant = match typed.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let value = ALPHABET
        .iter()
        .position(|digit| char::from(*digit) == meant);
    value.map(|value| value as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::CouponId;

    /// Returns the code of a claim admitted at this time.
    fn code(micros: i64) -> String {
        let claim = Claim {
            coupon_id: CouponId(1),
            drop_id: DropId(2),
            slot: 37,
            user_id: "u-37".parse().unwrap(),
            claimed_at: None,
        };
        let at = DateTime::from_timestamp_micros(micros).unwrap();
        CodeKey::new(&[7; 32]).unwrap().code(&claim, at)
    }

    /// The expected value was computed independently with Python's `hmac`. A different result here
    /// would change the code of every claim.
    #[test]
    fn code_is_the_same_in_every_version_and_within_a_rounded_millisecond() {
        let expected = "0000-0002-0015-KQ9X-HGAS";
        assert_eq!(code(1_796_104_800_123_000), expected);
        let [one, other] = [1_796_104_800_122_500, 1_796_104_800_123_499].map(code);
        assert_eq!(one, other);
    }

    const CODE: &str = "0000-0002-0015-ABCD-EFGH";

    #[test]
    fn code_is_found_however_customers_write_it() {
        for typed in [
            "0000-0002-0015-ABCD-EFGH",
            // Without hyphens, with others in their place, or in one word.
            "000000020015ABCDEFGH",
            "0000 0002 0015 ABCD EFGH",
            "0000.0002.0015.ABCD.EFGH",
            "0000_0002_0015_ABCD_EFGH",
            "0000–0002—0015‐ABCD−EFGH",
            " 0000-0002 -\u{a0}0015-ABCD\n-EFGH\t",
            // Letters that are mistaken for digits.
            "oOo0-0002-ooi5-abcd-efgh",
            "0000-0002-00L5-ABCD-EFGH",
            // Full width, as with Korean, Japanese and Chinese input methods.
            "００００－０００２－００１５－ＡＢＣＤ－ＥＦＧＨ",
            "0000ー0002ー0015ーａｂｃｄーefgh",
            // Invisible characters.
            "0000-\u{200b}0002-\u{feff}0015\u{ad}-AB\u{200e}CD-EF\u{2060}GH",
            // At the end of a sentence, in quotation marks and brackets.
            "0000-0002-0015-ABCD-EFGH.",
            "0000-0002-0015-ABCD-EFGH,",
            "\"0000-0002-0015-ABCD-EFGH\"",
            "“0000-0002-0015-ABCD-EFGH”",
            "(0000-0002-0015-ABCD-EFGH)",
            "「0000-0002-0015-ABCD-EFGH」。",
            "코드: 0000-0002-0015-ABCD-EFGH",
            // After words whose letters could be digits.
            "Code: 0000-0002-0015-ABCD-EFGH",
            "code 000000020015ABCDEFGH",
            "My coupon code is 0000-0002-0015-ABCD-EFGH.",
            "COUPON: 0000-0002-0015-ABCD-EFGH",
        ] {
            let code: CouponCode = typed.parse().unwrap();
            assert_eq!((code.drop, code.slot), (DropId(2), 37), "{typed}");
            assert_eq!(code.text, CODE, "{typed}");
        }
    }

    #[test]
    fn other_texts_are_no_codes() {
        for bad in [
            "",
            "0000-0002-0015-ABCD-EFG",
            "0000-0002-0015-ABCD-EFGHJ",
            // U is no digit.
            "0000-0002-0015-ABCD-EFGU",
            "my 0000-0002-0015-ABCD-EFGH",
            // A slot above 32 bits.
            "0000-0002-Z000-0000-ABCD-EFGH",
            "erased-0123456789abcdef0123",
        ] {
            assert_eq!(bad.parse::<CouponCode>(), Err(MalformedCode), "{bad}");
        }
    }

    /// Generates numbers of every length in bits, so that short ones are as frequent as long ones.
    fn any_number(most: u32) -> impl Strategy<Value = u64> {
        (0..most, any::<u64>()).prop_map(|(bits, low)| (1 << bits) | (low & ((1 << bits) - 1)))
    }

    proptest! {
        #[test]
        fn parsing_returns_drop_slot_and_stored_form_however_a_code_is_typed(
            drop in any_number(40),
            slot in any_number(32),
            secret in any::<u64>(),
            typed in prop::collection::vec(0..6_usize, 32),
        ) {
            let place = (DropId(drop.cast_signed()), Slot::try_from(slot).unwrap());
            let code = code_with_secret(place.0, place.1, secret);
            let digits = code.chars().filter(char::is_ascii_alphanumeric).count();
            prop_assert_eq!(digits, if place.1 < LONG_SLOTS { 20 } else { 24 });
            let variant = |(letter, how): (char, &usize)| match (letter, how) {
                ('-', 1) => String::new(),
                ('-', 2) => " ".to_owned(),
                ('0', 1) => "o".to_owned(),
                ('0', 2) => "O".to_owned(),
                ('1', 1) => "l".to_owned(),
                ('1', 2) => "I".to_owned(),
                (other, 3) => char::from_u32(u32::from(other) + 0xfee0).unwrap().to_string(),
                (other, 4) => format!("{other}\u{200b}"),
                (other, 1) => other.to_ascii_lowercase().to_string(),
                (other, _) => other.to_string(),
            };
            let typed: String = code.chars().zip(&typed).map(variant).collect();
            let read: CouponCode = typed.parse().unwrap();
            prop_assert_eq!((read.drop, read.slot), place, "{}", typed);
            prop_assert_eq!(read.text, code);
        }
    }
}
