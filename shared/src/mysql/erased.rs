//! Pseudonyms of erased users. A message that is read again after an erasure still contains the
//! user id; its slot and time show that it belongs to an erased row or revocation.

use chrono::{DateTime, SubsecRound as _, Utc};

/// Whether the text is the pseudonym of an erased user.
pub fn is_pseudonym(user: &str) -> bool {
    let digits = user.strip_prefix("erased-").unwrap_or_default();
    digits.len() == 20
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Rounds the time to the precision of its column.
pub fn as_stored(at: DateTime<Utc>) -> DateTime<Utc> {
    at.round_subsecs(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_id_that_only_starts_like_a_pseudonym_is_not_one() {
        assert!(is_pseudonym("erased-0123456789abcdef0123"));
        for person in [
            "erased-joe",
            "erased-",
            "erased-0123456789ABCDEF0123",
            "erased-0123456789abcdef01234",
            "joe",
        ] {
            assert!(!is_pseudonym(person), "{person}");
        }
    }
}
