//! Codes, derived from a claim and a key of the installation: a row that is written again has the
//! code that its person was shown (docs/decisions/0021-codes.md).

use chrono::{DateTime, SubsecRound as _, Utc};
use hmac::digest::InvalidLength;
use hmac::{Hmac, Mac as _};
use rand::RngExt as _;
use sha2::Sha256;

use super::claim::Claim;

/// The key that codes are derived with. One an installation.
#[derive(Clone)]
pub struct CodeKey(Hmac<Sha256>);

impl CodeKey {
    /// # Errors
    /// Never: a key of any length is taken.
    pub fn new(secret: &[u8]) -> Result<Self, InvalidLength> {
        Hmac::new_from_slice(secret).map(Self)
    }

    /// The code of a claim made at this instant, `XXXX-XXXX-XXXX-XXXX`: 80 bits of HMAC-SHA256,
    /// so that who does not know the key can't guess it.
    pub(super) fn code(&self, claim: &Claim, claimed_at: DateTime<Utc>) -> String {
        let mut mac = self.0.clone();
        // As its column keeps the instant: a pass may have it from there.
        let claimed_at_ms = claimed_at.round_subsecs(3).timestamp_millis();
        mac.update(format!("{}:{}:{claimed_at_ms}:{}", claim.drop_id.0, claim.slot, claim.user_id.as_str()).as_bytes());
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        let mut bits = [0; 16];
        bits[6..].copy_from_slice(&digest[..10]);
        written(u128::from_be_bytes(bits))
    }
}

/// A code of nobody: 80 bits from the operating system's generator.
pub fn random_code() -> String {
    written(rand::rng().random())
}

/// Whether a text has the form of the codes made here. Rows that a hand inserts have others.
pub(super) fn is_derived(code: &str) -> bool {
    let is_group = |group: &str| group.len() == 4 && group.bytes().all(|digit| ALPHABET.contains(&digit));
    code.len() == 19 && code.split('-').all(is_group)
}

/// Letters and digits that can't be taken for one another (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The lowest 80 bits.
fn written(bits: u128) -> String {
    let mut code = String::with_capacity(19);
    for i in 0..16 {
        if i > 0 && i % 4 == 0 {
            code.push('-');
        }
        code.push(char::from(ALPHABET[usize::try_from((bits >> (i * 5)) & 31).unwrap_or_default()]));
    }
    code
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::{CouponId, DropId, Slot};

    fn code(slot: Slot, user: &str, micros: i64) -> String {
        let user_id = user.parse().unwrap();
        let claim = Claim { coupon_id: CouponId(1), drop_id: DropId(2), slot, user_id, claimed_at: None, trace: None };
        CodeKey::new(&[7; 32]).unwrap().code(&claim, DateTime::from_timestamp_micros(micros).unwrap())
    }

    #[test]
    fn codes_have_the_form_and_do_not_repeat() {
        let derived = (1..=5_000).map(|slot| code(slot, "u-1", 0));
        let codes: HashSet<String> = derived.chain((0..5_000).map(|_| random_code())).collect();
        assert_eq!(codes.len(), 10_000);
        for code in codes {
            assert!(is_derived(&code), "{code}");
        }
        for other in
            ["", "1DV5-630B-SAGH-X9Q", "1DV5630BSAGHX9QK000", "erased-0123456789abcdef0123", "A1B2C3D4E5F6A7B8C9D0"]
        {
            assert!(!is_derived(other), "{other}");
        }
    }

    /// Computed by Python's `hmac`. Another code here is another code for everybody.
    #[test]
    fn a_claim_has_the_same_code_in_every_version_and_to_the_millisecond() {
        assert_eq!(code(37, "u-37", 1_796_104_800_123_000), "1DV5-630B-SAGH-X9QK");
        assert_eq!(code(37, "u-37", 1_796_104_800_122_500), code(37, "u-37", 1_796_104_800_123_499));
    }

    #[test]
    fn who_claims_the_same_slot_again_gets_another() {
        let one = code(37, "u-37", 0);
        for other in [code(37, "u-37", 1_000), code(37, "u-38", 0), code(38, "u-37", 0)] {
            assert_ne!(one, other);
        }
    }
}
