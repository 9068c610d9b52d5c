use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const SECRET: &str = "a secret of more than thirty-two bytes";

/// Returns the expected issuer and audience.
pub(crate) fn meant() -> JwtArgs {
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

pub(crate) fn good() -> Value {
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

/// Identifies the user of a token, or returns why it is refused.
pub(crate) fn identify(args: &JwtArgs, token: &str) -> Result<(String, Groups), TokenProblem> {
    let (user, groups) = Arc::new(Verifier::new(args).unwrap())
        .identify(token)
        .map_err(|refused| refused.problem)?;
    Ok((user.to_string(), groups))
}

fn user(args: &JwtArgs, token: &str) -> Result<String, TokenProblem> {
    identify(args, token).map(|(user, _)| user)
}

#[test]
fn user_is_the_subject_of_the_token_or_the_configured_claim() {
    assert_eq!(user(&hs256(), &hs_token(&good())), Ok("u-37".into()));
    let other = JwtArgs {
        jwt_user_claim: Some("https://shop/id".into()),
        ..hs256()
    };
    for (claim, expected) in [
        (json!("auth0|5f7c"), "auth0|5f7c"),
        (json!(1_234_567), "1234567"),
        (json!(u64::MAX), "18446744073709551615"),
    ] {
        let token = hs_token(&with("https://shop/id", claim));
        assert_eq!(user(&other, &token), Ok(expected.into()));
    }
    for nobody in [
        good(),
        with("https://shop/id", json!(null)),
        with("https://shop/id", json!(["u"])),
        with("https://shop/id", json!(1.5)),
        with("https://shop/id", json!(1e20)),
    ] {
        let refused = user(&other, &hs_token(&nobody));
        assert_eq!(refused, Err(TokenProblem::NoUser), "{nobody}");
    }
    let bad = hs_token(&with("https://shop/id", "a b"));
    assert_eq!(user(&other, &bad), Err(TokenProblem::BadUserId));
    let empty = JwtArgs {
        jwt_user_claim: Some(String::new()),
        ..hs256()
    };
    assert_eq!(
        user(&empty, &hs_token(&good())),
        Ok("u-37".into()),
        "an empty setting counts as not set"
    );
}

#[test]
fn each_reason_to_refuse_a_token_has_a_name() {
    use TokenProblem as P;
    let now = Utc::now().timestamp();
    let whole = hs_token(&good());
    let (head_and_claims, signature) = whole.rsplit_once('.').unwrap();
    let (_, claims) = head_and_claims.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
    let unsigned_with_signature = format!("{unsigned}{signature}");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let other_key = EncodingKey::from_secret(b"another secret of more than thirty-two bytes");
    let critical = Header {
        crit: Some(vec!["exp2".into()]),
        ..Header::new(Algorithm::HS256)
    };
    for (expected, token) in [
        (P::Malformed, unsigned),
        (P::Malformed, unsigned_with_signature),
        (P::Malformed, "x".into()),
        (P::Malformed, hs_token(&without("exp"))),
        (P::Algorithm, token(Algorithm::HS512, &key, &good())),
        (P::Signature, token(Algorithm::HS256, &other_key, &good())),
        (P::Signature, format!("{head_and_claims}.")),
        (P::Expired, hs_token(&with("exp", now - 3_600))),
        (P::NotYetValid, hs_token(&with("nbf", now + 3_600))),
        (P::Extension, encode(&critical, &good(), &key).unwrap()),
        (P::NoUser, hs_token(&without("sub"))),
        (P::Issuer, hs_token(&with("iss", "elsewhere"))),
        (P::Issuer, hs_token(&with("iss", json!(["shop"])))),
        (P::Issuer, hs_token(&without("iss"))),
        (P::Audience, hs_token(&with("aud", "mail"))),
        (P::Audience, hs_token(&with("aud", json!([])))),
        (P::Audience, hs_token(&without("aud"))),
    ] {
        assert_eq!(user(&hs256(), &token), Err(expected), "{token}");
    }
}

#[test]
fn audience_may_be_one_of_several_and_in_another_claim() {
    let list = hs_token(&with("aud", json!(["mail", "coupons"])));
    assert!(user(&hs256(), &list).is_ok());
    let cognito = JwtArgs {
        jwt_audience: Some("web, app".into()),
        jwt_audience_claim: Some("client_id".into()),
        ..hs256()
    };
    for (claim, accepted) in [("web", true), ("app", true), ("coupons", false)] {
        let token = hs_token(&with("client_id", claim));
        assert_eq!(user(&cognito, &token).is_ok(), accepted, "{claim}");
    }
    assert!(user(&cognito, &hs_token(&good())).is_err(), "`aud` alone");
    let warning = Verifier::new(&cognito).unwrap().warning().unwrap();
    assert!(
        warning.contains("JWT_AUDIENCE_CLAIM=client_id"),
        "{warning}"
    );
    assert_eq!(Verifier::new(&hs256()).unwrap().warning(), None);
}

#[test]
fn reports_wrong_settings_in_one_sentence_that_omits_the_secret() {
    let hmac = |change: fn(&mut JwtArgs)| {
        let mut args = hs256();
        change(&mut args);
        args
    };
    let rs256 = JwtArgs {
        jwt_algorithm: Some(Algorithm::RS256),
        ..meant()
    };
    let cases = [
        (JwtArgs::default(), "JWT_ALGORITHM"),
        (hmac(|it| it.jwt_secret = Some("hunter2".into())), "32"),
        (
            hmac(|it| it.jwt_secret = Some(String::new().into())),
            "needs JWT_SECRET",
        ),
        (rs256.clone(), "needs JWT_JWKS_URL"),
        (
            hmac(|it| it.jwt_algorithm = Some(Algorithm::RS256)),
            "needs JWT_JWKS_URL, and no other",
        ),
        (
            hmac(|it| it.jwt_jwks_url = Some("file:///keys.json".into())),
            "needs JWT_SECRET, and no other",
        ),
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
            JwtArgs {
                jwt_jwks_url: Some("https://u:hunter2@issuer/".into()),
                ..rs256
            },
            "JWT_JWKS_URL must look like",
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
        let (_, groups) = identify(args, &hs_token(claims)).unwrap();
        groups.have(&"vip".parse().unwrap()) == Some(true)
    };
    for groups in [
        json!("vip"),
        json!(["vip"]),
        json!("/vip"),
        json!(["/staff", "/vip"]),
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
        json!("/vip/gold"),
        json!("//vip"),
    ] {
        assert!(
            !named(&hs256(), &with("groups", groups.clone())),
            "{groups}"
        );
    }
    assert!(!named(&hs256(), &good()), "no such claim");
    let renamed = JwtArgs {
        jwt_groups_claim: Some("realm_access.roles".into()),
        ..hs256()
    };
    assert!(named(
        &renamed,
        &with("realm_access", json!({"roles": ["vip"]}))
    ));
    assert!(named(&renamed, &with("realm_access.roles", "vip")));
    assert!(!named(&renamed, &with("realm_access", json!(["vip"]))));
    assert!(!named(&renamed, &with("groups", "vip")));
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
        let args = hs256();
        proptest::prop_assert!(user(&args, &text).is_err());
        // Change one byte of a valid token, except the last of a part, which may have unused bits.
        let good = hs_token(&good());
        let mut changed = good.clone().into_bytes();
        let at = at % changed.len();
        changed[at] = byte;
        if let Ok(changed) = String::from_utf8(changed)
            && changed.trim_end_matches(|c| c != '.') != good.trim_end_matches(|c| c != '.')
        {
            proptest::prop_assert!(user(&args, &changed).is_err(), "{}", changed);
        }
    }
}
