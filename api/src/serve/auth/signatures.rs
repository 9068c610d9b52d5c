//! Checks signatures of tokens with ring, which TLS uses too. `jsonwebtoken`'s own provider would
//! add thirty crates, among them `rsa` with a known timing leak (RUSTSEC-2023-0071).

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::error::Unspecified;
use ring::hmac;
use ring::signature::{self as sig, RsaPublicKeyComponents, UnparsedPublicKey};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| verifier(*algorithm, key),
    // Needed only to convert private keys and to compute thumbprints. The check of a token does
    // neither.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes `jsonwebtoken` use ring in this process. A second call changes nothing.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

/// Returns an error if the key is of another kind or length than the algorithm needs.
pub(super) fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let check = match algorithm {
        Algorithm::HS256 => secret(key, hmac::HMAC_SHA256),
        Algorithm::HS384 => secret(key, hmac::HMAC_SHA384),
        Algorithm::HS512 => secret(key, hmac::HMAC_SHA512),
        Algorithm::RS256 => rsa(key, &sig::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => rsa(key, &sig::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => rsa(key, &sig::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => rsa(key, &sig::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => rsa(key, &sig::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => rsa(key, &sig::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => curve(key, 65, &sig::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => curve(key, 97, &sig::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => curve(key, 32, &sig::ED25519),
        _ => None,
    };
    match check {
        Some(check) if key.family() == algorithm.family() => {
            Ok(Box::new(RingVerifier(algorithm, check)))
        }
        _ => Err(ErrorKind::InvalidKeyFormat.into()),
    }
}

/// Checks that a message has this signature.
type Check = Box<dyn Fn(&[u8], &[u8]) -> std::result::Result<(), Unspecified>>;

fn secret(key: &DecodingKey, hash: hmac::Algorithm) -> Option<Check> {
    let key = hmac::Key::new(hash, key.try_get_as_bytes().ok()?);
    Some(Box::new(move |text, signature| {
        hmac::verify(&key, text, signature)
    }))
}

fn rsa(key: &DecodingKey, rules: &'static sig::RsaParameters) -> Option<Check> {
    let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else {
        return None;
    };
    let n = n.clone();
    let e = e.clone();
    // 2,048 to 8,192 bits, as the rules say. A shorter key is too weak.
    let is_strong = (256..=1_024).contains(&n.len());
    let key = is_strong.then_some(RsaPublicKeyComponents { n, e })?;
    Some(Box::new(move |text, signature| {
        key.verify(rules, text, signature)
    }))
}

fn curve(
    key: &DecodingKey,
    length: usize,
    curve: &'static dyn sig::VerificationAlgorithm,
) -> Option<Check> {
    let point = key.try_get_as_bytes().ok()?;
    if point.len() != length {
        return None;
    }
    let key = UnparsedPublicKey::new(curve, point.to_vec());
    Some(Box::new(move |text, signature| key.verify(text, signature)))
}

struct RingVerifier(Algorithm, Check);

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        (self.1)(message, signature).map_err(|_| Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

#[cfg(test)]
#[path = "tests/signatures.rs"]
mod tests;
