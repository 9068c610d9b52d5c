use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;

use super::*;

/// A signature of [`TEXT`] that another library (Python's `cryptography`) made.
#[derive(Deserialize)]
struct Signed {
    algorithm: Algorithm,
    key: Jwk,
    signature: String,
}

const TEXT: &[u8] = b"signed by another library";

#[test]
fn signature_is_accepted_only_for_its_text_and_by_a_key_of_its_kind() {
    let all: Vec<Signed> = serde_json::from_str(include_str!("signatures.json")).unwrap();
    assert_eq!(all.len(), 12);
    for Signed {
        algorithm,
        key,
        signature,
    } in &all
    {
        let decoding = DecodingKey::from_jwk(key).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let check = verifier(*algorithm, &decoding).unwrap();
        assert!(check.verify(TEXT, &signature).is_ok(), "{algorithm:?}");
        assert!(
            check.verify(b"changed", &signature).is_err(),
            "{algorithm:?}"
        );
        assert!(check.verify(TEXT, &Vec::new()).is_err(), "{algorithm:?}");
        for other in &all {
            let fits = verifier(other.algorithm, &decoding).is_ok();
            let is_same_kind = kind(key) == kind(&other.key);
            assert_eq!(fits, is_same_kind, "{algorithm:?} {:?}", other.algorithm);
        }
    }
}

/// Returns the type and the curve of a key.
fn kind(key: &Jwk) -> [serde_json::Value; 2] {
    let key = serde_json::to_value(key).unwrap();
    ["kty", "crv"].map(|field| key[field].clone())
}
