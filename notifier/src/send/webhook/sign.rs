//! Signs webhooks according to the Standard Webhooks specification: HMAC-SHA256 over
//! `id.timestamp.body`, once for each secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::Sha256;

/// Permitted length of the key, in bytes.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that is shared with the receiver.
#[derive(Debug)]
pub(super) struct SigningSecret(SecretSlice<u8>);

impl SigningSecret {
    /// Parses `whsec_…`.
    ///
    /// # Errors
    /// An instruction that never contains the secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let encoded = text
            .trim()
            .strip_prefix("whsec_")
            .ok_or("it must begin with whsec_")?;
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| "what follows whsec_ must be base64")?;
        if !LENGTH.contains(&key.len()) {
            return Err(format!(
                "it must hold 24 to 64 bytes, and holds {}",
                key.len()
            ));
        }
        Ok(Self(key.into()))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &str) -> Option<String> {
        // HMAC accepts keys of any length, so this does not fail.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).ok()?;
        for part in [
            id.as_bytes(),
            b".",
            timestamp.to_string().as_bytes(),
            b".",
            body.as_bytes(),
        ] {
            mac.update(part);
        }
        Some(format!(
            "v1,{}",
            STANDARD.encode(mac.finalize().into_bytes())
        ))
    }
}

/// Returns the header `webhook-signature`. The ID must not contain a full stop, which would make
/// the signed text ambiguous.
pub(super) fn signatures(
    secrets: &[SigningSecret],
    id: &str,
    timestamp: i64,
    body: &str,
) -> String {
    secrets
        .iter()
        .filter_map(|secret| secret.sign(id, timestamp, body))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses the example from the specification's own libraries.
    #[test]
    fn signature_equals_that_of_the_reference_libraries() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signatures(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn malformed_secret_is_rejected_without_showing_it() {
        for (text, says) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_"),
            ("whsec_not base64", "base64"),
            ("whsec_MfKQ9r8GKYqrTwjU", "24 to 64"),
        ] {
            let error = SigningSecret::parse(text).unwrap_err();
            assert!(
                error.contains(says) && !error.contains("MfKQ"),
                "{text}: {error}"
            );
        }
    }
}
