use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn hs256() -> JwtArgs {
    JwtArgs { jwt_algorithm: Some(Algorithm::HS256), jwt_secret: Some(SECRET.into()), ..JwtArgs::default() }
}

fn good() -> Value {
    json!({"sub": "u-37", "exp": Utc::now().timestamp() + 600})
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = good();
    claims[name] = value.into();
    claims
}

fn token(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs_token(claims: &Value) -> String {
    token(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn subject(args: &JwtArgs, authorization: &str) -> Result<String, &'static str> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
    Verifier::new(args).unwrap().subject(&headers)
}

fn accepts(args: &JwtArgs, token: &str) -> bool {
    subject(args, &format!("Bearer {token}")).is_ok()
}

#[test]
fn the_person_is_the_subject_of_a_token_signed_as_set() {
    assert_eq!(subject(&hs256(), &format!("Bearer {}", hs_token(&good()))), Ok("u-37".into()));
    assert_eq!(subject(&hs256(), &format!("bearer  {}", hs_token(&good()))), Ok("u-37".into()));
}

#[test]
fn a_token_that_proves_nothing_is_refused() {
    let now = Utc::now().timestamp();
    let whole = hs_token(&good());
    let (head_and_claims, signature) = whole.rsplit_once('.').unwrap();
    let (_, claims) = head_and_claims.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
    let unsigned_with_signature = format!("{unsigned}{signature}");
    let other_key = EncodingKey::from_secret(b"another secret of more than thirty-two bytes");
    let refused = [
        ("alg none", unsigned),
        ("alg none with a signature", unsigned_with_signature),
        ("another algorithm", token(Algorithm::HS512, &EncodingKey::from_secret(SECRET.as_bytes()), &good())),
        ("another key", token(Algorithm::HS256, &other_key, &good())),
        ("no signature", format!("{head_and_claims}.")),
        ("expired", hs_token(&with("exp", now - 3_600))),
        ("never expires", hs_token(&json!({"sub": "u-37"}))),
        ("not valid yet", hs_token(&with("nbf", now + 3_600))),
        ("nobody's", hs_token(&json!({"exp": now + 600}))),
        ("a number for a person", hs_token(&with("sub", 37))),
        ("no token", "x".into()),
    ];
    for (why, token) in refused {
        assert!(!accepts(&hs256(), &token), "{why}");
    }
    assert!(subject(&hs256(), &format!("Basic {whole}")).is_err());
    assert!(Verifier::new(&hs256()).unwrap().subject(&HeaderMap::new()).is_err());
}

#[test]
fn issuer_and_audience_are_asked_for_once_they_are_set() {
    let issued = JwtArgs { jwt_issuer: Some("shop".into()), ..hs256() };
    assert!(accepts(&issued, &hs_token(&with("iss", "shop"))));
    assert!(!accepts(&issued, &hs_token(&with("iss", "elsewhere"))));
    assert!(!accepts(&issued, &hs_token(&good())));

    let meant = JwtArgs { jwt_audience: Some("coupons".into()), ..hs256() };
    assert!(accepts(&meant, &hs_token(&with("aud", "coupons"))));
    assert!(accepts(&meant, &hs_token(&with("aud", json!(["mail", "coupons"])))));
    assert!(!accepts(&meant, &hs_token(&with("aud", "mail"))));
    assert!(!accepts(&meant, &hs_token(&good())));
    assert!(accepts(&hs256(), &hs_token(&with("aud", "mail"))), "not asked for");
}

fn key_file(pem: &str) -> (tempfile::NamedTempFile, PathBuf) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let path = file.path().to_owned();
    (file, path)
}

fn with_key(algorithm: Algorithm, path: PathBuf) -> JwtArgs {
    JwtArgs { jwt_algorithm: Some(algorithm), jwt_public_key_file: Some(path), ..JwtArgs::default() }
}

#[test]
fn public_keys_check_tokens_and_are_never_taken_for_shared_secrets() {
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let signers = [
        (Algorithm::ES256, &ec, EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).unwrap()),
        (Algorithm::EdDSA, &ed, EncodingKey::from_ed_pem(ed.serialize_pem().as_bytes()).unwrap()),
    ];
    for (algorithm, pair, signer) in signers {
        let (_file, path) = key_file(&pair.public_key_pem());
        let args = with_key(algorithm, path);
        assert!(accepts(&args, &token(algorithm, &signer, &good())), "{algorithm:?}");
        // The classic confusion: the public key, which anybody has, used as an HMAC secret.
        let forged = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
        assert!(!accepts(&args, &token(Algorithm::HS256, &forged, &good())), "{algorithm:?}");
    }
}

const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC72j6orYmRvtaNKkzjQnkHiQdq
BRUJ7MMhi24hpbgqEHFuyGPQo2yJC84KU/dNT3sBeJJiPExBMLWc7Jfzgw/tUPIx
HrRoI5htm7+eVL/cf4cJmiA10PikwoAuF66KpIQXwNm+C1QK9kKSMEFz9a9Zc1j0
lYIgM0ZUs1XmqR2I4wIDAQAB
-----END PUBLIC KEY-----
";

#[test]
fn wrong_settings_are_refused_in_one_sentence_without_the_secret() {
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (_public, public) = key_file(&ec.public_key_pem());
    let (_private, private) = key_file(&ec.serialize_pem());
    let (_two, two) = key_file(&format!("{0}{0}", ec.public_key_pem()));
    let (_weak, weak) = key_file(RSA_1024);
    let short = JwtArgs { jwt_secret: Some("hunter2".into()), ..hs256() };
    let cases = [
        (JwtArgs::default(), "JWT_ALGORITHM"),
        (short, "32"),
        (JwtArgs { jwt_secret: Some(String::new().into()), ..hs256() }, "needs JWT_SECRET"),
        (JwtArgs { jwt_algorithm: Some(Algorithm::RS256), ..JwtArgs::default() }, "JWT_PUBLIC_KEY_FILE"),
        (JwtArgs { jwt_algorithm: Some(Algorithm::RS256), ..hs256() }, "JWT_PUBLIC_KEY_FILE"),
        (JwtArgs { jwt_public_key_file: Some(public.clone()), ..hs256() }, "choose one"),
        (with_key(Algorithm::HS256, public.clone()), "JWT_SECRET"),
        (with_key(Algorithm::RS256, public.clone()), "fits RS256"),
        (with_key(Algorithm::ES384, public), "fits ES384"),
        (with_key(Algorithm::ES256, two), "holds 2 keys"),
        (with_key(Algorithm::RS256, weak), "too weak"),
        (with_key(Algorithm::ES256, private), "private key"),
        (with_key(Algorithm::ES256, "no/such/file".into()), "cannot be read"),
    ];
    for (args, expected) in cases {
        let refused = Verifier::new(&args).err().unwrap_or_default();
        assert!(refused.contains(expected), "{expected}: {refused:?}");
        assert!(!refused.contains("hunter2") && !refused.contains('\n'), "{refused:?}");
    }
}

#[test]
fn a_token_names_its_groups_as_a_text_or_a_list_of_texts_and_in_no_other_way() {
    let named = |args: &JwtArgs, claims: &Value| {
        let value = HeaderValue::from_str(&format!("Bearer {}", hs_token(claims))).unwrap();
        Verifier::new(args).unwrap().names_group(&value, &"vip".parse().unwrap()) == Some(true)
    };
    for groups in [json!("vip"), json!(["vip"]), json!(["staff", "vip"]), json!([7, null, "vip", {}])] {
        assert!(named(&hs256(), &with("groups", groups.clone())), "{groups}");
    }
    for groups in [
        json!(null),
        json!(7),
        json!(true),
        json!({"vip": true}),
        json!([]),
        json!([["vip"]]),
        json!("VIP"),
        json!("vip,staff"),
        json!("vip "),
    ] {
        assert!(!named(&hs256(), &with("groups", groups.clone())), "{groups}");
    }
    assert!(!named(&hs256(), &good()), "no such claim");
    let ended = HeaderValue::from_str(&format!("Bearer {}", hs_token(&with("exp", 1)))).unwrap();
    let known = Verifier::new(&hs256()).unwrap().names_group(&ended, &"vip".parse().unwrap());
    assert_eq!(known, None, "of a token that ended meanwhile nothing is known");
    let renamed = JwtArgs { jwt_groups_claim: Some("roles".into()), ..hs256() };
    assert!(named(&renamed, &with("roles", "vip")) && !named(&renamed, &with("groups", "vip")));
    let empty = JwtArgs { jwt_groups_claim: Some(String::new()), ..hs256() };
    assert!(named(&empty, &with("groups", "vip")), "an empty setting is none");
    let over = json!({"sub": "u-37", "exp": Utc::now().timestamp() - 600, "groups": "vip"});
    assert!(!named(&hs256(), &over), "a token that is over names none");
}
