//! Authentication: keys of an issuer that rotate, and that cannot be read.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{AUDIENCE, ISSUER, ServeWorld, claims, open, until};

#[tokio::test]
async fn new_keys_are_accepted_and_known_ones_stay_valid_while_none_can_be_read() {
    let world = ServeWorld::new().await;
    let [old, new, third] = ["old", "new", "third"].map(IssuerKey::new);
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
    ask(old.bearer("u-1")).await.is(202, "accepted");
    publish(&[&old, &new]);
    ask(new.bearer("u-2")).await.is(202, "accepted");
    ask(old.bearer("u-1")).await.is(200, "already_claimed");
    let foreign = IssuerKey::new("new");
    ask(foreign.bearer("u-3")).await.is(401, "unauthorized");
    assert_eq!(api.get("/readyz").await.json["notes"]["jwt_keys"], "ok");

    // The file is being written. The next token that names an unknown key reads it, at the earliest
    // ten seconds after the last such read.
    std::fs::write(file.path(), "{\"keys\": [").unwrap();
    until("the file is read", async || {
        ask(third.bearer("u-4")).await.code() == (503, "unavailable")
    })
    .await;
    ask(old.bearer("u-3")).await.is(202, "accepted");
    let ready = api.get("/readyz").await;
    let note = ready.json["notes"]["jwt_keys"].as_str().unwrap();
    assert!(ready.status == 200 && note.contains("no JWK Set"), "{note}");
    assert!(api.metric("firstcome_jwt_keys_up").await < 1.0);
}

struct IssuerKey {
    name: &'static str,
    pair: KeyPair,
}

impl IssuerKey {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        }
    }

    fn jwk(&self) -> Value {
        let key = DecodingKey::from_ec_pem(self.pair.public_key_pem().as_bytes()).unwrap();
        let jwk = Jwk::from_decoding_key(&key, Some(Algorithm::ES256)).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = self.name.into();
        jwk
    }

    fn bearer(&self, user: &str) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.name.to_owned());
        let key = EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()).unwrap();
        let token = encode(&header, &claims(user, &json!({})), &key).unwrap();
        format!("Bearer {token}")
    }
}
