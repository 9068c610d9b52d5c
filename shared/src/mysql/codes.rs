//! Derives codes from a claim and a key of the installation, so that a rewritten row gets the code
//! that its user was shown. A code begins with drop and slot, which are the primary key of its row,
//! so that no index on codes is needed (docs/decisions/0011-slot-limits.md).

use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound as _, Utc};
use hmac::digest::InvalidLength;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

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

    /// Derives the code of a claim made at this time, `DROP-SLOT-XXXX-XXXX-XXXX-XXXX`.
    pub(super) fn code(&self, claim: &Claim, claimed_at: DateTime<Utc>) -> String {
        let secret = self.secret_part(claim, claimed_at);
        code_with_secret(claim.drop_id, claim.slot, secret)
    }

    /// Derives 80 bits of HMAC-SHA256, which cannot be guessed without the key.
    fn secret_part(&self, claim: &Claim, claimed_at: DateTime<Utc>) -> u128 {
        let mut mac = Hmac::clone(&self.hmac);
        // Rounds the time as its column does, because passes read it from there.
        let claimed_at_ms = claimed_at.round_subsecs(3).timestamp_millis();
        let drop = claim.drop_id;
        let slot = claim.slot;
        let user = claim.user_id.as_str();
        mac.update(format!("{drop}:{slot}:{claimed_at_ms}:{user}").as_bytes());
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        let mut bits = [0; 16];
        bits[6..].copy_from_slice(&digest[..10]);
        u128::from_be_bytes(bits)
    }
}

/// Returns the code of a slot with the lowest 80 of these bits as its secret part.
pub fn code_with_secret(drop: DropId, slot: Slot, bits: u128) -> String {
    prefix(drop, slot) + &written(bits)
}

/// The code of an issued coupon, parsed from what a user typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    pub drop: DropId,
    pub slot: Slot,
    /// The code in the form in which its row stores it.
    pub text: String,
}

/// The text does not have the form of a code, so no row needs to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text does not have the form of a code")]
pub struct NoCode;

/// Digits of the random part of a manual row's code, which is in hexadecimal.
const MANUAL_DIGITS: usize = 20;

impl FromStr for Code {
    type Err = NoCode;

    /// Parses `DROP-SLOT-XXXX-XXXX-XXXX-XXXX`, or `DROP.SLOT.` and 20 hexadecimal digits: the
    /// default of rows that are inserted by hand. Accepts lower case, letters that are mistaken for
    /// digits, spaces, and dashes into which mail programs turn hyphens.
    fn from_str(typed: &str) -> Result<Self, NoCode> {
        let text: String = typed
            .chars()
            .filter(|typed| !typed.is_whitespace())
            .map(as_meant)
            .collect();
        let (drop, slot) = derived_place(&text)
            .or_else(|| manual_place(&text))
            .ok_or(NoCode)?;
        let drop = DropId(i64::try_from(drop).map_err(|_| NoCode)?);
        let slot = Slot::try_from(slot).map_err(|_| NoCode)?;
        Ok(Self { drop, slot, text })
    }
}

/// Returns the character of a code that was meant by a typed one.
fn as_meant(typed: char) -> char {
    match typed.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        other => other,
    }
}

/// Returns drop and slot of a code that is derived from its claim.
fn derived_place(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.splitn(3, '-');
    let place = (value(parts.next()?)?, value(parts.next()?)?);
    let secret = parts.next()?;
    let is_secret = secret.len() == SECRET_LEN
        && secret.bytes().enumerate().all(|(at, byte)| match at % 5 {
            4 => byte == b'-',
            _ => ALPHABET.contains(&byte),
        });
    is_secret.then_some(place)
}

/// Returns drop and slot of a manual row's code.
fn manual_place(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.splitn(3, '.');
    let place = (decimal(parts.next()?)?, decimal(parts.next()?)?);
    let secret = parts.next()?;
    let is_secret =
        secret.len() == MANUAL_DIGITS && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_secret.then_some(place)
}

/// Parses a number in the only form in which MySQL writes it.
fn decimal(text: &str) -> Option<u64> {
    let value: u64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// Decodes a number that [`number`] encoded.
fn value(text: &str) -> Option<u64> {
    let digits: Vec<u64> = text
        .bytes()
        .map(|byte| {
            let value = ALPHABET.iter().position(|digit| *digit == byte);
            value.map(|value| value as u64)
        })
        .collect::<Option<_>>()?;
    let (_, digits) = digits.split_first()?;
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        value.checked_mul(32)?.checked_add(*digit)
    })?;
    (number(value) == text).then_some(value)
}

/// Encodes drop and slot so that the text sorts in their numeric order.
fn prefix(drop: DropId, slot: Slot) -> String {
    let drop = number(drop.0.cast_unsigned());
    let slot = number(slot.into());
    format!("{drop}-{slot}-")
}

/// Encodes a number as one digit for the number of digits, followed by the digits: 37 is `215`.
/// Longer, and therefore larger, numbers sort after shorter ones.
fn number(mut value: u64) -> String {
    let mut digits = Vec::new();
    while value > 0 {
        digits.push(digit(value.into()));
        value >>= 5;
    }
    digits.push(char::from(ALPHABET[digits.len()]));
    digits.into_iter().rev().collect()
}

/// Returns the digit for the lowest five bits.
fn digit(bits: u128) -> char {
    char::from(ALPHABET[usize::try_from(bits & 31).unwrap_or_default()])
}

/// Length of the secret part: four groups of four characters, with separators.
const SECRET_LEN: usize = 19;

/// Letters and digits that cannot be confused (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Formats the lowest 80 bits as text.
fn written(bits: u128) -> String {
    let mut code = String::with_capacity(SECRET_LEN);
    for i in 0..16 {
        if i > 0 && i % 4 == 0 {
            code.push('-');
        }
        code.push(digit(bits >> (i * 5)));
    }
    code
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
        let expected = "12-215-1DV5-630B-SAGH-X9QK";
        assert_eq!(code(1_796_104_800_123_000), expected);
        let [one, other] = [1_796_104_800_122_500, 1_796_104_800_123_499].map(code);
        assert_eq!(one, other);
    }

    #[test]
    fn longest_code_has_43_characters_and_numbers_begin_with_their_length() {
        assert_eq!(code_with_secret(DropId(i64::MAX), Slot::MAX, 0).len(), 43);
        let numbers = [0, 1, 31, 32, 37].map(number);
        assert_eq!(numbers, ["0", "11", "1Z", "210", "215"]);
    }

    /// Generates numbers of every length in bits, so that short ones are as frequent as long ones.
    fn any_number(most: u32) -> impl Strategy<Value = i64> {
        (0..most, any::<i64>(), -2..=2_i64)
            .prop_map(|(bits, low, by)| ((1 << bits) | (low & ((1 << bits) - 1))) + by.max(0))
    }

    #[test]
    fn text_is_a_code_only_in_an_accepted_form() {
        let secret = "ABCD-EFGH-JKMN-PQRS";
        let hex = "0123456789ABCDEF0123";
        for good in [
            format!("12-215-{secret}"),
            format!("2.37.{hex}"),
            "l2-2i5-abcd-efgh-jkmn-pqrs".to_owned(),
            "2.37.o123456789abcdefoi23".to_owned(),
            " 12-215-ABCD - EFGH-\u{a0}JKMN-PQRS\n".to_owned(),
            "12–215—ABCD‐EFGH‑JKMN−PQRS".to_owned(),
        ] {
            let code: Code = good.parse().unwrap();
            assert_eq!((code.drop, code.slot), (DropId(2), 37), "{good}");
        }
        for bad in [
            String::new(),
            format!("12-215{secret}"),
            format!("12-215-{secret}-"),
            format!("02-215-{secret}"),
            format!("22-215-{secret}"),
            format!("202-215-{secret}"),
            format!("12-Z11111111111111111111111-{secret}"),
            "12-215-ABCD-EFGH-JKMN-PQRU".to_owned(),
            "12-215-ABCDE-FGH-JKMN-PQRS".to_owned(),
            format!("02.37.{hex}"),
            format!("2.+37.{hex}"),
            format!("2.4294967296.{hex}"),
            format!("9223372036854775808.1.{hex}"),
            format!("2.37.{hex}0"),
            "2.37.G123456789ABCDEF0123".to_owned(),
            "erased-0123456789abcdef0123".to_owned(),
            "é2-215-ABCD-EFGH-JKMN-PQRS".to_owned(),
        ] {
            assert_eq!(bad.parse::<Code>(), Err(NoCode), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_returns_drop_slot_and_stored_form_however_a_code_is_typed(
            drop in any_number(62),
            slot in any_number(31),
            random in any::<u64>(),
            is_manual in any::<bool>(),
            typed in prop::collection::vec(0..3_usize, 64),
        ) {
            let place = (DropId(drop), Slot::try_from(slot).unwrap());
            let code = if is_manual {
                format!("{drop}.{slot}.{random:020X}")
            } else {
                code_with_secret(place.0, place.1, random.into())
            };
            let variant = |(letter, how): (char, &usize)| match (letter, how) {
                ('0', 1) => 'o',
                ('0', 2) => 'O',
                ('1', 1) => 'l',
                ('1', 2) => 'I',
                (other, 1) => other.to_ascii_lowercase(),
                (other, _) => other,
            };
            let typed: String = code.chars().zip(&typed).map(variant).collect();
            let read: Code = typed.parse().unwrap();
            prop_assert_eq!((read.drop, read.slot), place, "{}", typed);
            prop_assert_eq!(read.text, code);
        }

        #[test]
        fn codes_sort_by_drop_and_slot(
            drops in [any_number(62), any_number(62)],
            slots in [any_number(31), any_number(31)],
            secrets in [any::<u128>(), any::<u128>()],
            is_same_drop in any::<bool>(),
        ) {
            let [one, other] = [0, 1].map(|n| {
                (drops[if is_same_drop { 0 } else { n }], Slot::try_from(slots[n]).unwrap())
            });
            prop_assume!(one != other);
            let code = |(drop, slot), secret| code_with_secret(DropId(drop), slot, secret);
            let codes = [code(one, secrets[0]), code(other, secrets[1])];
            prop_assert_eq!(one.cmp(&other), codes[0].cmp(&codes[1]), "{:?}", codes);
        }
    }
}
