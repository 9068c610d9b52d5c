use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const SECRET: &str = "a secret of more than thirty-two bytes";

/// Returns the expected issuer and audience.
pub(super) fn meant() -> JwtArgs {
    JwtArgs {
        jwt_issuer: Some("shop".into()),
        jwt_audience: Some("coupons".into()),
        ..JwtArgs::default()
    }
}

fn hs256() -> JwtArgs {
    JwtArgs {
        jwt_algorithm: Some(Algorithm::HS256),
        jwt_secret: Some(SECRET.into()),
        ..meant()
    }
}

pub(super) fn good() -> Value {
    json!({"sub": "u-37", "iss": "shop", "aud": "coupons", "exp": Utc::now().timestamp() + 600})
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = good();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn token(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs_token(claims: &Value) -> String {
    token(
        Algorithm::HS256,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        claims,
    )
}

fn accepts(args: &JwtArgs, token: &str) -> bool {
    Verifier::new(args).unwrap().person(token).is_ok()
}

#[test]
fn user_is_the_subject_of_the_token_or_the_configured_claim() {
    assert_eq!(
        Verifier::new(&hs256()).unwrap().person(&hs_token(&good())),
        Ok("u-37".into())
    );
    let other = Verifier::new(&JwtArgs {
        jwt_user_claim: Some("https://shop/id".into()),
        ..hs256()
    })
    .unwrap();
    assert_eq!(
        other.person(&hs_token(&with("https://shop/id", "auth0|5f7c"))),
        Ok("auth0|5f7c".into())
    );
    for nobody in [
        good(),
        with("https://shop/id", 37),
        with("https://shop/id", json!(null)),
        with("https://shop/id", json!(["u"])),
    ] {
        assert!(other.person(&hs_token(&nobody)).is_err(), "{nobody}");
    }
    let empty = JwtArgs {
        jwt_user_claim: Some(String::new()),
        ..hs256()
    };
    assert_eq!(
        Verifier::new(&empty).unwrap().person(&hs_token(&good())),
        Ok("u-37".into()),
        "an empty setting counts as not set"
    );
}

#[test]
fn refuses_token_with_duplicate_claim() {
    let claims = good().to_string();
    let twice = claims.replacen("\"sub\":\"u-37\"", "\"sub\":\"u-37\",\"sub\":\"u-38\"", 1);
    assert_ne!(claims, twice);
    let (head, _) = hs_token(&good())
        .split_once('.')
        .map(|(head, rest)| (head.to_owned(), rest.to_owned()))
        .unwrap();
    let signed = |claims: &str| {
        let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    };
    assert!(accepts(&hs256(), &signed(&claims)) && !accepts(&hs256(), &signed(&twice)));
}

#[test]
fn refuses_unsigned_expired_and_foreign_tokens() {
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
        (
            "another algorithm",
            token(
                Algorithm::HS512,
                &EncodingKey::from_secret(SECRET.as_bytes()),
                &good(),
            ),
        ),
        ("another key", token(Algorithm::HS256, &other_key, &good())),
        ("no signature", format!("{head_and_claims}.")),
        ("expired", hs_token(&with("exp", now - 3_600))),
        ("never expires", hs_token(&without("exp"))),
        ("not valid yet", hs_token(&with("nbf", now + 3_600))),
        ("no user", hs_token(&without("sub"))),
        ("user is a number", hs_token(&with("sub", 37))),
        ("no token", "x".into()),
    ];
    for (why, token) in refused {
        assert!(!accepts(&hs256(), &token), "{why}");
    }
}

#[test]
fn refuses_token_without_the_expected_issuer_and_audience() {
    assert!(accepts(
        &hs256(),
        &hs_token(&with("aud", json!(["mail", "coupons"])))
    ));
    let list = with("iss", json!(["shop"]));
    for other in [
        with("iss", "elsewhere"),
        without("iss"),
        list,
        with("aud", "mail"),
        with("aud", json!([])),
        without("aud"),
    ] {
        assert!(!accepts(&hs256(), &hs_token(&other)), "{other}");
    }
}

fn key_file(pem: &str) -> (tempfile::NamedTempFile, PathBuf) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let path = file.path().to_owned();
    (file, path)
}

fn with_key(algorithm: Algorithm, path: PathBuf) -> JwtArgs {
    JwtArgs {
        jwt_algorithm: Some(algorithm),
        jwt_public_key_file: Some(path),
        ..meant()
    }
}

#[test]
fn public_key_verifies_tokens_but_never_as_an_hmac_secret() {
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let signers = [
        (
            Algorithm::ES256,
            &ec,
            EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).unwrap(),
        ),
        (
            Algorithm::EdDSA,
            &ed,
            EncodingKey::from_ed_pem(ed.serialize_pem().as_bytes()).unwrap(),
        ),
    ];
    for (algorithm, pair, signer) in signers {
        let (_file, path) = key_file(&pair.public_key_pem());
        let args = with_key(algorithm, path);
        assert!(
            accepts(&args, &token(algorithm, &signer, &good())),
            "{algorithm:?}"
        );
        // Algorithm confusion: a token signed with the public key as an HMAC secret.
        let forged = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
        assert!(
            !accepts(&args, &token(Algorithm::HS256, &forged, &good())),
            "{algorithm:?}"
        );
    }
}

const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC72j6orYmRvtaNKkzjQnkHiQdq
BRUJ7MMhi24hpbgqEHFuyGPQo2yJC84KU/dNT3sBeJJiPExBMLWc7Jfzgw/tUPIx
HrRoI5htm7+eVL/cf4cJmiA10PikwoAuF66KpIQXwNm+C1QK9kKSMEFz9a9Zc1j0
lYIgM0ZUs1XmqR2I4wIDAQAB
-----END PUBLIC KEY-----
";

const RSA_2047: &str = "-----BEGIN PUBLIC KEY-----
MIIBITANBgkqhkiG9w0BAQEFAAOCAQ4AMIIBCQKCAQBP1JHq5ij02UxikqA1ZGf7
nzUMcLyFKs5xY3PKh/tU9Li3vvsFGiPXwf+EqsaMzWnGNbWGyL9lVGJfa/QSSOqz
Cf6TpBvxHItTX0cvUaqUXeId5AOx/u4ro4UEAmxxzaXVltg4JWy8KM+xE+ZnAttc
0WadrTNQvgD1Tfb7ZMLuOrBSBX58I1GqUN/xmbg/qHuqc9gcoXyFSfBBUX/KYwxj
VRAdzMD0r4pmeXxShlBtdG7SPtGE6pRV1r6IU4OwItl8uY1mwBL6WCEs5WqP8B3n
ueG820QmO1uJOH6lvJ86nsVMLtNpfNd79LZdM0bB+v3s/HoAy2K23D8YafWawmWt
AgMBAAE=
-----END PUBLIC KEY-----
";

#[test]
fn reports_wrong_settings_in_one_sentence_that_omits_the_secret() {
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (_public, public) = key_file(&ec.public_key_pem());
    let (_private, private) = key_file(&ec.serialize_pem());
    let (_two, two) = key_file(&format!("{0}{0}", ec.public_key_pem()));
    let (_weak, weak) = key_file(RSA_1024);
    let (_nearly, nearly) = key_file(RSA_2047);
    let hmac = |change: fn(&mut JwtArgs)| {
        let mut args = hs256();
        change(&mut args);
        args
    };
    let cases = [
        (JwtArgs::default(), "JWT_ALGORITHM"),
        (hmac(|it| it.jwt_secret = Some("hunter2".into())), "32"),
        (
            hmac(|it| it.jwt_secret = Some(String::new().into())),
            "needs JWT_SECRET",
        ),
        (
            JwtArgs {
                jwt_algorithm: Some(Algorithm::RS256),
                ..meant()
            },
            "JWT_PUBLIC_KEY_FILE",
        ),
        (
            hmac(|it| it.jwt_algorithm = Some(Algorithm::RS256)),
            "JWT_PUBLIC_KEY_FILE",
        ),
        (
            JwtArgs {
                jwt_public_key_file: Some(public.clone()),
                ..hs256()
            },
            "choose one",
        ),
        (with_key(Algorithm::HS256, public.clone()), "JWT_SECRET"),
        (with_key(Algorithm::RS256, public.clone()), "fits RS256"),
        (with_key(Algorithm::ES384, public), "fits ES384"),
        (with_key(Algorithm::ES256, two), "holds 2 keys"),
        (with_key(Algorithm::RS256, weak), "it has 1024 bits"),
        (with_key(Algorithm::RS256, nearly), "it has 2047 bits"),
        (
            hmac(|it| it.jwt_algorithm = Some(Algorithm::HS512)),
            "HS512 needs at least 64",
        ),
        (hmac(|it| it.jwt_issuer = None), "needs JWT_ISSUER"),
        (
            hmac(|it| it.jwt_issuer = Some(String::new())),
            "needs JWT_ISSUER",
        ),
        (hmac(|it| it.jwt_audience = None), "needs JWT_AUDIENCE"),
        (
            hmac(|it| it.jwt_jwks_file = Some("keys.json".into())),
            "choose one",
        ),
        (
            JwtArgs {
                jwt_jwks_file: Some("keys.json".into()),
                jwt_algorithm: Some(Algorithm::HS256),
                ..meant()
            },
            "needs JWT_SECRET",
        ),
        (
            JwtArgs {
                jwt_jwks_url: Some("https://u:hunter2@issuer/".into()),
                ..with_key(Algorithm::ES256, "".into())
            },
            "JWT_JWKS_URL must look like",
        ),
        (with_key(Algorithm::ES256, private), "private key"),
        (
            with_key(Algorithm::ES256, "no/such/file".into()),
            "cannot be read",
        ),
    ];
    for (args, expected) in cases {
        let refused = Verifier::new(&args).err().unwrap_or_default();
        assert!(refused.contains(expected), "{expected}: {refused:?}");
        assert!(
            !refused.contains("hunter2") && !refused.contains('\n'),
            "{refused:?}"
        );
    }
}

#[test]
fn reads_groups_from_a_string_or_a_list_of_strings_only() {
    let named = |args: &JwtArgs, claims: &Value| {
        Verifier::new(args)
            .unwrap()
            .names_group(&hs_token(claims), &"vip".parse().unwrap())
            == Some(true)
    };
    for groups in [
        json!("vip"),
        json!(["vip"]),
        json!(["staff", "vip"]),
        json!([7, null, "vip", {}]),
    ] {
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
        assert!(
            !named(&hs256(), &with("groups", groups.clone())),
            "{groups}"
        );
    }
    assert!(!named(&hs256(), &good()), "no such claim");
    let ended = hs_token(&with("exp", 1));
    let known = Verifier::new(&hs256())
        .unwrap()
        .names_group(&ended, &"vip".parse().unwrap());
    assert_eq!(known, None, "groups of an expired token are unknown");
    let renamed = JwtArgs {
        jwt_groups_claim: Some("roles".into()),
        ..hs256()
    };
    assert!(named(&renamed, &with("roles", "vip")) && !named(&renamed, &with("groups", "vip")));
    let empty = JwtArgs {
        jwt_groups_claim: Some(String::new()),
        ..hs256()
    };
    assert!(
        named(&empty, &with("groups", "vip")),
        "an empty setting counts as not set"
    );
}

proptest::proptest! {
    #[test]
    fn refuses_any_text_without_a_valid_signature(text in ".{0,300}", at in 0_usize..200, byte in proptest::prelude::any::<u8>()) {
        let verifier = Verifier::new(&hs256()).unwrap();
        proptest::prop_assert!(verifier.person(&text).is_err());
        // Change one byte of a valid token, except the last of a part, which may have unused bits.
        let good = hs_token(&good());
        let mut changed = good.clone().into_bytes();
        let at = at % changed.len();
        changed[at] = byte;
        if let Ok(changed) = String::from_utf8(changed)
            && changed.trim_end_matches(|c| c != '.') != good.trim_end_matches(|c| c != '.')
        {
            proptest::prop_assert!(verifier.person(&changed).is_err(), "{}", changed);
        }
    }
}
