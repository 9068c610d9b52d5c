use chrono::Utc;
use clap::Parser;
use firstcome_stack::tokens;
use serde_json::json;

use super::*;

const SECRET: &str = "a secret of more than thirty-two bytes";

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    jwt: JwtArgs,
}

/// Parses settings, each written as `name=value` like a flag without `--jwt-`. Adds the usual ones
/// that are not given.
pub(crate) fn settings(given: &[&str]) -> JwtArgs {
    let name = |setting: &str| setting.split('=').next().map(str::to_owned);
    let secret = format!("secret={SECRET}");
    let usual = [
        "algorithm=HS256",
        &secret,
        "issuer=shop",
        "audience=coupons",
    ];
    let is_given = |usual: &&str| given.iter().any(|one| name(one) == name(usual));
    let usual = usual.into_iter().filter(|one| !is_given(one));
    let flags = given.iter().copied().chain(usual);
    let flags = flags.map(|setting| format!("--jwt-{setting}"));
    Settings::parse_from([String::new()].into_iter().chain(flags)).jwt
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

fn signed(algorithm: &str, secret: &str, claims: &Value) -> String {
    tokens::token(&json!({"alg": algorithm}), claims, secret.as_bytes())
}

pub(crate) fn token(claims: &Value) -> String {
    signed("HS256", SECRET, claims)
}

/// Identifies the user of a token, or returns why it is refused.
async fn user(args: &JwtArgs, token: &str) -> Result<String, TokenProblem> {
    let (user, _) = Verifier::new(args)
        .unwrap()
        .identify(token)
        .await
        .map_err(|refused| refused.problem)?;
    Ok(user.to_string())
}

#[tokio::test]
async fn user_is_the_subject_of_the_token_or_the_configured_claim() {
    let usual = settings(&[]);
    assert_eq!(user(&usual, &token(&good())).await, Ok("u-37".into()));
    let other = settings(&["user-claim=https://shop/id"]);
    let no_user = || Err(TokenProblem::NoUser);
    for (claim, expected) in [
        (json!("auth0|5f7c"), Ok("auth0|5f7c".to_owned())),
        (json!(1_234_567), Ok("1234567".into())),
        (json!(u64::MAX), Ok("18446744073709551615".into())),
        (json!(null), no_user()),
        (json!(["u"]), no_user()),
        (json!(1.5), no_user()),
        (json!(1e20), no_user()),
        (json!("a b"), Err(TokenProblem::BadUserId)),
    ] {
        let token = token(&with("https://shop/id", claim.clone()));
        assert_eq!(user(&other, &token).await, expected, "{claim}");
    }
    assert_eq!(user(&other, &token(&good())).await, no_user());
}

#[tokio::test]
async fn faulty_token_is_refused_for_the_reason_that_applies() {
    use TokenProblem as P;
    let now = Utc::now().timestamp();
    let whole = token(&good());
    let (head_and_claims, signature) = whole.rsplit_once('.').unwrap();
    let (_, claims) = head_and_claims.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
    let unsigned_with_signature = format!("{unsigned}{signature}");
    let critical = json!({"alg": "HS256", "crit": ["exp2"]});
    let other = "another secret of more than thirty-two bytes";
    for (expected, token) in [
        (P::Malformed, unsigned),
        (P::Malformed, unsigned_with_signature),
        (P::Malformed, "x".into()),
        (P::Malformed, token(&without("exp"))),
        (P::Algorithm, signed("HS512", SECRET, &good())),
        (P::Signature, signed("HS256", other, &good())),
        (P::Signature, format!("{head_and_claims}.")),
        (P::Expired, token(&with("exp", now - 3_600))),
        (P::NotYetValid, token(&with("nbf", now + 3_600))),
        (
            P::Extension,
            tokens::token(&critical, &good(), SECRET.as_bytes()),
        ),
        (P::NoUser, token(&without("sub"))),
        (P::Issuer, token(&with("iss", "elsewhere"))),
        (P::Issuer, token(&with("iss", json!(["shop"])))),
        (P::Issuer, token(&without("iss"))),
        (P::Audience, token(&with("aud", "mail"))),
        (P::Audience, token(&with("aud", json!([])))),
        (P::Audience, token(&without("aud"))),
    ] {
        assert_eq!(user(&settings(&[]), &token).await, Err(expected), "{token}");
    }
}

#[tokio::test]
async fn audience_may_be_one_of_several_and_in_another_claim() {
    let usual = settings(&[]);
    let list = token(&with("aud", json!(["mail", "coupons"])));
    assert!(user(&usual, &list).await.is_ok());
    let cognito = settings(&["audience=web, app", "audience-claim=client_id"]);
    for (claim, accepted) in [("web", true), ("app", true), ("coupons", false)] {
        let token = token(&with("client_id", claim));
        assert_eq!(user(&cognito, &token).await.is_ok(), accepted, "{claim}");
    }
    assert!(
        user(&cognito, &token(&good())).await.is_err(),
        "`aud` alone"
    );
}

#[test]
fn wrong_settings_are_reported_in_one_sentence_without_the_secret() {
    let rs256 = ["algorithm=RS256", "secret="];
    let by_http = [&rs256[..], &["jwks-url=http://issuer/keys"]].concat();
    let at_address = [&rs256[..], &["jwks-url=https://u:hunter2@issuer/"]].concat();
    for (given, expected) in [
        (&["secret=hunter2"][..], "needs at least 32"),
        (&["secret="], "needs JWT_SECRET"),
        (&rs256, "needs JWT_JWKS_URL"),
        (&["algorithm=RS256"], "needs JWT_JWKS_URL, and no other"),
        (
            &["jwks-url=https://issuer/keys"],
            "needs JWT_SECRET, and no other",
        ),
        (&["algorithm=HS512"], "HS512 needs at least 64"),
        (&["issuer="], "needs JWT_ISSUER"),
        (&["audience="], "needs JWT_AUDIENCE"),
        (&at_address, "JWT_JWKS_URL must look like"),
        (&by_http, "JWT_JWKS_URL: use https"),
    ] {
        let refused = Verifier::new(&settings(given)).err().unwrap_or_default();
        assert!(refused.contains(expected), "{expected}: {refused:?}");
        let is_one_sentence = !refused.contains("hunter2") && !refused.contains('\n');
        assert!(is_one_sentence, "{refused:?}");
    }
    let none = Verifier::new(&JwtArgs::default()).err().unwrap();
    assert!(none.contains("JWT_ALGORITHM"), "{none}");
}

#[tokio::test]
async fn groups_are_read_only_from_a_string_or_from_the_strings_of_a_list() {
    let usual = || settings(&[]);
    let roles = || settings(&["groups-claim=realm_access.roles"]);
    for (args, claim, groups, is_member) in [
        (usual(), "groups", json!("vip"), true),
        (usual(), "groups", json!(["vip"]), true),
        (usual(), "groups", json!("/vip"), true),
        (usual(), "groups", json!(["/staff", "/vip"]), true),
        (usual(), "groups", json!([7, null, "vip", {}]), true),
        (usual(), "groups", json!(null), false),
        (usual(), "groups", json!(7), false),
        (usual(), "groups", json!({"vip": true}), false),
        (usual(), "groups", json!([["vip"]]), false),
        (usual(), "groups", json!("VIP"), false),
        (usual(), "groups", json!("vip,staff"), false),
        (usual(), "groups", json!("/vip/gold"), false),
        (usual(), "no such claim", json!("vip"), false),
        (roles(), "realm_access", json!({"roles": ["vip"]}), true),
        (roles(), "realm_access.roles", json!("vip"), true),
        (roles(), "realm_access", json!(["vip"]), false),
        (roles(), "groups", json!("vip"), false),
    ] {
        let verifier = Verifier::new(&args).unwrap();
        let token = token(&with(claim, groups.clone()));
        let (_, found) = verifier.identify(&token).await.unwrap();
        let has = found.have(&"vip".parse().unwrap());
        assert_eq!(has, Some(is_member), "{claim} {groups}");
    }
}

proptest::proptest! {
    #[test]
    fn text_without_a_valid_signature_is_refused(text in ".{0,300}", at in 0_usize..200, byte in proptest::prelude::any::<u8>()) {
        let user = |text: &str| {
            let args = settings(&[]);
            futures_util::FutureExt::now_or_never(user(&args, text)).unwrap()
        };
        proptest::prop_assert!(user(&text).is_err());
        // Change one byte of a valid token before its signature, whose last character may have
        // unused bits.
        let good = token(&good());
        let mut changed = good.clone().into_bytes();
        let at = at % changed.len();
        changed[at] = byte;
        if let Ok(changed) = String::from_utf8(changed)
            && changed.trim_end_matches(|c| c != '.') != good.trim_end_matches(|c| c != '.')
        {
            proptest::prop_assert!(user(&changed).is_err(), "{}", changed);
        }
    }
}
