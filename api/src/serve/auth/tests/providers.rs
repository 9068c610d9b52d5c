//! Tokens as providers make them (claims from their documentation and from public bug reports),
//! signed by a test key.

use std::sync::Arc;

use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::jwt::{Groups, JwtArgs, Verifier};
use super::problem::TokenRefused;

const SECRET: &str = "a secret of more than thirty-two bytes";

struct Issuer<'a>(&'a str);

/// Settings of `JWT_ISSUER` and `JWT_AUDIENCE`.
fn settings(Issuer(issuer): Issuer<'_>, audience: &str) -> JwtArgs {
    JwtArgs {
        jwt_algorithm: Some(Algorithm::HS256),
        jwt_secret: Some(SECRET.into()),
        jwt_issuer: Some(issuer.into()),
        jwt_audience: Some(audience.into()),
        ..JwtArgs::default()
    }
}

fn identify(args: &JwtArgs, mut claims: Value) -> Result<(String, Groups), TokenRefused> {
    claims["iat"] = Utc::now().timestamp().into();
    claims["exp"] = (Utc::now().timestamp() + 300).into();
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    let verifier = Arc::new(Verifier::new(args).unwrap());
    let (user, groups) = verifier.identify(&token)?;
    Ok((user.to_string(), groups))
}

/// Asserts that the token is accepted, and returns the answers for these groups.
fn accepts<const N: usize>(
    args: &JwtArgs,
    claims: Value,
    user: &str,
    groups: [&str; N],
) -> [Option<bool>; N] {
    let (found, named) = identify(args, claims).unwrap();
    assert_eq!(found, user);
    groups.map(|group| named.have(&group.parse().unwrap()))
}

#[test]
fn keycloak_with_a_federated_user_group_paths_and_realm_roles() {
    let id = "f:6d8a1f0e-3c1b-4f8e-9d3a-1b2c3d4e5f60:firstname.lastname@subsidiary.example.co.kr";
    let claims = json!({
        "iss": "https://id.example.com/realms/shop", "aud": "account", "sub": id, "typ": "Bearer", "azp": "web",
        "realm_access": {"roles": ["offline_access", "vip"]},
        "resource_access": {"my.app": {"roles": ["buyer"]}, "account": {"roles": ["view-profile"]}},
        "groups": ["/vip", "/Engineering/Backend"], "scope": "openid profile", "preferred_username": "first"
    });
    let args = settings(Issuer("https://id.example.com/realms/shop"), "account");
    let groups = ["vip", "/vip", "Engineering/Backend", "Backend", "staff"];
    assert_eq!(
        accepts(&args, claims.clone(), id, groups),
        [true, true, true, false, false].map(Some)
    );
    let of_client = JwtArgs {
        jwt_audience: Some("web".into()),
        jwt_audience_claim: Some("azp".into()),
        jwt_groups_claim: Some("realm_access.roles".into()),
        ..args.clone()
    };
    assert_eq!(
        accepts(&of_client, claims.clone(), id, ["vip", "buyer"]),
        [Some(true), Some(false)]
    );
    let roles_of_client = JwtArgs {
        jwt_groups_claim: Some("resource_access.account.roles".into()),
        ..args
    };
    assert_eq!(
        accepts(&roles_of_client, claims, id, ["view-profile"]),
        [Some(true)]
    );
}

#[test]
fn cognito_access_token_has_no_audience() {
    let issuer = "https://cognito-idp.ap-northeast-2.amazonaws.com/ap-northeast-2_Ab1Cd2Ef3";
    let user = "b4f8f4b8-10c1-70a5-6b1e-3c1f0c2d9e11";
    let claims = json!({
        "sub": user, "cognito:groups": ["vip"], "iss": issuer, "version": 2, "client_id": "6l0cl3nt1d",
        "token_use": "access", "scope": "aws.cognito.signin.user.admin", "username": user
    });
    let args = settings(Issuer(issuer), "6l0cl3nt1d");
    let refused = identify(&args, claims.clone()).err().unwrap();
    assert!(
        format!("{refused:?}").contains("client_id"),
        "the log names the claims that the token has: {refused:?}"
    );
    let args = JwtArgs {
        jwt_audience_claim: Some("client_id".into()),
        jwt_groups_claim: Some("cognito:groups".into()),
        ..args
    };
    assert_eq!(accepts(&args, claims, user, ["vip"]), [Some(true)]);
}

#[test]
fn auth0_with_two_audiences_and_a_namespaced_claim() {
    let claims = json!({
        "iss": "https://tenant.eu.auth0.com/", "sub": "auth0|64f1c0ffee64f1c0ffee64f1", "azp": "AbCd",
        "aud": ["https://coupons.example.com", "https://tenant.eu.auth0.com/userinfo"],
        "scope": "openid", "permissions": ["read:coupons"], "https://example.com/roles": ["vip"]
    });
    let args = JwtArgs {
        jwt_groups_claim: Some("https://example.com/roles".into()),
        ..settings(
            Issuer("https://tenant.eu.auth0.com/"),
            "https://coupons.example.com",
        )
    };
    assert_eq!(
        accepts(&args, claims, "auth0|64f1c0ffee64f1c0ffee64f1", ["vip"]),
        [Some(true)]
    );
}

#[test]
fn firebase_with_a_custom_user_id_of_128_characters() {
    let user = "u".repeat(128);
    let claims = json!({
        "iss": "https://securetoken.google.com/shop-1", "aud": "shop-1", "auth_time": 1_764_000_000, "sub": user,
        "user_id": user, "firebase": {"identities": {}, "sign_in_provider": "custom"}, "groups": "vip"
    });
    let args = settings(Issuer("https://securetoken.google.com/shop-1"), "shop-1");
    assert_eq!(accepts(&args, claims, &user, ["vip"]), [Some(true)]);
}

#[test]
fn entra_and_adfs_with_base64_subjects_and_groups_left_out() {
    let issuer = "https://login.microsoftonline.com/8c1f2a3b-0000-4000-8000-000000000000/v2.0";
    let user = "mR2fY/3kQ+8hXwVvT1b0cN9sLz5uJp7eGdAoIiKyHhE=";
    let claims = json!({
        "iss": issuer, "aud": "api-client", "sub": user, "oid": "0a1b2c3d-0000-4000-8000-000000000001", "ver": "2.0",
        "tid": "8c1f2a3b-0000-4000-8000-000000000000", "roles": ["vip"], "_claim_names": {"groups": "src1"},
        "_claim_sources": {"src1": {"endpoint": "https://graph.example.com/getMemberObjects"}}
    });
    let args = settings(Issuer(issuer), "api-client");
    let unknown = accepts(&args, claims.clone(), user, ["vip"]);
    assert_eq!(unknown, [None], "more groups than Entra puts into a token");
    let args = JwtArgs {
        jwt_user_claim: Some("oid".into()),
        jwt_groups_claim: Some("roles".into()),
        ..args
    };
    let user = "0a1b2c3d-0000-4000-8000-000000000001";
    assert_eq!(accepts(&args, claims, user, ["vip"]), [Some(true)]);
}

#[test]
fn kakao_id_token() {
    let claims = json!({
        "aud": "f0e1d2c3b4a5968778695a4b3c2d1e0f", "sub": "3141592653", "auth_time": 1_764_000_000,
        "iss": "https://kauth.kakao.com", "nickname": "김하나"
    });
    let args = settings(
        Issuer("https://kauth.kakao.com"),
        "f0e1d2c3b4a5968778695a4b3c2d1e0f",
    );
    assert_eq!(accepts(&args, claims, "3141592653", ["vip"]), [Some(false)]);
}

#[test]
fn clerk_session_token_has_only_the_authorized_party() {
    let claims = json!({
        "azp": "https://shop.example.com", "iss": "https://clerk.shop.example.com", "sid": "sess_2a",
        "sub": "user_2NNEqL2nrIRdJ194ndJqAHwEfxC", "v": 2, "o": {"id": "org_1", "rol": "vip"}
    });
    let args = JwtArgs {
        jwt_audience_claim: Some("azp".into()),
        jwt_groups_claim: Some("o.rol".into()),
        ..settings(
            Issuer("https://clerk.shop.example.com"),
            "https://shop.example.com",
        )
    };
    let user = "user_2NNEqL2nrIRdJ194ndJqAHwEfxC";
    assert_eq!(accepts(&args, claims, user, ["vip"]), [Some(true)]);
}

#[test]
fn laravel_and_simple_jwt_with_numbered_users() {
    let args = settings(Issuer("https://shop.example.com/api/login"), "coupons");
    let laravel = json!({
        "iss": "https://shop.example.com/api/login", "aud": "coupons", "sub": 42, "jti": "Yh3b",
        "prv": "23bd5c8949f600adb39e701c400872db7a5976f7"
    });
    accepts(&args, laravel, "42", []);
    let django = json!({
        "iss": "https://shop.example.com/api/login", "aud": "coupons", "token_type": "access", "user_id": 1_234_567
    });
    let args = JwtArgs {
        jwt_user_claim: Some("user_id".into()),
        ..args
    };
    accepts(&args, django, "1234567", []);
}
