//! Authentication: keys of an issuer that rotate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{AUDIENCE, ISSUER, ServeWorld, claims, open, until};

#[tokio::test]
async fn start_up_waits_for_keys_and_known_keys_survive_an_outage() {
    let world = ServeWorld::new().await;
    let [key, new] = ["key", "new"].map(IssuerKey::new);
    let issuer = Issuer::start().await;
    let jwt = of_issuer(&world).with("jwt-jwks-url", &issuer.url);
    let refused = jwt
        .with("startup-wait-seconds", 0)
        .try_api()
        .await
        .map(|_| ())
        .unwrap_err();
    let refused = format!("{refused:#}");
    assert!(
        refused.contains("JWT_JWKS_URL at 127.0.0.1") && refused.contains("it answered 503"),
        "{refused}"
    );
    let starting = tokio::spawn(async move { jwt.api().await });
    let asked = issuer.asked();
    until("the API asks again", async || issuer.asked() > asked + 1).await;
    issuer.says(Some(set_of(&[&key])));
    let api = starting.await.unwrap();

    let (id, _) = api.make(open(9)).await;
    let path = format!("/v1/coupons/{id}/claims");
    let ask = async |token: String| {
        api.ask(Method::POST, &path, &[("authorization", &token)], "")
            .await
    };
    assert_eq!(ask(key.bearer("u-1")).await.code(), (202, "accepted"));
    issuer.says(None);
    let unknown = ask(new.bearer("u-2")).await;
    assert_eq!(
        unknown.code(),
        (503, "unavailable"),
        "the issuer may have a new key: {unknown:?}"
    );
    assert!(unknown.headers.contains_key("retry-after"));
    ask(key.bearer("u-3")).await.is(202, "accepted"); // known keys stay valid
    until("/readyz reports the outage", async || {
        let ready = api.get("/readyz").await;
        assert_eq!(ready.status, 200);
        ready.json["notes"]["jwt_keys"]
            .as_str()
            .unwrap()
            .contains("it answered 503")
    })
    .await;
    assert!(api.metric("firstcome_jwt_keys_up").await < 1.0);
    issuer.says(Some(set_of(&[&key, &new])));
    until("the new key is accepted", async || {
        ask(new.bearer("u-2")).await.code() == (202, "accepted")
    })
    .await;
    assert_eq!(api.get("/readyz").await.json["notes"]["jwt_keys"], "ok");
}

fn of_issuer(world: &ServeWorld) -> ServeWorld {
    let jwt = world
        .with("user-auth", "jwt")
        .with("jwt-algorithm", "ES256");
    // Also limits the pause until an unreachable issuer is asked again.
    let jwt = jwt.with("jwt-jwks-refresh-seconds", 5);
    jwt.with("jwt-issuer", ISSUER)
        .with("jwt-audience", AUDIENCE)
}

/// A local issuer that answers with its keys, or 503.
#[derive(Clone)]
struct Issuer {
    url: String,
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let issuer = Self {
            url,
            set: Arc::default(),
            asked: Arc::default(),
        };
        let this = issuer.clone();
        let keys = get(async move || {
            this.asked.fetch_add(1, Ordering::Relaxed);
            this.set
                .lock()
                .clone()
                .ok_or(StatusCode::SERVICE_UNAVAILABLE)
        });
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/keys", keys)).await },
        );
        issuer
    }

    fn says(&self, set: Option<String>) {
        *self.set.lock() = set;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn set_of(keys: &[&IssuerKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
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
        let mut jwk =
            serde_json::to_value(Jwk::from_decoding_key(&key, Some(Algorithm::ES256)).unwrap())
                .unwrap();
        jwk["kid"] = self.name.into();
        jwk
    }

    fn bearer(&self, user: &str) -> String {
        let header = Header {
            kid: Some(self.name.to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        let key = EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()).unwrap();
        format!(
            "Bearer {}",
            encode(&header, &claims(user, &json!({})), &key).unwrap()
        )
    }
}
