//! Authentication: keys of an issuer that rotate, and that cannot be read.

use firstcome_stack::tokens::IssuerKey;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{AUDIENCE, ISSUER, ServeWorld, claims, open, until};

#[tokio::test]
async fn new_keys_are_accepted_and_known_ones_stay_valid_while_none_can_be_read() {
    let world = ServeWorld::new().await;
    let [old, new, third] = ["old", "new", "third"].map(issuer_key);
    let file = tempfile::NamedTempFile::new().unwrap();
    let publish = |keys: &[&IssuerKey]| {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        std::fs::write(file.path(), json!({"keys": keys}).to_string()).unwrap();
    };
    let jwt = world
        .with("user-auth", "jwt")
        .with("jwt-algorithm", "ES256")
        .with("jwt-jwks-url", format!("file://{}", file.path().display()))
        .with("jwt-issuer", ISSUER)
        .with("jwt-audience", AUDIENCE);
    publish(&[]);
    let refused = format!("{:#}", jwt.try_api().await.map(|_| ()).unwrap_err());
    assert!(
        refused.contains("JWT_JWKS_URL") && refused.contains("no key that can be used for ES256"),
        "{refused}"
    );

    publish(&[&old]);
    let api = jwt.api().await;
    let (id, _) = api.make(open(9)).await;
    let path = format!("/v1/coupons/{id}/claims");
    let ask = async |token: String| {
        api.ask(Method::POST, &path, &[("authorization", &token)], "")
            .await
    };
    ask(bearer(&old, "u-1")).await.is(202, "accepted");
    publish(&[&old, &new]);
    ask(bearer(&new, "u-2")).await.is(202, "accepted");
    ask(bearer(&old, "u-1")).await.is(200, "already_claimed");
    let foreign = issuer_key("new");
    ask(bearer(&foreign, "u-3")).await.is(401, "unauthorized");
    assert_eq!(api.get("/readyz").await.json["notes"]["jwt_keys"], "ok");

    // The file is being written. The next token that names an unknown key reads it, at the earliest
    // ten seconds after the last such read.
    std::fs::write(file.path(), "{\"keys\": [").unwrap();
    until("the file is read", async || {
        ask(bearer(&third, "u-4")).await.code() == (503, "unavailable")
    })
    .await;
    ask(bearer(&old, "u-3")).await.is(202, "accepted");
    let ready = api.get("/readyz").await;
    let note = ready.json["notes"]["jwt_keys"].as_str().unwrap();
    assert!(ready.status == 200 && note.contains("no JWK Set"), "{note}");
    assert!(api.metric("firstcome_jwt_keys_up").await < 1.0);
}

fn issuer_key(name: &'static str) -> IssuerKey {
    IssuerKey::new(name).unwrap()
}

fn bearer(key: &IssuerKey, user: &str) -> String {
    format!("Bearer {}", key.token(&claims(user, &json!({}))).unwrap())
}
