//! Signatures derived from an operators' token, for sessions and forms of pages.

use axum::http::HeaderValue;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// The purpose of a signature.
#[derive(Debug, Clone, Copy)]
pub struct SignaturePurpose(pub &'static str);

/// The permission of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    All,
    View,
    /// Only the routes of codes.
    Redeem,
}

/// Signs with an operators' token. Signatures are valid in every process that has the token, until
/// the token is withdrawn.
pub struct TokenSigner {
    key: Hmac<Sha256>,
    pub allowed: Allowed,
    /// The token, as a header value.
    pub authorization: HeaderValue,
}

impl TokenSigner {
    pub(super) fn new(token: &str, allowed: Allowed) -> Option<Self> {
        // HMAC accepts keys of any length.
        let of_token = Hmac::<Sha256>::new_from_slice(token.as_bytes()).ok()?;
        // Separates these signatures from other uses of the token.
        let key = of_token.chain_update(b"firstcome operations page\n");
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        Some(Self {
            key,
            allowed,
            authorization,
        })
    }

    /// Returns a signature of `text`, in hexadecimal; `purpose` separates different uses.
    pub fn sign(&self, purpose: SignaturePurpose, text: &str) -> String {
        let mac = self
            .key
            .clone()
            .chain_update(purpose.0)
            .chain_update(b"\n")
            .chain_update(text);
        format!("{:x}", mac.finalize().into_bytes())
    }

    pub fn has_signed(&self, text: &str, purpose: SignaturePurpose, signature: &str) -> bool {
        self.sign(purpose, text)
            .as_bytes()
            .ct_eq(signature.as_bytes())
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ops::OpsToken;

    #[test]
    fn signature_is_valid_for_one_token_purpose_and_text() {
        let [a, b, c] = ["a", "b", "c"].map(|letter| letter.repeat(32));
        let two = OpsToken::new(&format!("{a},{b}").into(), Some(&c.clone().into())).unwrap();
        let signer = two.log_in(&b, None).unwrap();
        let signature = signer.sign(SignaturePurpose("session"), "Kim");
        let signs = |token: &OpsToken| {
            token
                .signers()
                .map(|one| one.has_signed("Kim", SignaturePurpose("session"), &signature))
                .collect()
        };
        let by_two: Vec<bool> = signs(&two);
        assert_eq!(by_two, [false, true, false]);
        let by_one: Vec<bool> = signs(&OpsToken::new(&a.into(), None).unwrap());
        assert_eq!(by_one, [false], "its token was withdrawn");
        assert!(
            !signer.has_signed("Kim", SignaturePurpose("form"), &signature)
                && !signer.has_signed("Lee", SignaturePurpose("session"), &signature)
        );
        assert!(
            !signer.has_signed("Kim", SignaturePurpose("session"), "")
                && two.log_in("none", None).is_none()
        );
        assert_eq!(
            (two.log_in(&c, None).unwrap().allowed, signer.allowed),
            (Allowed::View, Allowed::All)
        );
    }
}
