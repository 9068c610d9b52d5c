//! The code a person shows to redeem a coupon.

use rand::RngExt as _;

/// Letters and digits that can't be taken for one another (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A new code, `XXXX-XXXX-XXXX-XXXX`: 80 bits from the operating system's generator, so that it
/// can't be guessed, and one drawn twice is refused by the schema.
pub fn new_code() -> String {
    let bits: u128 = rand::rng().random();
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

    #[test]
    fn codes_have_the_form_and_do_not_repeat() {
        let codes: HashSet<String> = (0..10_000).map(|_| new_code()).collect();
        assert_eq!(codes.len(), 10_000);
        for code in codes {
            assert_eq!(code.len(), 19);
            assert!(code.bytes().all(|b| b == b'-' || ALPHABET.contains(&b)), "{code}");
        }
    }
}
