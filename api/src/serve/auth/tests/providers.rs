//! Tokens as providers make them, in `providers.json`: claims from their documentation and from
//! public bug reports, signed here by a test key.

use std::collections::HashMap;

use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};

use super::jwt::Verifier;
use super::jwt::tests::{settings, token};

#[derive(Deserialize)]
struct Case {
    provider: String,
    settings: Vec<String>,
    claims: Value,
    user: String,
    /// Whether the user is a member of these groups, if that is known.
    groups: HashMap<String, Option<bool>>,
}

#[tokio::test]
async fn tokens_of_providers_name_their_users_and_groups() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("providers.json")).unwrap();
    for case in cases {
        let given: Vec<&str> = case.settings.iter().map(String::as_str).collect();
        let args = settings(&given);
        let mut claims = case.claims;
        claims["iss"] = args.jwt_issuer.clone().into();
        claims["exp"] = (Utc::now().timestamp() + 300).into();
        let verifier = Verifier::new(&args).unwrap();
        let found = verifier.identify(&token(&claims)).await;
        let (user, groups) = found.unwrap_or_else(|why| panic!("{}: {why:?}", case.provider));
        assert_eq!(user.as_str(), case.user, "{}", case.provider);
        for (group, is_member) in case.groups {
            let has = groups.have(&group.parse().unwrap());
            assert_eq!(has, is_member, "{}: {group}", case.provider);
        }
    }
}

#[tokio::test]
async fn refusal_of_a_token_without_audience_names_the_claims_that_it_has() {
    let exp = Utc::now().timestamp() + 300;
    let claims = json!({"iss": "shop", "sub": "u-1", "client_id": "6l0cl3nt1d", "exp": exp});
    let verifier = Verifier::new(&settings(&[])).unwrap();
    let refused = verifier.identify(&token(&claims)).await.err().unwrap();
    assert!(format!("{refused:?}").contains("client_id"), "{refused:?}");
}
