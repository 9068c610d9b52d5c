//! Keys that verify tokens. Keys that are too weak or do not fit the algorithm are refused at
//! start-up, not only when users present tokens.

use std::ops::RangeInclusive;
use std::path::Path;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use secrecy::{ExposeSecret as _, SecretString};

/// Accepted sizes of RSA keys, in bits. A shorter key is too weak, and the library does not support
/// a longer one.
const RSA_BITS: RangeInclusive<usize> = 2_048..=4_096;

/// Checks that a shared secret is as long as the algorithm's hash (RFC 7518, 3.2): a shorter one
/// can be guessed offline from one token.
pub(super) fn shared_secret(
    algorithm: Algorithm,
    secret: &SecretString,
) -> Result<DecodingKey, String> {
    let bytes = secret.expose_secret().as_bytes();
    let least = match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    };
    if bytes.len() < least {
        return Err(format!(
            "JWT_SECRET has {} bytes; {algorithm:?} needs at least {least}",
            bytes.len()
        ));
    }
    Ok(DecodingKey::from_secret(bytes))
}

/// Reads the only public key of a PEM file.
pub(super) fn public_key(algorithm: Algorithm, path: &Path) -> Result<DecodingKey, String> {
    let name = path.display();
    let pem = std::fs::read(path)
        .map_err(|error| format!("JWT_PUBLIC_KEY_FILE {name} cannot be read: {error}"))?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("PRIVATE KEY") {
        return Err(format!(
            "JWT_PUBLIC_KEY_FILE {name} holds a private key: give this process the public one only"
        ));
    }
    let keys = text
        .lines()
        .filter(|line| line.starts_with("-----BEGIN "))
        .count();
    if keys > 1 {
        return Err(format!(
            "JWT_PUBLIC_KEY_FILE {name} holds {keys} keys: give one, or several by JWT_JWKS_FILE"
        ));
    }
    let key = match algorithm.family() {
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(&pem),
        // Rebuild the key from modulus and exponent, so that `unfit_size` can read its size.
        _ => DecodingKey::from_rsa_pem(&pem)
            .and_then(|key| DecodingKey::from_jwk(&Jwk::from_decoding_key(&key, Some(algorithm))?)),
    };
    let key = key.ok().filter(|key| fits(algorithm, key));
    let key = key.ok_or_else(|| {
        format!(
            "JWT_PUBLIC_KEY_FILE {name} holds no public key in PEM form that fits {algorithm:?}"
        )
    })?;
    match unfit_size(&key) {
        Some(why) => Err(format!(
            "JWT_PUBLIC_KEY_FILE {name} holds a key that is refused: {why}"
        )),
        None => Ok(key),
    }
}

/// Converts a JWK to a key, or returns `None` if its purpose is not to verify this algorithm. The
/// error explains why a key with that purpose can't be used.
pub(super) fn of_jwk(algorithm: Algorithm, jwk: &Jwk) -> Result<Option<DecodingKey>, String> {
    let common = &jwk.common;
    let is_of_kind = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), _) => algorithm.family() == AlgorithmFamily::Rsa,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => {
            key.curve == EllipticCurve::P256
        }
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES384) => {
            key.curve == EllipticCurve::P384
        }
        (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => {
            key.curve == EllipticCurve::Ed25519
        }
        // A secret in a public set is not secret.
        _ => false,
    };
    let is_meant = common
        .public_key_use
        .as_ref()
        .is_none_or(|used| *used == PublicKeyUse::Signature)
        && common
            .key_operations
            .as_ref()
            .is_none_or(|may| may.contains(&KeyOperations::Verify))
        && common
            .key_algorithm
            .is_none_or(|named| named == algorithm.into());
    if !is_of_kind || !is_meant {
        return Ok(None);
    }
    let key = DecodingKey::from_jwk(jwk)
        .ok()
        .filter(|key| fits(algorithm, key));
    let key = key.ok_or_else(|| format!("it does not fit {algorithm:?}"))?;
    match unfit_size(&key) {
        Some(why) => Err(why),
        None => Ok(Some(key)),
    }
}

/// Detects malformed keys by verifying once.
fn fits(algorithm: Algorithm, key: &DecodingKey) -> bool {
    jsonwebtoken::crypto::verify("", b"", key, algorithm).is_ok()
}

/// Returns why the size of an RSA key is refused. Keys of other kinds have only one size.
fn unfit_size(key: &DecodingKey) -> Option<String> {
    let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind() else {
        return None;
    };
    let first = n.iter().position(|byte| *byte != 0)?;
    let bits = (n.len() - first) * 8 - n[first].leading_zeros() as usize;
    let (least, most) = RSA_BITS.into_inner();
    (!RSA_BITS.contains(&bits))
        .then(|| format!("it has {bits} bits, and RSA needs {least} to {most}"))
}
